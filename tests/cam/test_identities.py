"""What the papers prove, measured on whole networks with lived-in weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from camcli.engine import Engine
from camcli.models.loaded import LoadedModel
from camcli.records import Cam, Decoded, Explanation
from tests.conftest import as_model, live_in, noise_pictures

CLASSES = 10


@dataclass(frozen=True)
class Case:
    """A network with one linear layer behind its default layer, and pictures for it."""

    model: LoadedModel
    linear: nn.Linear
    pictures: list[Decoded]

    def cams(self, method: str, target: str = "predicted") -> list[Cam]:
        engine = Engine(self.model, methods=[method], target=target, batch_size=4)
        with engine.prepared():
            outcomes = engine.explain(self.pictures)
        assert all(isinstance(outcome, Explanation) for outcome in outcomes)
        return [cam for outcome in outcomes for cam in outcome.cams]

    def activation(self, module: nn.Module) -> Tensor:
        """What the module puts out for the pictures, by a hook of this test's own."""
        kept: list[Tensor] = []
        hook = module.register_forward_hook(lambda _m, _x, output: kept.append(output.clone()))
        with torch.no_grad():
            self.model.network.module(self.model.inputs([p.view for p in self.pictures]))
        hook.remove()
        return kept[0]

    def weights(self, cams: list[Cam]) -> Tensor:
        """The linear layer's row for each map's class."""
        return self.linear.weight.detach()[[cam.target.index for cam in cams]]


def total(cam: Cam) -> float:
    return float(cam.cam.sum(dtype=np.float64))


def unit(cam: np.ndarray) -> np.ndarray:
    return cam.astype(np.float64) / np.linalg.norm(cam.astype(np.float64))


@pytest.fixture(scope="module")
def pooled() -> Case:
    """ResNet-18: global average pooling, then one linear layer."""
    from torchvision.models import resnet18

    torch.manual_seed(0)
    module = live_in(resnet18(num_classes=CLASSES), size=224)
    model = as_model(module, CLASSES, size=224)
    return Case(model, module.fc, noise_pictures(model, 4))


@pytest.fixture(scope="module")
def flattened() -> Case:
    """The paper's setting: convolution, ReLU, and one linear layer on every place by itself."""
    torch.manual_seed(1)
    module = nn.Sequential(
        nn.Conv2d(3, 12, 8, stride=8),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(12 * 8 * 8, CLASSES),
    )
    live_in(module)
    model = as_model(module, CLASSES)
    return Case(model, module[3], noise_pictures(model, 4))


@pytest.mark.parametrize("target", ["predicted", "3", "0,7"])
@pytest.mark.parametrize("name", ["pooled", "flattened"])
def test_a_hirescam_and_the_bias_sum_to_the_logit(name: str, target: str, request) -> None:
    case: Case = request.getfixturevalue(name)
    cams = case.cams("hirescam", target)
    with torch.no_grad():
        logits = case.model.network.module(case.model.inputs([p.view for p in case.pictures]))
    expected = [float(logits[n // (len(cams) // 4), c.target.index]) for n, c in enumerate(cams)]
    assert [cam.score for cam in cams] == pytest.approx(expected, rel=1e-5)
    bias = case.linear.bias.detach()
    assert all(cam.baseline == pytest.approx(float(bias[cam.target.index])) for cam in cams)
    sums = [total(cam) + float(bias[cam.target.index]) for cam in cams]
    assert sums == pytest.approx(expected, rel=1e-5, abs=1e-7)  # some logits nearly cancel
    assert all(cam.remainder == pytest.approx(cam.score - total(cam), abs=1e-9) for cam in cams)


def test_under_global_average_pooling_hirescam_gradcam_and_cam_are_the_same_map(pooled) -> None:
    hires, grad = pooled.cams("hirescam"), pooled.cams("gradcam")
    activation = pooled.activation(pooled.model.network.module.layer4)
    cells = activation.shape[2] * activation.shape[3]
    cams = torch.einsum("nc,nchw->nhw", pooled.weights(hires), activation) / cells
    for one, other, cam in zip(hires, grad, cams.numpy(), strict=True):
        largest = np.abs(cam).max()
        assert one.layer == "layer4"
        assert one.cam.shape == (7, 7)
        assert np.abs(one.cam - other.cam).max() <= 1e-5 * largest
        assert np.abs(one.cam - cam).max() <= 1e-5 * largest
        assert one.faithful
        assert other.faithful


def test_on_one_linear_layer_hirescam_shows_the_places_that_the_network_used(flattened) -> None:
    cams = flattened.cams("hirescam")
    activation = flattened.activation(flattened.model.network.module[1])
    weights = flattened.weights(cams).reshape(-1, 12, 8, 8)
    used = (weights.double() * activation.double()).sum(dim=1).numpy()
    for cam, places in zip(cams, used, strict=True):
        assert cam.layer == "1"
        assert np.linalg.norm(unit(cam.cam) - unit(places)) <= 1e-6
        assert cam.completeness_error <= 1e-5
        assert cam.location_error <= 1e-6
        assert cam.faithful


def test_on_one_linear_layer_gradcam_shows_other_places_and_says_so(flattened) -> None:
    hires, grad = flattened.cams("hirescam"), flattened.cams("gradcam")
    for exact, cam in zip(hires, grad, strict=True):
        distance = float(np.linalg.norm(unit(cam.cam) - unit(exact.cam)))
        assert distance > 0.05
        assert cam.location_error == pytest.approx(distance, rel=1e-4)
        missed = abs((cam.score - cam.baseline) - total(cam)) / abs(cam.score - cam.baseline)
        assert cam.completeness_error == pytest.approx(missed, rel=1e-3)
        assert not cam.faithful


@pytest.mark.parametrize("method", ["hirescam", "gradcam"])
def test_a_contrast_is_the_difference_of_its_two_maps(flattened: Case, method: str) -> None:
    plus, minus, against, contrast = (
        flattened.cams(method, target) for target in ("2", "5", "-5", "2-5")
    )
    for a, b, negative, both in zip(plus, minus, against, contrast, strict=True):
        atol = 1e-5 * float(np.abs(both.cam).max())
        np.testing.assert_allclose(both.cam, a.cam - b.cam, rtol=0, atol=atol)
        np.testing.assert_allclose(negative.cam, -b.cam, rtol=0, atol=atol)
        assert both.score == pytest.approx(a.score - b.score, rel=1e-4)
        assert both.baseline == pytest.approx(a.baseline - b.baseline, rel=1e-4)
        assert negative.score == -b.score


def test_a_contrast_is_as_exact_as_its_two_scores(flattened: Case) -> None:
    for cam in flattened.cams("hirescam", "2-5"):
        assert cam.completeness_error <= 1e-5
        assert cam.faithful


def test_rectifying_after_the_layer_keeps_the_sum_exact() -> None:
    """DenseNet's head: a ReLU without a bias is positively homogeneous."""
    from torchvision.models import densenet121

    torch.manual_seed(2)
    module = live_in(densenet121(num_classes=CLASSES))
    model = as_model(module, CLASSES)
    case = Case(model, module.classifier, noise_pictures(model, 4))
    for cam in case.cams("hirescam"):
        assert cam.layer == "features"
        bias = float(module.classifier.bias.detach()[cam.target.index])
        assert total(cam) + bias == pytest.approx(cam.score, rel=1e-5)
        assert cam.faithful
    assert not any(cam.faithful for cam in case.cams("gradcam"))


def test_biases_after_the_layer_leave_a_remainder_that_the_record_states() -> None:
    """ResNet's layer3: exact with fresh biases of zero, not with lived-in ones."""
    from torchvision.models import resnet18

    torch.manual_seed(3)
    module = live_in(resnet18(num_classes=CLASSES))
    model = as_model(module, CLASSES)
    engine = Engine(model, layers=["layer3"], batch_size=4)
    with engine.prepared():
        cams = [e.cams[0] for e in engine.explain(noise_pictures(model, 4))]
    assert engine.probes[engine.layers[0]].score == "first_order"
    for cam in cams:
        change = cam.score - cam.baseline
        missed = abs(change - total(cam)) / abs(change)
        assert missed > 1e-2
        assert cam.completeness_error == pytest.approx(missed, rel=1e-3)
        assert cam.location_error is None
        assert not cam.faithful
