"""Methods that need more than one layer's activation and gradient, against replicas and by hand."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.models.vision_transformer import VisionTransformer

from camcli.cam.capture import LayerCapture
from camcli.cam.layers import find_layer
from camcli.cam.smoothing import cam_of
from camcli.engine import Engine
from camcli.models.inspection import input_layer, layers_of
from camcli.models.loaded import LoadedModel, recording
from camcli.models.passes import Pass
from camcli.records import Decoded, Explanation, Target
from camcli.registry import METHODS
from tests.cam import network_golden as golden
from tests.cam.handmade import Array, Case, Convolutional, Transformer
from tests.cam.network_replicas import REPLICAS
from tests.conftest import as_model, live_in, noise_pictures

CLASSES = 5
TARGETS = "1,0-2,-3"
ON_A_LAYER = [name for name in REPLICAS if name not in ("cam", "legrad")]


class BlockMeans(nn.Module):
    """Each map as 2x2 means."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.adaptive_avg_pool2d(x, 2)


@dataclass(frozen=True)
class Twin:
    """A network of the package, and the same written out by hand."""

    model: LoadedModel
    network: Convolutional | Transformer
    layer: str

    def case(self, picture: Decoded, target: Target) -> Case:
        onto = np.zeros(self.model.classes.count)
        if target.index is not None:
            onto[target.index] += 1
        if target.against is not None:
            onto[target.against] -= 1
        view = self.model.inputs([picture.view])[0].double().numpy()
        return Case(self.network, view, onto, int(picture.facts.sha256[:15], 16))


def array(values: Tensor) -> Array:
    return values.detach().double().numpy()


@cache
def convolutional(head: str, channels: int = 6, size: int = 4) -> Twin:
    torch.manual_seed(5)
    body = [nn.Conv2d(3, channels, 1), nn.BatchNorm2d(channels), nn.ReLU(), BlockMeans()]
    if head == "pooled":
        top = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, CLASSES)]
    else:
        bend = nn.Softplus() if head == "softplus" else nn.ReLU(inplace=True)
        linear = nn.Linear(4 * channels, 16), nn.Linear(16, CLASSES)
        top = [nn.Flatten(), linear[0], bend, linear[1]]
    module = live_in(nn.Sequential(*body, *top), size)
    conv, norm, last = module[0], module[1], module[-1]
    first = None if head == "pooled" else module[5]
    network = Convolutional(
        conv=array(conv.weight)[:, :, 0, 0],
        conv_bias=array(conv.bias),
        gamma=array(norm.weight),
        beta=array(norm.bias),
        mean=array(norm.running_mean),
        sigma=np.sqrt(array(norm.running_var) + norm.eps),
        first=None if first is None else array(first.weight),
        first_bias=None if first is None else array(first.bias),
        soft=head == "softplus",
        last=array(last.weight),
        last_bias=array(last.bias),
    )
    return Twin(as_model(module, CLASSES, size), network, "3")


@cache
def transformer() -> Twin:
    torch.manual_seed(6)
    module = VisionTransformer(
        image_size=8, patch_size=4, num_layers=3, num_heads=2, hidden_dim=16, mlp_dim=24,
        num_classes=CLASSES,
    )  # fmt: skip
    live_in(module, 8)
    weights = {name: array(value) for name, value in module.state_dict().items()}
    return Twin(as_model(module, CLASSES, 8), Transformer(weights, patch=4, blocks=3), "auto")


def assert_agrees(twin: Twin, name: str, targets: str = TARGETS) -> None:
    pictures = noise_pictures(twin.model, 3)
    engine = Engine(twin.model, methods=[name], layers=[twin.layer], target=targets, batch_size=4)
    with engine.prepared():
        outcomes = engine.explain(pictures)
    for picture, outcome in zip(pictures, outcomes, strict=True):
        assert isinstance(outcome, Explanation)
        for cam in outcome.cams:
            expected = REPLICAS[name](twin.case(picture, cam.target))
            atol = 1e-4 * float(np.abs(expected).max())
            np.testing.assert_allclose(cam.cam, expected, rtol=1e-4, atol=atol)
    first = [cam.cam for outcome in outcomes for cam in outcome.cams]
    assert any(float(np.ptp(cam)) > 0 for cam in first)


def test_every_such_method_has_a_replica_and_a_case_worked_by_hand() -> None:
    further = {"weights", "hessian", "forwards", "attention", "input"}
    needed = {name for name, method in METHODS.items() if method.needs in further}
    assert set(REPLICAS) == set(golden.MAPS) == needed | {"finercam", "random"}


@pytest.mark.parametrize("name", ON_A_LAYER)
@pytest.mark.parametrize("head", ["relu", "softplus"])
def test_a_method_agrees_with_its_replica(name: str, head: str) -> None:
    assert_agrees(convolutional(head), name)


@pytest.mark.parametrize("name", ["scorecam", "groupcam", "fullgrad", "guided_gradcam"])
def test_a_method_of_the_view_agrees_with_its_replica_on_a_larger_one(name: str) -> None:
    """Enlarging is not by two, the blur has all of its 51 pixels, a group two channels."""
    channels = 40 if name == "groupcam" else 6
    assert_agrees(convolutional("relu", channels, 32), name, "1")


def test_cam_agrees_with_its_replica() -> None:
    assert_agrees(convolutional("pooled"), "cam")


def test_legrad_agrees_with_its_replica() -> None:
    assert_agrees(transformer(), "legrad", "0-2")


@pytest.mark.parametrize("name", REPLICAS)
def test_a_method_gives_the_map_worked_out_by_hand(name: str) -> None:
    target, expected = golden.MAPS[name]
    module = golden.Attentive() if name == "legrad" else golden.convolutional()
    model = as_model(module, 3, 2)
    whole = METHODS[name].scope == "network"
    layer = input_layer(model) if whole else find_layer(layers_of(model), "1", "small")
    with recording(), model.network.prepared():
        run = Pass(model, torch.tensor([golden.VIEW]).float(), [layer], seeds=[0])
        capture = run.captures([Target(target)])[layer]
        (found,) = cam_of(METHODS[name], capture, ())
    # Group-CAM's blur is taken as even there, which its 3 taps are to 1e-4.
    tolerance = 1e-3 if name == "groupcam" else 1e-5
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


def test_smooth_grad_cam_pp_has_no_pole_where_the_third_power_is_negative() -> None:
    """G of the four views is 2, 2, 2, -3 and A is 14: D1 = 3/4, D2 = 21/4, D3 = -3/4, so that
    2 D2 + S D3 is zero. Rectified, alpha is 1/2 and the map 14 * 1/2 * 3/4.
    """
    gradients = iter([2.0, 2.0, 2.0, -3.0])
    further = SimpleNamespace(
        view=torch.zeros(1, 3, 2, 2),
        count=1,
        generator=lambda picture, variant: torch.Generator().manual_seed(variant),
        at=lambda view: SimpleNamespace(gradient=torch.full((1, 1, 1, 1), next(gradients))),
    )
    capture = LayerCapture(torch.full((1, 1, 1, 1), 14.0), torch.zeros(1), torch.zeros(1), further)
    assert float(cam_of(METHODS["smoothgradcampp"], capture, ())) == 5.25
