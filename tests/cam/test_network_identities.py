"""What has to be equal: the theorems of the methods that need a network."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (the field's name for it)
from torch import Tensor, nn

from camcli.cam.capture import LayerCapture
from camcli.cam.layers import find_layer
from camcli.cam.smoothing import cam_of
from camcli.engine import Engine
from camcli.errors import ModelError, UsageError
from camcli.models.inspection import input_layer, layers_of
from camcli.models.loaded import LoadedModel, recording
from camcli.models.passes import Pass
from camcli.records import Target
from camcli.registry import METHODS
from tests.conftest import as_model, live_in, noise_pictures

CLASSES, SIZE, COUNT = 5, 16, 3
Act = Callable[[Tensor], Tensor]


class Body(nn.Module):
    """Two convolutions, each with a rectifier; the first batch norm has no affine terms."""

    def __init__(self, act: Act | None = None) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6, affine=False))
        self.second = nn.Sequential(nn.Conv2d(6, 8, 3, bias=False), nn.BatchNorm2d(8))
        self.act = act or nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.act(self.first(x)), 2)
        return self.act(self.second(x))


def pooled(act: Act | None = None) -> LoadedModel:
    """Global average pooling and one linear layer."""
    torch.manual_seed(2)
    top = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES))
    return as_model(live_in(nn.Sequential(Body(act), top), SIZE), CLASSES, SIZE)


def flattened() -> LoadedModel:
    """Two linear layers with a rectifier between them."""
    torch.manual_seed(2)
    top = nn.Sequential(nn.Flatten(), nn.Linear(8 * 36, 12), nn.ReLU(), nn.Linear(12, CLASSES))
    return as_model(live_in(nn.Sequential(Body(), top), SIZE), CLASSES, SIZE)


def maps(model: LoadedModel, name: str, target: str) -> npt.NDArray[np.float32]:
    engine = Engine(model, methods=[name], target=target, layers=["0"], batch_size=COUNT)
    with engine.prepared():
        outcomes = engine.explain(noise_pictures(model, COUNT))
    return np.stack([outcome.cams[0].cam for outcome in outcomes])


def captured(model: LoadedModel, layer: str, targets: list[Target]) -> LayerCapture:
    source = find_layer(layers_of(model), layer, "small") if layer else input_layer(model)
    view = model.inputs([picture.view for picture in noise_pictures(model, len(targets))])
    with recording(), model.network.prepared():
        return Pass(model, view, [source], range(len(targets))).captures(targets)[source]


def assert_same_maps(found: npt.NDArray[np.float32], expected: npt.NDArray[np.float32]) -> None:
    atol = 1e-5 * float(np.abs(expected).max())
    assert atol > 0
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=atol)


def test_cam_is_hirescam_under_global_average_pooling() -> None:
    assert_same_maps(maps(pooled(), "cam", "1"), maps(pooled(), "hirescam", "1"))


def test_ablation_cam_weighs_a_channel_by_its_share_in_hirescam_under_pooling() -> None:
    targets = [Target(0), Target(4), Target(None, 1), Target(3, 2)]
    model = pooled()
    capture = captured(model, "0", targets)
    assert (capture.further.score < 0).any()
    share = (capture.gradient * capture.activation).sum(dim=(2, 3), keepdim=True)
    size = capture.further.score.abs()[:, None, None]
    expected = (share * capture.activation).sum(dim=1) / size
    with recording(), model.network.prepared():
        found = cam_of(METHODS["ablationcam"], capture, ())
    # A share is the small difference of two scores there.
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("model", [pooled, flattened])
def test_finer_cam_of_a_contrast_is_grad_cam_of_it(model: Callable[[], LoadedModel]) -> None:
    assert_same_maps(maps(model(), "finercam", "1-2"), maps(model(), "gradcam", "1-2"))


@pytest.mark.parametrize("model", [pooled, flattened])
def test_shapley_cam_of_a_contrast_is_twice_grad_cam_of_it(
    model: Callable[[], LoadedModel],
) -> None:
    """log p cancels, and what is left of the utility, 2 (z_a - z_b), has no curvature there."""
    assert_same_maps(maps(model(), "shapleycam", "1-2"), 2 * maps(model(), "gradcam", "1-2"))


@pytest.mark.parametrize("model", [pooled, flattened])
def test_a_linear_utility_has_no_curvature_on_a_network_of_rectifiers(
    model: Callable[[], LoadedModel],
) -> None:
    capture = captured(model(), "0", [Target(1), Target(2)])
    with recording():
        bend = capture.further.curvature(lambda logits: 3 * logits, capture.activation)
        gradient = capture.further.gradient_of(lambda logits: 3 * logits)
    assert torch.equal(bend, torch.zeros_like(bend))
    torch.testing.assert_close(gradient, 3 * capture.gradient)


@pytest.mark.parametrize("model", [pooled, flattened])
def test_the_terms_of_fullgrad_sum_to_the_score(model: Callable[[], LoadedModel]) -> None:
    """Biases of convolutions, what both kinds of batch norm add, and biases of linear layers."""
    found = model()
    targets = [Target(0), Target(3), Target(None, 1), Target(2, 4)]
    capture = captured(found, "", targets)
    total = (capture.gradient * capture.activation).sum(dim=(1, 2, 3))
    with recording(), found.network.prepared():
        for term in capture.further.bias_gradients():
            assert bool(term.any())
            total = total + term.sum(dim=(1, 2, 3))
        total = total + linear_biases(found.network.module, capture)
    score = capture.further.score
    torch.testing.assert_close(total, score, rtol=1e-4, atol=1e-4 * float(score.abs().max()))


def linear_biases(module: nn.Module, capture: LayerCapture) -> Tensor:
    """Bias times gradient of the score, over all linear layers, (N,)."""
    outputs = []

    def keep(part: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        outputs.append((part.bias, output if output.requires_grad else output.requires_grad_()))
        return output

    linear = [part for part in module.modules() if isinstance(part, nn.Linear)]
    hooks = [part.register_forward_hook(keep) for part in linear]
    logits = module(capture.further.view)
    for hook in hooks:
        hook.remove()
    index = [[t.index, t.against] for t in capture.further.targets]
    score = sum(
        (logits[n, a] if a is not None else 0) - (logits[n, b] if b is not None else 0)
        for n, (a, b) in enumerate(index)
    )
    gradients = torch.autograd.grad(score, [output for _, output in outputs])
    terms = [(bias * g).sum(dim=1) for (bias, _), g in zip(outputs, gradients, strict=True)]
    return torch.stack(terms).sum(dim=0)


def test_a_layer_that_the_score_does_not_depend_on_adds_nothing_to_fullgrad() -> None:
    class Aside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.aside = Body(), nn.Conv2d(8, 2, 1)
            self.head = nn.Linear(8, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            maps = self.body(x)
            self.aside(maps)
            logits: Tensor = self.head(maps.mean(dim=(2, 3)))
            return logits

    torch.manual_seed(3)
    module = live_in(Aside(), SIZE)
    with_it = captured(as_model(module, CLASSES, SIZE), "", [Target(1)])
    module_without = live_in(Aside(), SIZE)
    module_without.load_state_dict(module.state_dict())
    module_without.aside = nn.Identity()
    without = captured(as_model(module_without, CLASSES, SIZE), "", [Target(1)])
    with recording():
        found, expected = (cam_of(METHODS["fullgrad"], c, ()) for c in (with_it, without))
    torch.testing.assert_close(found, expected)


def open_network(head: Tensor) -> nn.Sequential:
    """Rectifiers that are open whatever the picture, behind weights of no negative value."""
    torch.manual_seed(4)
    module = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 6, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2),
    )  # fmt: skip
    with torch.no_grad():
        for part in (module[0], module[2]):
            part.weight.abs_()
            part.bias.fill_(30)
        module[6].weight.copy_(head)
    return module.eval()


@pytest.mark.parametrize("name", ["guided_backprop", "deconvnet"])
def test_where_every_rectifier_is_open_the_rules_rectify_the_heads_weights_alone(
    name: str,
) -> None:
    head = torch.tensor([[1.0, -2, 3, 0, -1, 0.5], [1, 2, 3, 4, 5, 6]])
    model = as_model(open_network(head), 2, SIZE)
    plain = captured(as_model(open_network(head.relu()), 2, SIZE), "", [Target(0), Target(1)])
    expected = plain.gradient.abs().sum(dim=1)
    with recording(), model.network.prepared():
        found = cam_of(METHODS[name], captured(model, "", [Target(0), Target(1)]), ())
    torch.testing.assert_close(found, expected)
    assert bool((expected > 0).all())


WRITTEN = {
    "module": nn.ReLU(),
    "in place": nn.ReLU(inplace=True),
    "function": F.relu,
    "function in place": lambda x: F.relu(x, inplace=True),
    "torch": torch.relu,
    "torch in place": torch.relu_,
    "method": Tensor.relu,
    "method in place": Tensor.relu_,
}


@pytest.mark.parametrize("name", ["guided_backprop", "deconvnet"])
@pytest.mark.parametrize("written", WRITTEN)
def test_a_rectifier_is_found_however_it_is_written(name: str, written: str) -> None:
    found = maps(pooled(WRITTEN[written]), name, "1")
    assert_same_maps(found, maps(pooled(), name, "1"))
    assert float(np.abs(found - maps(pooled(), "gradient_x_input", "1")).max()) > 0.1 * found.max()


SIX = {
    "module": nn.ReLU6(),
    "in place": nn.ReLU6(inplace=True),
    "function": F.relu6,
    "hardtanh": nn.Hardtanh(0, 6),
    "hardtanh in place": nn.Hardtanh(0, 6, inplace=True),
}


@pytest.mark.parametrize("written", SIX)
def test_guided_backpropagation_ends_at_both_bends_of_relu6(written: str) -> None:
    class Guided(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, z: Tensor) -> Tensor:
            ctx.open = (z > 0) & (z < 6)
            return z.clamp(0, 6)

        @staticmethod
        def backward(ctx: object, gradient: Tensor) -> Tensor:
            return gradient * ctx.open * (gradient > 0)

    def scaled(act: Act) -> Act:
        return lambda x: act(4 * x)  # so that some values lie beyond 6

    reference = captured(pooled(scaled(Guided.apply)), "", [Target(1)] * COUNT)
    expected = reference.gradient.abs().sum(dim=1).numpy()
    assert_same_maps(maps(pooled(scaled(SIX[written])), "guided_backprop", "1"), expected)


def test_a_network_without_rectifiers_is_refused() -> None:
    with pytest.raises(UsageError, match=r"small has no ReLU, .*; use gradient_x_input"):
        maps(pooled(torch.tanh), "guided_backprop", "1")


def test_rectifiers_that_cannot_be_replaced_are_not_replaced_silently() -> None:
    def by_effect(x: Tensor) -> Tensor:
        F.relu_(x)
        return x

    with pytest.raises(ModelError, match="the ReLUs of small cannot be replaced"):
        maps(pooled(by_effect), "deconvnet", "1")
