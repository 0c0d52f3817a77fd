"""What a method cannot be used on is one sentence and exit status 2, before any picture is read."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.models.vision_transformer import VisionTransformer

from camcli.models.loaded import LoadedModel
from tests.conftest import as_model, live_in

CLASSES = 10
RESNET = ["--model", "resnet18", "--weights", "none", "--size", "64"]


@pytest.fixture
def unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A picture that must not be opened: doing so fails the test."""

    def opened(*arguments: object, **options: object) -> None:
        pytest.fail("a picture was read")

    monkeypatch.setattr("camcli.run.decode", opened)
    path = tmp_path / "in" / "a.jpg"
    path.parent.mkdir()
    path.write_bytes(b"no picture")
    return path


@pytest.fixture
def refused(cli: Callable, unread: Path) -> Callable[..., str]:
    """The one line that a command is refused with; nothing is left behind that a run left."""

    def run(*options: object, status: int = 2) -> str:
        out = unread.parent.parent / "out"
        done = cli("explain", unread, "-o", out, *options)
        assert (done.status, done.stdout) == (status, ""), done.stderr
        assert re.fullmatch(r"camcli: [^\n]+\n", done.stderr), done.stderr
        assert {path.name for path in out.rglob("*")} <= {".camcli.lock"}
        return done.stderr.removeprefix("camcli: ").rstrip("\n")

    return run


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Callable[[nn.Module], None]:
    """The command line explains this network, whatever --model says."""

    def use(module: nn.Module) -> None:
        model: LoadedModel = as_model(live_in(module), CLASSES)
        monkeypatch.setattr("camcli.models.opening.open_request", lambda *_, **__: model)

    torch.manual_seed(0)
    return use


def network(*body: nn.Module, channels: int = 8) -> nn.Module:
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, CLASSES)]
    return nn.Sequential(nn.Conv2d(3, 8, 8, 8), *body, *head)


def test_a_picture_would_be_read_if_nothing_were_wrong(cli: Callable, unread: Path, small) -> None:
    """The other tests of this file rest on it."""
    small(network(nn.ReLU()))
    with pytest.raises(pytest.fail.Exception, match="a picture was read"):
        cli("explain", unread, "-o", unread.parent / "out")


@pytest.mark.parametrize(
    ("name", "meant"),
    [("hirescan", "hirescam"), ("gradcma", "gradcam"), ("score-cams", "scorecam"),
     ("all-gradients", "all-gradient")],
)  # fmt: skip
def test_a_method_that_does_not_exist(refused, name: str, meant: str) -> None:
    assert refused("-m", f"hirescam,{name}") == (
        f"no method '{name}'; did you mean '{meant}'? List them: camcli methods"
    )


def test_a_method_like_no_other(refused) -> None:
    assert refused("-m", "xyzzy") == "no method 'xyzzy'. List them: camcli methods"


def test_attention_of_a_network_that_has_none(refused) -> None:
    assert refused("-m", "legrad", *RESNET) == (
        "legrad needs a transformer whose blocks attend over all places, which resnet18 is not; "
        "use hirescam"
    )


@pytest.mark.parametrize(
    ("options", "layer", "model"),
    [
        ([*RESNET, "--layer", "layer3"], "layer3", "resnet18"),
        (["--model", "alexnet", "--weights", "none"], "features.11", "alexnet"),
    ],
    ids=["an early layer", "no pooling"],
)
def test_cam_without_pooling_and_one_linear_layer(refused, options, layer, model) -> None:
    assert refused("-m", "cam", *options) == (
        f"cam needs global average pooling and one linear layer after '{layer}', which {model} has "
        "not; use gradcam or hirescam"
    )


def transformer() -> nn.Module:
    return VisionTransformer(
        image_size=64, patch_size=16, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32,
        num_classes=CLASSES,
    )  # fmt: skip


def test_cam_of_a_transformer(refused, small) -> None:
    small(transformer())
    layer = "encoder.layers.encoder_layer_1.ln_1"
    assert refused("-m", "cam") == (
        f"cam needs global average pooling and one linear layer after '{layer}', which small has "
        "not; use gradcam or hirescam"
    )


@pytest.mark.parametrize("name", ["guided_backprop", "deconvnet", "guided_gradcam"])
def test_rules_for_relus_of_a_network_that_has_none(refused, small, name: str) -> None:
    small(network(nn.GELU()))
    assert refused("-m", name) == (
        "small has no ReLU, which guided backpropagation and deconvnet are rules for; use "
        "gradient_x_input"
    )


def test_kernels_of_too_many_places(refused) -> None:
    options = ["--model", "resnet18", "--weights", "none", "--size", "160", "--layer", "relu"]
    assert refused("-m", "kpcacam", *options) == (
        "kpcacam compares all pairs of places: a layer of 80x80 has more than 4,096; choose a "
        "later --layer"
    )


def test_a_layer_that_the_score_does_not_depend_on(refused, small) -> None:
    small(transformer())
    assert refused("--layer", "encoder.ln") == (
        "the score of small does not depend on the places of 'encoder' (their gradient is zero); "
        "use --layer encoder.layers.encoder_layer_1.ln_1"
    )


def test_a_layer_that_does_not_exist(refused) -> None:
    assert refused("--layer", "layer5", *RESNET) == (
        "no layer 'layer5' in resnet18; did you mean 'layer4'? List them: camcli layers resnet18"
    )


@pytest.mark.parametrize("name", ["scorecam", "eigencam", "shapleycam", "cam", "gradient_x_input"])
def test_smoothing_of_what_takes_more_than_a_gradient(refused, name: str) -> None:
    assert refused("-m", f"hirescam,{name}", "--smooth", "flip,scale") == (
        f"--smooth flip,scale is for methods of one gradient, which {name} is not; leave it away, "
        "or see camcli methods"
    )


def test_a_smoothing_that_does_not_exist(refused) -> None:
    assert refused("--smooth", "flop") == (
        "--smooth must be one of flip, scale, eigen, not 'flop'; did you mean 'flip'?"
    )


@pytest.mark.parametrize("name", ["layercam_fusion", "refinecam", "winsorcam"])
def test_fusing_the_layers_of_a_network_of_one_size(refused, small, name: str) -> None:
    small(network(nn.ReLU(), nn.Conv2d(8, 8, 1), nn.ReLU()))
    assert refused("-m", f"hirescam,{name}") == (
        f"{name} fuses several layers, and small has maps of one size only up to '3'; name layers "
        "with --layer"
    )


def test_fusing_the_first_layer_alone(refused) -> None:
    assert refused("-m", "layercam_fusion", "--layer", "conv1", *RESNET) == (
        "layercam_fusion fuses several layers, and resnet18 has maps of one size only up to "
        "'conv1'; name layers with --layer"
    )


def test_a_head_of_zeros_is_a_fault_of_the_model(refused, tmp_path: Path) -> None:
    from torchvision.models import squeezenet1_1

    state = squeezenet1_1().state_dict()
    state["classifier.1.weight"].zero_()
    torch.save(state, tmp_path / "zero.pth")
    weights = tmp_path / "zero.pth"
    message = refused("--model", "squeezenet1_1", "--weights", weights, "--size", "64", status=1)
    assert message.startswith("the score of squeezenet1_1 (")
    assert message.endswith(
        ") depends on none of its layers: every gradient is zero, as with a classifier whose "
        "weights are zero; load trained weights"
    )


def test_a_class_that_two_classes_are_called(refused) -> None:
    assert refused("--target", "tabby-cardigan") == (
        "class 'cardigan' is ambiguous: give one of the indices [264, 474]"
    )
