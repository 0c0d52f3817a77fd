"""pytorch-grad-cam, torchcam and captum as oracles: the same maps, or a stated reason why not.

Where a peer departs from the paper, its map is reproduced by that departure, or agrees once it is
taken away; camcli is held to the replicas of the papers throughout.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (the field's name for it)
from torch import Tensor, nn

from camcli.errors import UsageError
from camcli.models.eager import EagerNetwork
from camcli.models.inspection import input_layer
from camcli.models.loaded import recording
from camcli.models.passes import Pass
from tests.cam.replicas import OF_ONE_LAYER
from tests.peers import libraries
from tests.peers.subjects import METHODS, NETWORKS, Subject, explained, subject

pytestmark = pytest.mark.peers

TOLERANCE = 1e-4
"""Of the map's maximum."""
PYTORCH_GRAD_CAM = {"gradcam": "GradCAM", "hirescam": "HiResCAM", "layercam": "LayerCAM",
                    "xgradcam": "XGradCAM"}  # fmt: skip
TORCHCAM = {"gradcam": "GradCAM", "layercam": "LayerCAM", "xgradcam": "XGradCAM"}
CAPTUM = {"gradcam": "LayerGradCam", "hirescam": "LayerGradientXActivation"}


def gap(one: Tensor, other: Tensor) -> float:
    """The largest difference anywhere, as a part of the other's maximum."""
    return float((one - other).abs().amax() / other.abs().amax())


@pytest.fixture(scope="module", params=NETWORKS)
def network(request: pytest.FixtureRequest, photos: Path) -> Subject:
    return subject(request.param, photos)


@pytest.fixture(scope="module")
def densenet(photos: Path) -> Subject:
    return subject("densenet121", photos)


@pytest.fixture(scope="module")
def built_in(photos: Path) -> Subject:
    return subject("built-in", photos)


class _DenseNet(nn.Module):
    """DenseNet whose last ReLU is a module, and not in place."""

    def __init__(self, whole: nn.Module) -> None:
        super().__init__()
        self.features, self.last, self.classifier = whole.features, nn.ReLU(), whole.classifier

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.last(self.features(x)).mean((2, 3)))


def by_the_book(subject: Subject) -> nn.Module:
    """A copy of the network as peers need it."""
    module = subject.module
    return _DenseNet(module).eval() if subject.name == "densenet121" else module


def replica(method: str, activation: Tensor, gradient: Tensor) -> Tensor:
    pairs = zip(activation.double().numpy(), gradient.double().numpy(), strict=True)
    return torch.from_numpy(np.stack([OF_ONE_LAYER[method](a, g) for a, g in pairs]))


@pytest.mark.parametrize("method", METHODS)
def test_camcli_agrees_with_the_replica_of_the_paper(network: Subject, method: str) -> None:
    expected = replica(method, *network.tapped())
    assert gap(network.cams[method].double(), expected) <= TOLERANCE


@pytest.mark.parametrize("method", PYTORCH_GRAD_CAM)
def test_pytorch_grad_cam_gives_the_same_map(network: Subject, method: str) -> None:
    found = libraries.pytorch_grad_cam(
        PYTORCH_GRAD_CAM[method], by_the_book(network), network.layer, network.view, network.classes
    )
    assert gap(found, network.cams[method]) <= TOLERANCE


@pytest.mark.parametrize("method", TORCHCAM)
def test_torchcam_gives_the_same_map_rectified(network: Subject, method: str) -> None:
    found = libraries.torchcam(
        TORCHCAM[method], by_the_book(network), network.layer, network.view, network.classes
    )
    assert gap(found, network.cams[method].relu()) <= TOLERANCE


@pytest.mark.parametrize("method", CAPTUM)
def test_captum_gives_the_same_map(network: Subject, method: str) -> None:
    found = libraries.captum(
        CAPTUM[method], network.module, network.layer, network.view, network.classes
    )
    assert gap(found, network.cams[method]) <= TOLERANCE


def test_pytorch_grad_cam_centres_eigencam_and_leaves_its_sign_open(network: Subject) -> None:
    found = libraries.pytorch_grad_cam(
        "EigenCAM", by_the_book(network), network.layer, network.view, network.classes
    )
    activation, gradient = network.tapped()
    centred = activation - activation.mean(dim=(2, 3), keepdim=True)
    expected = replica("eigencam", centred, gradient)
    agreement = (found * expected).sum(dim=(1, 2), keepdim=True).sign()
    assert gap(found * agreement, expected) <= TOLERANCE
    assert gap(found * agreement, network.cams["eigencam"]) > 0.1


def test_an_operation_in_place_after_the_layer_changes_what_two_peers_see(
    densenet: Subject,
) -> None:
    """DenseNet rectifies its features in place: both keep the rectified map as activation, and
    torchcam takes the gradient after the ReLU as well."""
    activation, gradient = densenet.tapped()
    rectified = activation.relu()
    given = densenet.layer, densenet.view, densenet.classes
    theirs = libraries.pytorch_grad_cam("GradCAM", densenet.module, *given)
    mixed = (gradient.mean(dim=(2, 3), keepdim=True) * rectified).sum(dim=1)
    assert gap(theirs, mixed) <= TOLERANCE
    assert gap(theirs, densenet.cams["gradcam"]) > 0.05
    # After the ReLU global pooling follows, where Grad-CAM is HiResCAM.
    later = libraries.torchcam("GradCAM", densenet.module, *given)
    assert gap(later, densenet.cams["hirescam"].relu()) <= TOLERANCE
    assert gap(later, densenet.cams["gradcam"].relu()) > 0.05


@recording()
def guided(subject: Subject) -> Tensor:
    """camcli's guided gradient (N, 3, H, W), signed; in float64, where no two values of a max
    pooling are so near that rounding decides between them."""
    model = replace(subject.model, network=EagerNetwork(subject.module.double()))
    with model.network.prepared():
        whole = Pass(model, subject.view.double(), [input_layer(model)], range(len(subject.view)))
        logits, view = whole.deep("guided")
        score = logits[range(len(subject.classes)), subject.classes].sum()
        (gradient,) = torch.autograd.grad(score, [view])
    return gradient


def by_peers(module: nn.Module, subject: Subject) -> list[Tensor]:
    """The same of both peers that have it."""
    given = module.double(), subject.view.double(), subject.classes
    return [
        libraries.guided_by_pytorch_grad_cam(*copy.deepcopy(given)),
        libraries.guided_by_captum(*given),
    ]


def plain_gradient(subject: Subject) -> Tensor:
    x = subject.view.double().requires_grad_()
    score = subject.module.double()(x)[range(len(subject.classes)), subject.classes].sum()
    return torch.autograd.grad(score, x)[0]


def test_guided_backpropagation_agrees_where_every_relu_is_a_module(network: Subject) -> None:
    if network.name in ("convnext_tiny", "built-in"):
        pytest.skip("has no nn.ReLU: the tests below")
    expected = guided(network)
    for found in by_peers(by_the_book(network), network):
        assert gap(found, expected) <= TOLERANCE


def test_peers_do_not_guide_through_a_functional_relu(densenet: Subject) -> None:
    expected = guided(densenet)
    for found in by_peers(densenet.module, densenet):
        assert gap(found, expected) > 0.05


class _Capped(nn.ReLU):
    """ReLU6 under the name that captum looks for."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu6(x)


def test_peers_do_not_guide_through_relu6(built_in: Subject) -> None:
    expected = guided(built_in)
    for found in by_peers(built_in.module, built_in):
        assert gap(found, plain_gradient(built_in)) <= TOLERANCE
        assert gap(found, expected) > 0.05
    module = built_in.module
    for part in module.modules():
        for name, child in part.named_children():
            if isinstance(child, nn.ReLU6):
                setattr(part, name, _Capped())
    assert gap(by_peers(module, built_in)[1], expected) <= TOLERANCE


def test_without_any_relu_peers_pass_the_plain_gradient_off_as_guided(photos: Path) -> None:
    convnext = subject("convnext_tiny", photos)
    for found in by_peers(convnext.module, convnext):
        assert gap(found, plain_gradient(convnext)) <= TOLERANCE
    with pytest.raises(UsageError, match="has no ReLU"):
        guided(convnext)


def unit(maps: Tensor) -> Tensor:
    low, high = maps.amin((2, 3), keepdim=True), maps.amax((2, 3), keepdim=True)
    return ((maps - low) / (high - low)).nan_to_num()


def score_cam(subject: Subject, layer: str, index: int, order: str) -> Tensor:
    """Wang et al. 2020, eqs. 7-8, of the first picture, in float64; `order` makes the masks."""
    kept: list[Tensor] = []
    module, x = subject.module.double(), subject.view[:1].double()
    hook = module.get_submodule(layer).register_forward_hook(
        lambda _m, _x, output: kept.append(output.clone())
    )
    with torch.no_grad():
        module(x)
        hook.remove()
        channels = kept[0].transpose(0, 1)
        size, how = tuple(x.shape[2:]), {"mode": "bilinear", "align_corners": order == "corners"}
        masks = (
            F.interpolate(unit(channels), size, **how)
            if order == "unit first"
            else unit(F.interpolate(channels, size, **how))
        )
        weight = module(x * masks)[:, index].softmax(dim=0)
    return (weight[:, None, None] * channels[:, 0]).sum(dim=0)[None]


def test_scorecam_agrees_with_each_peer_once_its_masks_are_made_that_peers_way(
    built_in: Subject,
) -> None:
    """pytorch-grad-cam aligns the corners; torchcam stretches channels before it enlarges them."""
    layer = "blocks.1.0.conv_pwl"
    (index,), cams = explained(built_in.model, built_in.pictures[:1], ["scorecam"], layer)
    ours = cams["scorecam"].double()
    assert gap(ours, score_cam(built_in, layer, index, "paper")) <= TOLERANCE
    given = layer, built_in.view[:1], [index]
    theirs = libraries.pytorch_grad_cam("ScoreCAM", built_in.module, *given)
    assert gap(theirs, score_cam(built_in, layer, index, "corners")) <= TOLERANCE
    assert gap(theirs, ours) > TOLERANCE
    theirs = libraries.torchcam("ScoreCAM", built_in.module, *given)
    expected = score_cam(built_in, layer, index, "unit first").relu()
    assert gap(theirs, expected) <= TOLERANCE
    assert gap(theirs, ours.relu()) > TOLERANCE
