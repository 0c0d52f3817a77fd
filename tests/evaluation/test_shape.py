"""Area, pieces and roundness of hot regions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from camcli.images.geometry import Geometry
from camcli.images.region import components
from camcli.images.shape import hot_shape, roundness

PLAIN = Geometry((100, 80), (100, 80), (0.0, 0.0, 100.0, 80.0))


def disc(radius: float) -> np.ndarray:
    y, x = np.mgrid[:120, :120] - 59.5
    return x**2 + y**2 <= radius**2


@pytest.mark.parametrize("radius", [5, 10, 20, 50])
def test_a_disc_is_round(radius):
    assert roundness(disc(radius)) == pytest.approx(1.0, abs=0.05)


def test_a_square_and_a_strip_are_less_round_and_turning_changes_nothing():
    square = np.ones((40, 40), bool)
    assert roundness(square) == pytest.approx(0.87, abs=0.02)
    strip = np.ones((4, 100), bool)
    assert roundness(strip) < 0.2
    assert roundness(strip) == roundness(strip.T)


def test_a_hole_makes_a_region_less_round():
    assert roundness(disc(30) & ~disc(10)) < 0.8 * roundness(disc(30))


@given(arrays.arrays(bool, st.tuples(st.integers(1, 8), st.integers(1, 8))))
def test_components_are_those_of_a_flood(hot):
    numbered, count = components(hot)
    assert ((numbered > 0) == hot).all()
    seen = np.zeros_like(hot)
    pieces = 0
    for start in zip(*np.nonzero(hot), strict=True):
        if seen[start]:
            continue
        pieces += 1
        waiting, members = [start], set()
        while waiting:
            r, c = waiting.pop()
            inside = 0 <= r < hot.shape[0] and 0 <= c < hot.shape[1]
            if inside and hot[r, c] and not seen[r, c]:
                seen[r, c] = True
                members.add(int(numbered[r, c]))
                waiting += [(r + 1, c), (r - 1, c), (r, c + 1), (r, c - 1)]
        assert len(members) == 1
    assert count == pieces == len(set(numbered[hot].tolist()))


def test_a_map_of_two_spots_has_two_pieces_and_the_area_of_both():
    cam = np.zeros((8, 10), np.float32)
    cam[1, 1] = 1.0
    cam[5:7, 6:9] = 1.0
    shape = hot_shape(cam, PLAIN)
    heat = PLAIN.on_view(cam)
    assert shape is not None
    assert shape.components == 2
    assert shape.area == pytest.approx((heat >= 0.15 * heat.max()).mean())
    large = np.zeros_like(cam)
    large[5:7, 6:9] = 1.0
    assert shape.roundness == hot_shape(large, PLAIN).roundness


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf])
def test_a_map_without_a_hot_place_has_no_shape(value):
    assert hot_shape(np.full((3, 3), value, np.float32), PLAIN) is None
