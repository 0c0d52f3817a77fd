"""What a head does with A := 0, A and 2A, and how far a map is from the whole score."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from camcli.cam.worth import Probe, classify, completeness_error, location_error
from tests.conftest import live_in

CHANNELS, SIDE, CLASSES = 6, 4, 5


def lived_in_head(*layers: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    head = nn.Sequential(*layers)
    return live_in(head, seed=1).double().eval()


def probe_of(head: Callable[[Tensor], Tensor], rectified: bool = True) -> Probe:
    generator = torch.Generator().manual_seed(2)
    activation = torch.randn(2, CHANNELS, SIDE, SIDE, generator=generator, dtype=torch.float64)
    activation = activation.relu() if rectified else activation
    with torch.no_grad():
        zero, once, twice = (head(scale * activation).float() for scale in (0, 1, 2))
    return classify(zero, once, twice, uniform_gradient=False)


def pooled() -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten()]


def test_a_linear_head_is_exact_and_its_baseline_is_the_bias() -> None:
    linear = nn.Linear(CHANNELS * SIDE * SIDE, CLASSES)
    probe = probe_of(lived_in_head(nn.Flatten(), linear))
    assert probe.score == "exact"
    assert probe.baseline is not None
    torch.testing.assert_close(probe.baseline, linear.bias.detach().float())


@pytest.mark.parametrize(
    "layers",
    [
        [*pooled(), nn.Linear(CHANNELS, CLASSES)],
        [nn.ReLU(), *pooled(), nn.Linear(CHANNELS, CLASSES)],  # DenseNet
        [nn.MaxPool2d(2), nn.Flatten(), nn.Linear(CHANNELS * 4, CLASSES, bias=False)],
        [nn.Conv2d(CHANNELS, 8, 3, bias=False), nn.LeakyReLU(), *pooled(), nn.Linear(8, CLASSES)],
    ],
    ids=["pooled", "relu", "max-pool", "two layers without bias"],
)
def test_a_positively_homogeneous_head_is_exact(layers: list[nn.Module]) -> None:
    assert probe_of(lived_in_head(*layers), rectified=False).score == "exact"


@pytest.mark.parametrize(
    "layers",
    [
        [nn.Flatten(), nn.Linear(96, 32), nn.ReLU(), nn.Linear(32, CLASSES)],  # VGG
        [nn.Conv2d(CHANNELS, CLASSES, 1), nn.ReLU(), *pooled()],  # SqueezeNet
        [*pooled(), nn.Linear(CHANNELS, 32), nn.Hardswish(), nn.Linear(32, CLASSES)],  # MobileNetV3
        [nn.Sigmoid(), *pooled(), nn.Linear(CHANNELS, CLASSES)],
        [nn.ReLU6(), *pooled(), nn.Linear(CHANNELS, CLASSES)],
    ],
    ids=["biases", "class maps", "hardswish", "sigmoid", "relu6"],
)
def test_a_head_with_biases_or_a_curve_gives_a_first_order_view(layers: list[nn.Module]) -> None:
    scale = 8 if isinstance(layers[0], nn.ReLU6) else 1  # so that some of it saturates
    head = lived_in_head(*layers)
    probe = probe_of(lambda activation: head(scale * activation))
    assert probe.score == "first_order"
    assert probe.baseline is not None
    with torch.no_grad():
        zero = head(torch.zeros(1, CHANNELS, SIDE, SIDE, dtype=torch.float64))[0]
    torch.testing.assert_close(probe.baseline, zero.float())


@pytest.mark.parametrize(
    "layers",
    [
        [*pooled(), nn.LayerNorm(CHANNELS, eps=1e-12), nn.Linear(CHANNELS, CLASSES)],  # ConvNeXt
        [nn.GroupNorm(2, CHANNELS, eps=1e-12), *pooled(), nn.Linear(CHANNELS, CLASSES)],
    ],
    ids=["layer norm", "group norm"],
)
def test_a_normalisation_after_the_layer_is_noticed(layers: list[nn.Module]) -> None:
    assert probe_of(lived_in_head(*layers)).score == "scale_invariant"


def test_what_passes_the_layer_by_is_noticed() -> None:
    linear = lived_in_head(nn.Flatten(), nn.Linear(96, CLASSES))
    generator = torch.Generator().manual_seed(3)
    residual = torch.randn(2, CHANNELS, SIDE, SIDE, generator=generator, dtype=torch.float64)
    probe = probe_of(lambda activation: linear(activation + 0.1 * residual))
    assert probe == Probe("bypassed", None, pooled=False)


def test_a_head_that_does_not_look_at_the_layer_is_not_called_scale_invariant() -> None:
    logits = torch.tensor([[1.0, 2.0], [1.0, 2.0]])
    assert classify(logits, logits, logits, False).score != "scale_invariant"


def test_whether_pooling_follows_is_handed_on() -> None:
    logits = torch.randn(2, 3, generator=torch.Generator().manual_seed(4))
    assert classify(torch.zeros(2, 3), logits, 2 * logits, True).pooled
    assert not classify(torch.zeros(2, 3), logits, 2 * logits, False).pooled


def test_completeness_is_measured_against_the_change_of_the_score() -> None:
    score, baseline = torch.tensor([5.0, 5.0, -3.0]), torch.tensor([1.0, 1.0, 1.0])
    total, mass = torch.tensor([4.0, 3.0, -5.0]), torch.tensor([4.0, 6.0, 9.0])
    error = completeness_error(score, baseline, total, mass)
    torch.testing.assert_close(error, torch.tensor([0.0, 0.25, 0.25]))


def test_where_the_score_hardly_changes_completeness_is_measured_against_what_cancels() -> None:
    tiny = torch.tensor([1e-6])
    error = completeness_error(tiny, torch.zeros(1), 3 * tiny, mass=torch.tensor([2.0]))
    torch.testing.assert_close(error, torch.tensor([1e-3]))  # 2e-6 / (1e-3 * 2)


def test_completeness_of_nothing_at_all_is_zero() -> None:
    nothing = torch.zeros(1)
    assert completeness_error(nothing, nothing, nothing, nothing).tolist() == [0.0]


def maps(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float32).reshape(len(rows), 2, 2)


@pytest.mark.parametrize(
    ("cam", "reference", "distance"),
    [
        ([1, 2, 3, 4], [1, 2, 3, 4], 0.0),
        ([1, 2, 3, 4], [10, 20, 30, 40], 0.0),  # places, not sizes
        ([1, 2, 3, 4], [-1, -2, -3, -4], 2.0),
        ([3, 0, 0, 0], [0, 0, 0, 5], 2**0.5),
        ([0, 0, 0, 0], [0, 3, 0, 4], 1.0),
        ([0, 0, 0, 0], [0, 0, 0, 0], 0.0),
        ([1e-12, 0, 0, 0], [0, 1e-12, 0, 0], 2**0.5),
    ],
)
def test_the_location_error_is_the_distance_of_unit_maps(cam, reference, distance) -> None:
    error = location_error(maps(cam), maps(reference))
    torch.testing.assert_close(error, torch.tensor([distance]), rtol=1e-6, atol=1e-7)


def test_each_picture_has_its_own_location_error() -> None:
    error = location_error(maps([1, 0, 0, 0], [1, 0, 0, 0]), maps([5, 0, 0, 0], [0, 1, 0, 0]))
    torch.testing.assert_close(error, torch.tensor([0.0, 2**0.5]))


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
@pytest.mark.parametrize("which", range(3))
def test_logits_that_are_no_numbers_are_never_taken_for_exact(broken: float, which: int) -> None:
    once = torch.randn(2, 3, generator=torch.Generator().manual_seed(5))
    logits = [torch.zeros(2, 3), once, 2 * once]
    assert classify(*logits, uniform_gradient=False).score == "exact"
    logits[which] = logits[which].clone()
    logits[which][0, 0] = broken
    assert classify(*logits, uniform_gradient=False).score not in ("exact", "scale_invariant")


def test_an_error_that_is_no_number_stays_one() -> None:
    nan, one = torch.tensor([float("nan")]), torch.ones(1)
    for values in ((nan, one, one, one), (one, nan, one, one), (2 * one, one, nan, one)):
        assert completeness_error(*values).isnan().all()
    assert location_error(maps([float("nan"), 0, 0, 0]), maps([1, 0, 0, 0])).isnan().all()
