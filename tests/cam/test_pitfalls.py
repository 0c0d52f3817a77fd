"""Where other implementations of these equations are known to go wrong."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from camcli.cam.masks import enlarged, unit
from tests.cam.test_methods import cam_of, noise


def sample(seed: int = 0, rectified: bool = True) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    activation, gradient = torch.randn(2, 2, 6, 5, 4, generator=generator)
    return (activation.relu() if rectified else activation), gradient


@pytest.mark.parametrize("power", [-60, -20, 20])
def test_gradcampp_in_other_units_of_the_activation_is_the_same_map_to_the_bit(power: int) -> None:
    """S G has no unit, so nothing may be added to it: powers of two change no digit."""
    activation, gradient = sample()
    scale = 2.0**power
    expected = cam_of("gradcampp", [(activation, gradient)])
    assert torch.equal(cam_of("gradcampp", [(activation / scale, gradient * scale)]), expected)


@pytest.mark.parametrize("scale", [1e-6, 1e-12, 1e-30])
def test_gradcampp_of_tiny_gradients_keeps_its_shape(scale: float) -> None:
    """alpha becomes 1/2, so the weights become half the sum of what the gradient has upwards."""
    activation, gradient = sample()
    cam = cam_of("gradcampp", [(activation, gradient * scale)]) / scale
    weight = gradient.relu().sum(dim=(2, 3), keepdim=True) / 2
    expected = (weight * activation).sum(dim=1)
    # The next term of the series is S G / 2, and S is below 20 here.
    torch.testing.assert_close(cam, expected, rtol=max(1e-5, 40 * scale), atol=1e-6)


@pytest.mark.parametrize("shift", [0.0, -0.3, -3.0])
def test_gradcampp_on_signed_layers_has_no_pole(shift: float) -> None:
    """With S < 0 the paper's 2 + S G can be zero: here exactly, in every channel's first place."""
    activation, gradient = sample(rectified=False)
    activation = activation + shift
    total = activation.sum(dim=(2, 3))
    gradient[:, :, 0, 0] = torch.where(total < 0, -2 / total, gradient[:, :, 0, 0])
    assert bool((total < 0).any())
    cam = cam_of("gradcampp", [(activation, gradient)])
    bound = gradient.relu().sum(dim=(2, 3), keepdim=True) / 2 * activation.abs()
    assert bool((cam.abs() <= bound.sum(dim=1) * (1 + 1e-6)).all())


def test_the_sum_of_xgradcam_is_that_of_hirescam_in_every_channel() -> None:
    activation, gradient = sample()
    for channel in range(activation.shape[1]):
        one = [(activation[:, [channel]], gradient[:, [channel]])]
        torch.testing.assert_close(
            cam_of("xgradcam", one).sum(dim=(1, 2)), cam_of("hirescam", one).sum(dim=(1, 2))
        )


def test_xgradcam_follows_a_sum_that_is_negative() -> None:
    """A small constant added to the sum would turn a channel round that sums to less."""
    activation = torch.tensor([[[[-1e-9, 0.0], [0.0, 0.0]]]])
    gradient = torch.tensor([[[[3.0, 1.0], [1.0, 1.0]]]])
    cam = cam_of("xgradcam", [(activation, gradient)])
    torch.testing.assert_close(cam, 3 * activation[:, 0], rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", ["eigencam", "kpcacam"])
@pytest.mark.parametrize("shape", [(30, 4, 4), (5, 6, 6)])
def test_the_sign_of_a_component_agrees_with_the_mean_activation(
    name: str, shape: tuple[int, ...]
) -> None:
    for seed in range(20):
        activation = torch.randn(2, *shape, generator=torch.Generator().manual_seed(seed))
        cam = cam_of(name, [(activation, activation)]).double()
        mean = activation.double().mean(dim=1)
        mean = mean - mean.mean(dim=(1, 2), keepdim=True) if name == "kpcacam" else mean
        assert bool(((cam * mean).sum(dim=(1, 2)) > 0).all())


@pytest.mark.parametrize("name", ["eigencam", "eigengradcam", "kpcacam", "dff"])
def test_a_component_is_the_same_on_every_call(name: str) -> None:
    batch = noise(name, 2, 12, 5, 5, seed=8)
    first = cam_of(name, batch)
    assert all(torch.equal(cam_of(name, batch), first) for _ in range(5))


def test_eigencam_of_a_rectified_layer_is_nowhere_negative() -> None:
    """Perron: of a matrix without negative entries so is the first singular pair."""
    activation, gradient = sample(seed=3)
    assert bool((cam_of("eigencam", [(activation, gradient)]) >= 0).all())


def test_eigencam_turns_with_the_activation() -> None:
    activation, gradient = sample(seed=4, rectified=False)
    cam = cam_of("eigencam", [(activation, gradient)])
    assert torch.equal(cam_of("eigencam", [(-activation, gradient)]), -cam)


@pytest.mark.parametrize("value", [0.1, 0.3, 0.7, 1e-3, 123.4, -0.3])
@pytest.mark.parametrize("side", [3, 7, 14])
def test_fem_shows_nothing_of_a_channel_that_is_the_same_everywhere(value, side) -> None:
    """Its mean may round to less than its value, which is then above it by no deviation at all."""
    activation = torch.full((2, 16, side, side), value)
    assert not cam_of("fem", [(activation, activation)]).any()


@pytest.mark.parametrize("value", [0.1, 0.3, 0.7, 1e-3, 123.4, -0.3])
def test_a_constant_map_enlarged_stays_constant_and_becomes_no_mask(value: float) -> None:
    """Bilinear weights do not sum to exactly one; stretching what they leave would show a grid."""
    wide = enlarged(torch.full((1, 2, 7, 7), value), (64, 50))
    assert torch.equal(wide, torch.full_like(wide, value))
    assert not unit(wide).any()


def test_dff_finds_the_strongest_of_parts_that_share_neither_places_nor_channels() -> None:
    activation = torch.zeros(1, 6, 4, 4)
    activation[0, :2, 0, :2] = torch.tensor([[1.0, 2.0], [2.0, 4.0]])
    activation[0, 2:4, 3, :] = torch.tensor([[3.0], [1.0]]) * torch.tensor([4.0, 1.0, 2.0, 3.0])
    activation[0, 4:, 1, 3] = 2.0
    cam = cam_of("dff", [(activation, activation)])[0]
    expected = torch.zeros(4, 4)
    expected[3] = 10**0.5 * torch.tensor([4.0, 1.0, 2.0, 3.0])  # times the length of (3, 1)
    # Multiplicative updates bring the lifted zeros down slowly: a hundredth after 200 of them.
    torch.testing.assert_close(cam, expected, rtol=0, atol=1e-2 * float(expected.max()))


@pytest.mark.parametrize("name", ["eigencam", "eigengradcam", "kpcacam", "dff", "fem"])
@pytest.mark.parametrize("scale", [1e-18, 1e18])
def test_very_small_and_very_large_activations_have_maps_that_are_finite(name, scale) -> None:
    activation, gradient = sample(seed=5)
    cam = cam_of(name, [(activation * scale, gradient)])
    assert cam.isfinite().all()
    if name != "kpcacam":  # whose kernel has a scale of its own
        expected = cam_of(name, [(activation, gradient)])
        torch.testing.assert_close(cam / scale, expected, rtol=1e-4, atol=1e-5)
