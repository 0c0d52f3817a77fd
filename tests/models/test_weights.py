"""Weights files: what is read, what is refused, and in which words."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from camcli.errors import ModelError, UsageError
from camcli.models.eager import EagerNetwork
from camcli.models.loaded import LoadedModel
from camcli.models.opening import open_model
from camcli.models.torchvision import build

SAVE_THE_WEIGHTS = "torch.save(model.state_dict(), FILE)"
CHOOSE = "choose the architecture the weights were saved from with --model or --arch"


def opened(weights: str | Path, name: str = "resnet18") -> LoadedModel:
    return open_model(name, weights=str(weights), device="cpu")


def module_of(model: LoadedModel) -> nn.Module:
    assert isinstance(model.network, EagerNetwork)
    return model.network.module.eval()


def logits(model: LoadedModel, x: Tensor) -> Tensor:
    with model.network.prepared(), torch.no_grad():
        return model.logits(x)


def noise(size: int = 64) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))


def trained(classes: int) -> nn.Module:
    """A ResNet-18 that no seed of ours gives."""
    module = build("resnet18", classes)
    with torch.no_grad():
        module.fc.bias.copy_(torch.arange(classes) + 1.0)
    return module.eval()


@pytest.fixture
def file(tmp_path: Path) -> Callable[[object], Path]:
    """Saves anything as torch does."""

    def save(content: object) -> Path:
        path = tmp_path / "weights.pth"
        torch.save(content, path)
        return path

    return save


@pytest.mark.parametrize("classes", [1000, 7])
def test_the_head_takes_its_size_from_the_file(file, classes: int) -> None:
    module = trained(classes)
    path = file(module.state_dict())
    model = opened(path)
    with torch.no_grad():
        assert torch.equal(logits(model, noise()), module(noise()))
    assert model.classes.count == classes
    assert model.activation == "softmax"
    assert (model.weights, model.weights_sha256) == (
        str(path),
        hashlib.sha256(path.read_bytes()).hexdigest(),
    )


def test_a_thousand_classes_are_taken_for_imagenets_and_seven_have_no_names(file) -> None:
    thousand = opened(file(trained(1000).state_dict()))
    assert thousand.labels == "imagenet1k (assumed for 1,000 classes)"
    assert thousand.classes.label(207) == "golden retriever"
    seven = opened(file(trained(7).state_dict()))
    assert (seven.labels, seven.classes.labels) == ("none", None)


def test_one_output_is_a_choice_between_two_classes(file) -> None:
    module = trained(1)
    model = opened(file(module.state_dict()))
    with torch.no_grad():
        z = module(noise())
    pair = logits(model, noise())
    assert model.classes.count == 2
    assert torch.equal(pair, torch.cat([-z, z], dim=1))
    assert torch.equal(model.probabilities(pair), torch.cat([(-z).sigmoid(), z.sigmoid()], dim=1))


@pytest.mark.parametrize(
    ("name", "auxiliary", "size"),
    [("googlenet", {"aux1", "aux2"}, 64), ("inception_v3", {"AuxLogits"}, 96)],
)
def test_auxiliary_classifiers_in_a_file_are_left_out(file, name, auxiliary, size) -> None:
    """Published files carry them, and are made for inputs that the network transforms."""
    options = {"aux_logits": True, "init_weights": False, "transform_input": True}
    module = models.get_model_builder(name)(weights=None, num_classes=7, **options).eval()
    assert auxiliary <= {key.split(".")[0] for key in module.state_dict()}
    model = opened(file(module.state_dict()), name)
    assert not auxiliary & {key.split(".")[0] for key in module_of(model).state_dict()}
    assert model.classes.count == 7
    with torch.no_grad():
        assert torch.equal(logits(model, noise(size)), module(noise(size)))


def test_a_file_that_does_not_fit_is_told_by_counts_and_first_names(file) -> None:
    state = trained(7).state_dict()
    del state["conv1.weight"], state["layer4.1.bn2.bias"]
    state |= {"head.scale": torch.ones(1), "bn1.weight": torch.ones(3)}
    path = file(state)
    with pytest.raises(ModelError) as caught:
        opened(path)
    assert str(caught.value) == (
        f"{path} does not fit resnet18: 2 missing (first: conv1.weight, layer4.1.bn2.bias), "
        "1 unknown (first: head.scale), "
        f"1 of another shape (first: bn1.weight is (3,), not (64,)); {CHOOSE}"
    )


def test_a_file_without_a_classifier_says_which_names_it_was_sought_under(file) -> None:
    path = file(models.vgg11(num_classes=2, init_weights=False).features.state_dict())
    with pytest.raises(ModelError) as caught:
        opened(path)
    assert str(caught.value) == (
        f"{path} does not fit resnet18: it has no classifier under the names "
        f"['fc.weight', 'fc.bias']; {CHOOSE}"
    )


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.folder),)


def test_nothing_in_a_pickled_model_is_executed(file, tmp_path: Path) -> None:
    crater = tmp_path / "crater"
    path = file({"conv1.weight": Bomb(crater)})
    with pytest.raises(ModelError) as caught:
        opened(path)
    assert not crater.exists()
    assert str(caught.value).startswith(f"'{path}' is a whole pickled model or not a weights file")
    assert str(caught.value).endswith(SAVE_THE_WEIGHTS)
    torch.load(path, weights_only=False)  # the bomb was live
    assert crater.exists()


def test_a_whole_model_is_refused_by_the_name_of_its_class(file) -> None:
    with pytest.raises(ModelError, match=r"it names torchvision\.models\.resnet\.ResNet"):
        opened(file(build("resnet18", 2)))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"epoch": 3, "state_dict": {}}, "is not a plain state dict (its entries: epoch, state_d"),
        ([torch.ones(1)], "holds a list, not a state dict"),
        ({}, "holds a dict, not a state dict"),
    ],
)
def test_a_file_of_something_else_says_what_it_holds(file, content, says) -> None:
    path = file(content)
    with pytest.raises(ModelError, match=re.escape(f"'{path}' {says}")):
        opened(path)


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_a_torchscript_file_is_no_weights_file(tmp_path: Path) -> None:
    path = tmp_path / "scripted.pt"
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)), path)
    with pytest.raises(ModelError, match=f"'{path}' is not a weights file .*TorchScript"):
        opened(path)


@pytest.mark.parametrize("kept", [0, 1, 1000, 0.5, 0.999])
def test_a_truncated_file_is_one_sentence(file, kept: float) -> None:
    path = file(trained(2).state_dict())
    whole = path.read_bytes()
    path.write_bytes(whole[: kept if isinstance(kept, int) else int(kept * len(whole))])
    with pytest.raises(ModelError) as caught:
        opened(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_is_no_weights_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is not a regular file"):
        opened(tmp_path)


def test_weights_that_are_neither_a_file_nor_an_entry_list_the_entries() -> None:
    with pytest.raises(UsageError) as caught:
        opened("NOPE", "resnet50")
    assert str(caught.value) == (
        "--weights NOPE is neither a file nor one of DEFAULT, none, IMAGENET1K_V1, IMAGENET1K_V2"
    )


def test_random_weights_are_the_same_whatever_the_seed_and_leave_it_alone() -> None:
    states, draws = [], []
    for seed in (1, 2):
        torch.manual_seed(seed)
        states.append(module_of(opened("none")).state_dict())
        draws.append(torch.rand(3))
        torch.manual_seed(seed)
        assert torch.equal(torch.rand(3), draws[-1])
    torch.testing.assert_close(states[0], states[1], rtol=0, atol=0)


def test_random_weights_say_so_and_name_no_class() -> None:
    model = opened("none")
    assert (model.weights, model.weights_sha256) == ("none (random, seed 0)", None)
    assert model.labels == "none"


def test_the_built_in_model_takes_no_other_weights() -> None:
    with pytest.raises(UsageError, match="--weights none: efficientnet_lite0 comes with its own"):
        opened("none", "efficientnet_lite0")


@pytest.mark.parametrize(
    ("name", "meant"),
    [("resnet5", "resnet50"), ("efficientnet_lite", "efficientnet_lite0"), ("vgg_16", "vgg16")],
)
def test_an_unknown_model_gets_a_suggestion(name: str, meant: str) -> None:
    with pytest.raises(UsageError) as caught:
        opened("none", name)
    assert str(caught.value) == (
        f"no model '{name}'; did you mean '{meant}'? List them: camcli models"
    )


@pytest.mark.parametrize("weights", ["DEFAULT", "IMAGENET1K_V1"])
def test_an_entry_is_read_from_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: str
) -> None:
    """The file is put where a download would have put it; nothing else could provide it."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    path = tmp_path / "checkpoints" / "resnet18-f37072fd.pth"
    path.parent.mkdir()
    module = trained(1000)
    torch.save(module.state_dict(), path)
    model = opened(weights)
    with torch.no_grad():
        assert torch.equal(logits(model, noise()), module(noise()))
    assert model.weights == model.labels == "ResNet18_Weights.IMAGENET1K_V1"
    assert model.weights_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
