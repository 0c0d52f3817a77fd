"""Methods of activation and gradient: worked by hand, replicated, and their symmetries."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor

import camcli.cam.methods  # noqa: F401 (registers them)
from camcli.cam.capture import LayerCapture
from camcli.registry import METHODS
from tests.cam import golden, posed
from tests.cam.golden import Case
from tests.cam.replicas import OF_LAYERS, OF_ONE_LAYER, REPLICAS, Layers

VIEW = (11, 9)
Batch = list[tuple[Tensor, Tensor]]
"""Activation and gradient, (N, C, h, w), of one layer or of several."""

every_method = pytest.mark.parametrize("name", REPLICAS)
PAIRS = [(name, case) for name, cases in golden.MAPS.items() for case in cases]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tensors this small are only slowed down by threads that wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def cam_of(name: str, batch: Batch, view: tuple[int, int] = VIEW) -> Tensor:
    captures = [
        LayerCapture(a, g, a.new_zeros(len(a)), SimpleNamespace(size=view)) for a, g in batch
    ]
    method = METHODS[name]
    found = method.function(captures if method.scope == "layers" else captures[0])
    return found.sum(dim=1) if found.dim() == 4 else found


def replica_of(name: str, layers: Layers, view: tuple[int, int] = VIEW) -> np.ndarray:
    return OF_LAYERS[name](layers, view) if name in OF_LAYERS else OF_ONE_LAYER[name](*layers[0])


def pictures(batch: Batch) -> list[Layers]:
    """Each picture of a batch, in float64."""
    return [[(a[n].double().numpy(), g[n].double().numpy()) for a, g in batch]
            for n in range(len(batch[0][0]))]  # fmt: skip


def each(batch: Batch, change: Callable[[Tensor], Tensor]) -> Batch:
    return [(change(a), change(g)) for a, g in batch]


def noise(name: str, *shape: int, seed: int, rectified: bool = False) -> Batch:
    """Normal numbers, for one layer, or for three of which each is half as large as the last."""
    generator = torch.Generator().manual_seed(seed)
    batch = []
    for level in range(3 if name in OF_LAYERS else 1):
        size = [max(1, side >> level) for side in shape[2:]]
        a, g = torch.randn(2, shape[0], shape[1] + level, *size, generator=generator)
        batch.append((a.relu() if rectified else a, g * 1e-3))
    return batch


@st.composite
def batches(draw: Callable[..., object], name: str, posed_well: bool = True) -> Batch:
    """A few pictures on small layers, rectified half of the time, as after a ReLU.

    Half of them are of numbers that Hypothesis chooses, half of normal ones: factors of the former
    are seldom decided.
    """
    count = draw(st.integers(1, 3))
    side = st.integers(1, 5)
    height, width = draw(side), draw(side)
    values = st.floats(-100, 100, width=32).map(lambda v: 0.0 if abs(v) < 1e-3 else v)
    rectified, chosen = draw(st.booleans()), draw(st.booleans())
    batch = []
    for level in range(draw(st.integers(2, 3)) if name in OF_LAYERS else 1):
        shape = (count, draw(side), max(1, height >> level), max(1, width >> level))
        if chosen:
            a, g = (draw(hnp.arrays(np.float32, shape, elements=values)) for _ in "AG")
        else:
            random = np.random.default_rng(draw(st.integers(0, 10**6)))
            a, g = random.standard_normal((2, *shape)).astype(np.float32)
        batch.append((torch.from_numpy(np.maximum(a, 0) if rectified else a), torch.from_numpy(g)))
    if posed_well:
        assume(all(posed.decided(name, picture) for picture in pictures(batch)))
    return batch


def assert_same_maps(name: str, batch: Batch, found: Tensor, expected: Tensor) -> None:
    """Equal up to what rounding may do to each picture."""
    for picture, one, other in zip(pictures(batch), found, expected, strict=True):
        atol = posed.rounding(name, picture)
        torch.testing.assert_close(one, other, rtol=0, atol=atol)


def test_every_method_has_a_replica_and_a_case_worked_by_hand() -> None:
    from tests.cam import network_golden, network_replicas

    assert set(REPLICAS) | set(network_replicas.REPLICAS) == set(METHODS)
    assert set(golden.MAPS) | set(network_golden.MAPS) == set(METHODS)


def test_what_depends_on_activation_and_gradient_alone_is_tested_here() -> None:
    assert list(REPLICAS) == [*OF_ONE_LAYER, *OF_LAYERS]
    assert set(golden.MAPS) == set(REPLICAS)
    assert {name for name in REPLICAS if METHODS[name].scope == "layers"} == set(OF_LAYERS)


@pytest.mark.parametrize(("name", "case"), PAIRS, ids=[name for name, _ in PAIRS])
def test_a_method_gives_the_map_worked_out_by_hand(name: str, case: Case) -> None:
    batch = [(torch.tensor([a], dtype=torch.float32), torch.tensor([g], dtype=torch.float32))
             for a, g in case.layers]  # fmt: skip
    expected = torch.tensor([case.cam], dtype=torch.float32)
    tolerance = 1e-6 if case.rounded else 0
    torch.testing.assert_close(
        cam_of(name, batch, case.view), expected, rtol=tolerance, atol=tolerance
    )


@pytest.mark.parametrize(("name", "case"), PAIRS, ids=[name for name, _ in PAIRS])
def test_a_replica_gives_the_map_worked_out_by_hand(name: str, case: Case) -> None:
    layers = [(np.array(a, float), np.array(g, float)) for a, g in case.layers]
    found = replica_of(name, layers, case.view)
    np.testing.assert_allclose(found, np.array(case.cam, float), rtol=1e-12, atol=1e-12)


@every_method
@pytest.mark.parametrize(
    "shape", [(3, 7, 5, 4), (2, 512, 7, 7), (1, 1, 1, 9), (2, 3, 2, 3), (1, 64, 12, 12)]
)
@pytest.mark.parametrize("rectified", [True, False])
def test_a_method_agrees_with_its_replica(
    name: str, shape: tuple[int, ...], rectified: bool
) -> None:
    """To 1e-5 of the map's maximum, float32's rounding in sums of up to 1,000 terms. XGrad-CAM
    divides by sums of signed values, in which as much is lost as they cancel.
    """
    batch = noise(name, *shape, seed=20, rectified=rectified)
    cam = cam_of(name, batch)
    expected = torch.from_numpy(np.stack([replica_of(name, one) for one in pictures(batch)]))
    cancelled = 1.0
    if name == "xgradcam":
        activation = batch[0][0].double().flatten(2)
        ratio = activation.abs().sum(dim=2) / activation.sum(dim=2).abs()
        cancelled = float(ratio.nan_to_num(1.0).max())
    assert cam.dtype == torch.float32
    assert cam.shape == expected.shape
    torch.testing.assert_close(
        cam.double(), expected, rtol=1e-5, atol=1e-5 * cancelled * float(expected.abs().max())
    )


@pytest.mark.parametrize("name", [name for name in REPLICAS if METHODS[name].needs == "gradient"])
@given(st.data())
@settings(max_examples=12)
def test_no_gradient_gives_a_map_of_zeros(name: str, data: st.DataObject) -> None:
    batch = data.draw(batches(name, posed_well=False))
    cam = cam_of(name, [(a, torch.zeros_like(g)) for a, g in batch])
    assert torch.equal(cam, torch.zeros_like(cam))


@pytest.mark.parametrize("name", [name for name in REPLICAS if METHODS[name].needs == "activation"])
def test_methods_of_the_activation_do_not_look_at_the_gradient(name: str) -> None:
    batch = noise(name, 2, 5, 4, 3, seed=6)
    other = [(a, torch.full_like(g, torch.nan)) for a, g in batch]
    assert torch.equal(cam_of(name, batch), cam_of(name, other))


@every_method
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_picture_beside_a_broken_one_keeps_its_map(name: str, value: float) -> None:
    batch = noise(name, 2, 5, 6, 6, seed=4)
    broken = [(a.clone(), g.clone()) for a, g in batch]
    for a, g in broken:
        a[1], g[1] = value, value
    cam = cam_of(name, broken)
    assert torch.equal(cam[0], cam_of(name, batch)[0])
    assert not cam[1].isfinite().any()  # and what is broken does not look whole


@every_method
@given(st.data())
@settings(max_examples=25)
def test_a_batch_equals_its_singles(name: str, data: st.DataObject) -> None:
    batch = data.draw(batches(name))
    count = len(batch[0][0])
    singles = [cam_of(name, each(batch, lambda m, n=n: m[n : n + 1])) for n in range(count)]
    assert_same_maps(name, batch, cam_of(name, batch), torch.cat(singles))


@every_method
@given(st.data(), st.randoms(use_true_random=False))
@settings(max_examples=25)
def test_the_order_of_the_channels_does_not_matter(name, data, random) -> None:
    batch = data.draw(batches(name))
    orders = [random.sample(range(a.shape[1]), a.shape[1]) for a, _ in batch]
    shuffled = [(a[:, order], g[:, order]) for (a, g), order in zip(batch, orders, strict=True)]
    assert_same_maps(name, batch, cam_of(name, shuffled), cam_of(name, batch))


@every_method
@pytest.mark.parametrize("axes", [(2,), (3,), (2, 3)])
@given(st.data())
@settings(max_examples=12)
def test_a_flipped_picture_has_the_flipped_map(name, axes, data) -> None:
    batch = data.draw(batches(name))
    found = cam_of(name, each(batch, lambda m: m.flip(axes)))
    expected = cam_of(name, batch).flip([axis - 1 for axis in axes])
    assert_same_maps(name, batch, found, expected)


@every_method
@given(st.data())
@settings(max_examples=25)
def test_maps_are_finite_and_inputs_stay_as_they_were(name: str, data: st.DataObject) -> None:
    batch = data.draw(batches(name, posed_well=False))
    before = each(batch, torch.clone)
    assert cam_of(name, batch).isfinite().all()
    for (a, g), (a_before, g_before) in zip(batch, before, strict=True):
        assert torch.equal(a, a_before)
        assert torch.equal(g, g_before)


@every_method
def test_the_memory_layout_does_not_matter(name: str) -> None:
    batch = noise(name, 2, 3, 16, 16, seed=5, rectified=True)
    last = each(batch, lambda m: m.to(memory_format=torch.channels_last))
    apart = each(batch, lambda m: m.repeat_interleave(2, dim=3)[..., ::2])
    expected = cam_of(name, batch)
    for other in (last, apart):
        assert_same_maps(name, batch, cam_of(name, other), expected)


@pytest.mark.parametrize("name", OF_LAYERS)
def test_the_order_of_the_layers_does_not_matter(name: str) -> None:
    batch = noise(name, 2, 4, 12, 12, seed=7)
    assert_same_maps(name, batch, cam_of(name, batch[::-1]), cam_of(name, batch))
