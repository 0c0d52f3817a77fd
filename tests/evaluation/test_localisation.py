"""Pointing, energy and overlap, against known answers and slow replicas in source pixels."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camcli.evaluation import localisation
from camcli.images.geometry import Geometry

PLAIN = Geometry((40, 32), (40, 32), (0.0, 0.0, 40.0, 32.0))
CROPPED = Geometry.fitted((60, 40), (32, 32), 36, "crop")
PADDED = Geometry.fitted((60, 40), (32, 32), 36, "pad")


def blob(rows: slice, columns: slice, size: tuple[int, int] = (40, 32)) -> np.ndarray:
    mask = np.zeros(size[::-1], bool)
    mask[rows, columns] = True
    return mask


def hot(row: int, column: int, grid: tuple[int, int] = (4, 5)) -> np.ndarray:
    cam = np.full(grid, -1.0, np.float32)
    cam[row, column] = 2.0
    return cam


def heat_at(cam: np.ndarray, geometry: Geometry, x: float, y: float) -> float:
    """The rectified map at a point of the source, by the half-pixel rule, written out."""
    left, top, right, bottom = geometry.box
    column = (x - left) / (right - left) * cam.shape[1]
    row = (y - top) / (bottom - top) * cam.shape[0]
    if not (0 <= column <= cam.shape[1] and 0 <= row <= cam.shape[0]):
        return 0.0
    column = min(max(column - 0.5, 0), cam.shape[1] - 1)
    row = min(max(row - 0.5, 0), cam.shape[0] - 1)
    c, r = int(column), int(row)
    d, s = min(c + 1, cam.shape[1] - 1), min(r + 1, cam.shape[0] - 1)
    positive = np.maximum(cam, 0).astype(float)
    above = positive[r, c] * (1 - column + c) + positive[r, d] * (column - c)
    below = positive[s, c] * (1 - column + c) + positive[s, d] * (column - c)
    return above * (1 - row + r) + below * (row - r)


def whole_heat(cam: np.ndarray, geometry: Geometry) -> np.ndarray:
    width, height = geometry.source
    return np.array(
        [[heat_at(cam, geometry, x + 0.5, y + 0.5) for x in range(width)] for y in range(height)]
    )


maps = st.integers(0, 2**31).map(
    lambda seed: np.random.default_rng(seed).normal(size=(4, 5)).astype(np.float32)
)
geometries = st.sampled_from([PLAIN, CROPPED, PADDED])


def test_a_peak_on_the_object_hits_and_one_beyond_the_tolerance_misses():
    cam = hot(1, 2)  # its centre is at (20, 12)
    assert localisation.hits(cam, PLAIN, blob(slice(12, 13), slice(20, 21)))
    right = blob(slice(11, 12), slice(35, 36))  # centre (35.5, 11.5): sqrt(15.5^2 + 0.5^2) away
    assert not localisation.hits(cam, PLAIN, right)
    assert localisation.hits(cam, PLAIN, right, tolerance=15.51)
    assert localisation.hits(cam, PLAIN, blob(slice(11, 12), slice(34, 35)))


@settings(max_examples=15)
@given(maps, geometries, st.integers(0, 2**31), st.sampled_from([0.0, 3.0, 15.0]))
def test_hits_are_those_of_the_definition(cam, geometry, seed, tolerance):
    width, height = geometry.source
    generator = np.random.default_rng(seed)
    mask = np.zeros((height, width), bool)
    mask[generator.integers(height), generator.integers(width)] = True
    (y,), (x,) = np.nonzero(mask)
    row, column = np.unravel_index(cam.argmax(), cam.shape)
    px, py = geometry.cell_to_source(int(row), int(column), (4, 5))
    on_it = int(px) == x and int(py) == y
    near = math.hypot(x + 0.5 - px, y + 0.5 - py) <= tolerance
    assert localisation.hits(cam, geometry, mask, tolerance) == (on_it or near)


@pytest.mark.parametrize(
    "cam", [np.zeros((4, 5)), np.full((4, 5), 3.0), -np.ones((4, 5)), np.full((4, 5), np.nan)]
)
def test_a_map_that_points_nowhere_misses(cam):
    assert not localisation.hits(cam.astype(np.float32), PLAIN, np.ones((32, 40), bool))


def test_a_random_map_hits_as_often_as_the_object_is_large():
    generator = np.random.default_rng(0)
    mask = blob(slice(0, 16), slice(0, 16))  # 2 of 4 rows of cells, 2 of 5 columns
    hits = [
        localisation.hits(generator.random((4, 5), np.float32), PLAIN, mask, 0.0)
        for _ in range(2000)
    ]
    assert np.mean(hits) == pytest.approx(0.2, abs=0.03)


@settings(max_examples=15)
@given(maps, geometries)
def test_energy_is_the_share_of_the_heat_that_lies_on_the_object(cam, geometry):
    width, height = geometry.source
    mask = blob(slice(5, 20), slice(20, 33), (width, height))
    heat = whole_heat(cam, geometry)
    expected = heat[mask].sum() / heat.sum() if heat.sum() else 0.0
    assert localisation.energy(cam, geometry, mask) == pytest.approx(expected, abs=1e-5)


def test_energy_of_a_perfect_map_is_one_and_of_a_uniform_one_the_share_of_the_object():
    mask = blob(slice(8, 32), slice(8, 40))
    assert localisation.energy(hot(2, 3), PLAIN, mask) == 1.0
    uniform = np.ones((4, 5), np.float32)
    assert localisation.energy(uniform, PLAIN, mask) == pytest.approx(24 * 32 / (32 * 40))
    assert localisation.energy(-uniform, PLAIN, mask) == 0.0


@settings(max_examples=15)
@given(maps, geometries)
def test_overlaps_are_those_of_every_threshold(cam, geometry):
    width, height = geometry.source
    mask = blob(slice(5, 20), slice(20, 33), (width, height))
    heat = geometry.on_canvas(np.maximum(cam, 0), geometry.source).astype(float)
    np.testing.assert_allclose(heat, whole_heat(cam, geometry), atol=1e-5)
    for k, value in enumerate(localisation.overlaps(cam, geometry, mask), start=1):
        region = heat * (100 / heat.max()) >= k
        assert value == pytest.approx((region & mask).sum() / (region | mask).sum())
    assert k == 99


def test_the_overlap_of_a_perfect_map_is_one():
    cam = np.zeros((32, 40), np.float32)
    mask = blob(slice(3, 9), slice(5, 30))
    cam[mask] = 1.0
    assert localisation.overlaps(cam, PLAIN, mask).tolist() == [1.0] * 99
    assert not localisation.overlaps(-cam, PLAIN, mask).any()


def test_what_the_network_never_saw_is_no_part_of_the_object():
    everywhere = np.ones((40, 60), bool)
    seen = localisation.seen_mask(everywhere, CROPPED)
    heat = whole_heat(np.ones((4, 5), np.float32), CROPPED)
    np.testing.assert_array_equal(seen, heat > 0)
    outside = everywhere & ~seen
    assert outside.any()
    assert localisation.seen_mask(outside, CROPPED) is None
    np.testing.assert_array_equal(localisation.seen_mask(everywhere, PADDED), everywhere)


def test_the_threshold_is_chosen_on_one_half_and_measured_on_the_other():
    keys = [f"{k}.jpg" for k in range(40)]
    held = localisation.held_out(keys)
    assert 8 < sum(held) < 32
    curves = np.zeros((40, 2, 99))
    curves[:, 0, 29] = np.where(held, 0.25, 0.9)
    curves[:, 0, 69] = np.where(held, 0.75, 0.5)  # better where it must not be looked at
    curves[:, 1] = np.nan
    values, thresholds = localisation.held_out_iou(keys, curves)
    assert thresholds == [0.3, None]
    np.testing.assert_array_equal(values[:, 0], np.where(held, 0.25, np.nan))
    assert np.isnan(values[:, 1]).all()


def test_pictures_without_a_curve_count_in_neither_half():
    keys = [f"{k}.jpg" for k in range(40)]
    held = np.array(localisation.held_out(keys))
    curves = np.full((40, 1, 99), 0.5)
    curves[np.flatnonzero(~held)[0]] = curves[np.flatnonzero(held)[0]] = np.nan
    values, _ = localisation.held_out_iou(keys, curves)
    assert np.isnan(values[:, 0]).sum() == (~held).sum() + 1


def test_halves_depend_on_key_and_seed_alone():
    keys = [f"{k}.jpg" for k in range(40)]
    one, other = localisation.held_out(keys), localisation.held_out(keys, seed=1)
    assert localisation.held_out(keys[::-1]) == one[::-1]
    assert one != other
