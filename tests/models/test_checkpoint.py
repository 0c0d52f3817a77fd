"""Files of weights: recognised, unwrapped, filled in, and refused in one sentence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from camcli.errors import ModelError, UsageError
from camcli.models.checkpoint import _layout, _recognised
from camcli.models.loaded import LoadedModel
from camcli.models.opening import open_model
from camcli.models.torchvision import build, builders
from tests.conftest import live_in
from tests.models.test_builders import SMALL
from tests.models.test_files import Bomb

NAME = "squeezenet1_1"


@pytest.fixture(scope="module")
def module() -> nn.Module:
    return live_in(build(NAME, 7))


@pytest.fixture
def file(tmp_path: Path) -> Callable[[object], str]:
    def save(content: object) -> str:
        torch.save(content, tmp_path / "mine.pth")
        return str(tmp_path / "mine.pth")

    return save


def opened(path: str, **more: object) -> LoadedModel:
    return open_model(path, device="cpu", **more)


def same_answers(model: LoadedModel, module: nn.Module) -> bool:
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with model.network.prepared(), torch.no_grad():
        return torch.equal(model.logits(x), module(x))


def prefixed(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in SMALL.split() else pytest.mark.slow)
        for name in builders()
    ],
)
def test_every_architecture_is_told_from_its_names_and_shapes(name: str) -> None:
    """Whatever its head, and with the auxiliary classifiers that published files carry."""
    state = dict(_layout(name))
    assert _recognised(state, Path("x.pth")) == name
    head = [key for key, tensor in state.items() if len(tensor.shape) and len(tensor) == 1000]
    other = {key: torch.empty(7, *state[key].shape[1:], device="meta") for key in head}
    auxiliary = {"aux1.fc2.bias": torch.empty(7, device="meta")} if name == "googlenet" else {}
    assert _recognised(state | other | auxiliary, Path("x.pth")) == name


def test_an_architecture_is_recognised_by_names_and_shapes(file, module) -> None:
    path = file(module.state_dict())
    model = opened(path)
    assert (model.name, model.weights, model.classes.count) == (NAME, path, 7)
    assert same_answers(model, module)
    assert any(f"has the keys of {NAME}" in remark for remark in model.remarks)
    assert any("Pictures are prepared as for" in remark for remark in model.remarks)
    assert model.preprocessing.origin.endswith("(assumed)")


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": prefixed("module.", state)},
        lambda state: {"state_dict": prefixed("model.", state)},
        lambda state: {"n_averaged": torch.ones(1)} | prefixed("module.", state),
        lambda state: prefixed("module._orig_mod.", state),
        lambda state: {"state_dict": prefixed("model._orig_mod.", state), "epoch": 3},
        lambda state: {"net": prefixed("module.", state), "acc": 0.9},
        lambda state: {"model_state": state},
        lambda state: {"module": state, "optimizer": {}},
        lambda state: {
            "model": {name: torch.zeros_like(t) for name, t in state.items()},
            "model_ema": {"module": 1, "state_dict": state},
        },
    ],
    ids=[
        "trainer",
        "parallel",
        "lightning",
        "averaged",
        "compiled",
        "compiled-lightning",
        "net",
        "model-state",
        "deepspeed",
        "ema",
    ],
)
def test_what_training_scripts_wrap_around_weights_is_taken_off(file, module, wrap) -> None:
    assert same_answers(opened(file(wrap(module.state_dict())), arch=NAME), module)


def test_safetensors_are_weights_like_any(tmp_path: Path, module) -> None:
    for name, prefix in (("mine.safetensors", ""), ("mine.bin", "model.")):
        path = tmp_path / name  # what a file is, its bytes say
        save_file(prefixed(prefix, module.state_dict()), path)
        assert same_answers(opened(str(path), arch=NAME), module)


def test_what_does_not_fit_the_architecture_is_listed(file, module) -> None:
    state = module.state_dict() | {"extra.scale": torch.ones(1)}
    del state["features.0.weight"]
    with pytest.raises(ModelError) as caught:
        opened(file(state), arch=NAME)
    assert "1 missing (first: features.0.weight), 1 unknown (first: extra.scale)" in str(
        caught.value
    )


def test_an_unknown_architecture_is_asked_for_and_the_closest_named(file, module) -> None:
    state = module.state_dict() | {"extra.scale": torch.ones(1)}
    with pytest.raises(ModelError) as caught:
        opened(file(state))
    assert "closest: squeezenet1_1 (98% of its tensors)" in str(caught.value)
    assert str(caught.value).endswith("name it with --arch NAME or --arch timm:NAME")
    assert "\n" not in str(caught.value)


def test_an_architecture_of_timm_is_named_with_its_prefix(file) -> None:
    import timm

    module = live_in(timm.create_model("resnet10t", num_classes=3))
    model = opened(file(module.state_dict()), arch="timm:resnet10t")
    assert same_answers(model, module)
    assert model.preprocessing.origin == "timm's configuration of resnet10t"


def test_a_whole_model_is_opened_only_where_it_is_trusted(file, module) -> None:
    path = file(module)
    with pytest.raises(ModelError) as caught:
        opened(path)
    assert "torchvision.models.squeezenet.SqueezeNet" in str(caught.value)
    assert "torch.save(model.state_dict(), FILE)" in str(caught.value)
    assert "--trust-model" in str(caught.value)
    half = (0.5, 0.5, 0.5)
    model = opened(path, trust=True, size=(64, 64), mean=half, std=half)
    assert model.classes.count == 7
    assert same_answers(model, module)


def test_how_pictures_are_prepared_for_a_whole_model_must_be_said(file, module) -> None:
    with pytest.raises(UsageError, match="give --size, --mean, --std as in its training"):
        opened(file(module), trust=True)
    with pytest.raises(UsageError, match="give --mean, --std as in its training"):
        opened(file(module), trust=True, size=(64, 64))


def test_a_harmful_payload_is_not_executed(file, tmp_path: Path) -> None:
    crater = tmp_path / "crater"
    path = file({"features.0.weight": torch.ones(1), "x": Bomb(crater)})
    for arch in (None, NAME):
        with pytest.raises(ModelError, match="mkdir"):
            opened(path, arch=arch)
    assert not crater.exists()
    with pytest.raises(ModelError):
        opened(path, arch=NAME, trust=True)
    assert crater.exists()  # the bomb was live


def test_flags_that_contradict_the_file_are_refused(file, module) -> None:
    path = file(module.state_dict())
    with pytest.raises(UsageError, match="the weights are those of --model"):
        opened(path, weights="none")
    with pytest.raises(UsageError, match="is neither a torchvision model nor timm:NAME"):
        opened(path, arch="no:such")
    with pytest.raises(UsageError, match="--arch resnet18 is for files of weights"):
        open_model(NAME, weights="none", arch="resnet18")


def test_each_logit_may_be_a_class_of_its_own(file, module) -> None:
    model = opened(file(module.state_dict()), arch=NAME, activation="sigmoid")
    logits = torch.tensor([[0.0, 2.0, -1.0, 3.0, 0.0, 0.0, 0.0]])
    torch.testing.assert_close(model.probabilities(logits), logits.sigmoid())
