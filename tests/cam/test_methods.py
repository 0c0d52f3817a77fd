"""Every method in the registry: worked by hand, replicated from the paper, and its symmetries."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor

import camcli.cam.methods.gradient
from camcli.cam.capture import LayerCapture
from camcli.smoothing import cam_of as map_of
from camcli.registry import METHODS
from tests.cam import golden
from tests.cam.replicas import REPLICAS

every_method = pytest.mark.parametrize("name", REPLICAS)


def cam_of(name: str, activation: Tensor, gradient: Tensor) -> Tensor:
    outside = activation.new_zeros(len(activation))
    return map_of(METHODS[name], LayerCapture(activation, gradient, outside, None), ())


def rounding(activation: Tensor, gradient: Tensor) -> float:
    """What float32 may lose in any of these sums: 1e-5 of the largest that can arise."""
    channels = activation.shape[1]
    return 1e-5 * channels * float(activation.abs().max()) * float(gradient.abs().max())


@st.composite
def captures(draw: Callable[..., object]) -> tuple[Tensor, Tensor]:
    """Activation and gradient of a few pictures; rectified half of the time, as after a ReLU."""
    shape = draw(hnp.array_shapes(min_dims=4, max_dims=4, min_side=1, max_side=5))
    values = st.floats(-100, 100, width=32).map(lambda v: 0.0 if abs(v) < 1e-3 else v)
    activation, gradient = (draw(hnp.arrays(np.float32, shape, elements=values)) for _ in "AG")
    if draw(st.booleans()):
        activation = np.maximum(activation, 0)
    return torch.from_numpy(activation), torch.from_numpy(gradient)


def test_every_method_has_a_replica_and_a_case_worked_by_hand() -> None:
    assert set(REPLICAS) == set(golden.MAPS)
    assert {"hirescam", "gradcam"} <= set(METHODS)


@every_method
def test_a_method_gives_the_map_worked_out_by_hand(name: str) -> None:
    activation = torch.tensor([golden.ACTIVATION], dtype=torch.float32)
    gradient = torch.tensor([golden.GRADIENT], dtype=torch.float32)
    expected = torch.tensor([golden.MAPS[name]], dtype=torch.float32)
    assert torch.equal(cam_of(name, activation, gradient), expected)


@every_method
@pytest.mark.parametrize("shape", [(3, 7, 5, 4), (2, 512, 7, 7), (1, 1, 1, 9), (4, 96, 14, 14)])
@pytest.mark.parametrize("rectified", [True, False])
def test_a_method_agrees_with_its_replica(
    name: str, shape: tuple[int, ...], rectified: bool
) -> None:
    generator = torch.Generator().manual_seed(20)
    activation = torch.randn(shape, generator=generator)
    activation = activation.relu() if rectified else activation
    gradient = torch.randn(shape, generator=generator) * 1e-3
    cam = cam_of(name, activation, gradient)
    pairs = zip(activation.double().numpy(), gradient.double().numpy(), strict=True)
    expected = torch.from_numpy(np.stack([REPLICAS[name](a, g) for a, g in pairs]))
    assert cam.dtype == torch.float32
    assert cam.shape == (shape[0], *shape[2:])
    torch.testing.assert_close(
        cam.double(), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max())
    )


@every_method
def test_no_gradient_gives_a_map_of_zeros(name: str) -> None:
    activation = torch.randn(2, 5, 3, 3, generator=torch.Generator().manual_seed(3))
    cam = cam_of(name, activation, torch.zeros_like(activation))
    assert torch.equal(cam, torch.zeros(2, 3, 3))


@every_method
def test_a_picture_beside_a_broken_one_keeps_its_map(name: str) -> None:
    generator = torch.Generator().manual_seed(4)
    activation, gradient = torch.randn(2, 2, 5, 3, 3, generator=generator)
    broken = activation.clone()
    broken[1] = torch.nan
    assert torch.equal(cam_of(name, broken, gradient)[0], cam_of(name, activation, gradient)[0])


@every_method
@given(captures())
@settings(max_examples=60, deadline=None)
def test_a_batch_equals_its_singles(name: str, capture: tuple[Tensor, Tensor]) -> None:
    activation, gradient = capture
    whole = cam_of(name, activation, gradient)
    singles = [cam_of(name, a[None], g[None]) for a, g in zip(activation, gradient, strict=True)]
    torch.testing.assert_close(
        whole, torch.cat(singles), rtol=0, atol=rounding(activation, gradient)
    )


@every_method
@given(captures(), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_the_order_of_the_channels_does_not_matter(name, capture, random) -> None:
    activation, gradient = capture
    order = random.sample(range(activation.shape[1]), activation.shape[1])
    torch.testing.assert_close(
        cam_of(name, activation[:, order], gradient[:, order]),
        cam_of(name, activation, gradient),
        rtol=0,
        atol=rounding(activation, gradient),
    )


@every_method
@pytest.mark.parametrize("axes", [(2,), (3,), (2, 3)])
@given(captures())
@settings(max_examples=40, deadline=None)
def test_a_flipped_picture_has_the_flipped_map(name, axes, capture) -> None:
    activation, gradient = capture
    torch.testing.assert_close(
        cam_of(name, activation.flip(axes), gradient.flip(axes)),
        cam_of(name, activation, gradient).flip([axis - 1 for axis in axes]),
        rtol=0,
        atol=rounding(activation, gradient),
    )


@every_method
@given(captures())
@settings(max_examples=60, deadline=None)
def test_maps_are_finite_and_inputs_stay_as_they_were(name, capture) -> None:
    activation, gradient = capture
    before = activation.clone(), gradient.clone()
    assert cam_of(name, activation, gradient).isfinite().all()
    assert torch.equal(activation, before[0])
    assert torch.equal(gradient, before[1])


@every_method
def test_the_memory_layout_of_the_activation_does_not_matter(name: str) -> None:
    generator = torch.Generator().manual_seed(5)
    activation, gradient = torch.randn(2, 3, 16, 6, 6, generator=generator)
    last = torch.channels_last
    torch.testing.assert_close(
        cam_of(name, activation.to(memory_format=last), gradient.to(memory_format=last)),
        cam_of(name, activation, gradient),
    )


def test_the_methods_are_registered_by_importing_their_module() -> None:
    assert METHODS["hirescam"].function is camcli.cam.methods.gradient.hirescam
    assert METHODS["gradcam"].function is camcli.cam.methods.gradient.gradcam
