"""Hot regions, against a flood fill that visits one pixel at a time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from camcli.images.geometry import Geometry
from camcli.images.region import hot_region, peak

# Whole numbers, so that 15 % of a maximum is met exactly or clearly missed.
maps = arrays.arrays(
    np.float32,
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    elements=st.sampled_from([-50.0, 0.0, 2.0, 3.0, 15.0, 20.0, 100.0]),
).filter(lambda cam: cam.max() > 0)


def pixel_for_pixel(cam: np.ndarray) -> Geometry:
    """A picture whose pixels are the cells of the map."""
    rows, columns = cam.shape
    return Geometry((columns, rows), (columns, rows), (0.0, 0.0, float(columns), float(rows)))


def flooded(hot: np.ndarray) -> tuple[int, int, int, int]:
    """The box of the largest 4-connected region; of equal ones that of the first pixel met."""
    waiting = {(int(y), int(x)) for y, x in np.argwhere(hot)}
    best: list[tuple[int, int]] = []
    for start in sorted(waiting):
        region, frontier = [], [start]
        while frontier:
            pixel = frontier.pop()
            if pixel in waiting:
                waiting.remove(pixel)
                region.append(pixel)
                y, x = pixel
                frontier += [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
        if len(region) > len(best):
            best = region
    ys, xs = [y for y, _ in best], [x for _, x in best]
    return min(xs), min(ys), max(xs) + 1, max(ys) + 1


@settings(max_examples=300)
@given(maps)
def test_the_hot_box_is_that_of_the_largest_flood(cam: np.ndarray) -> None:
    hot = cam * 100 >= 15 * cam.max()
    region = hot_region(cam, pixel_for_pixel(cam))
    assert region.box == flooded(hot)
    assert region.fraction == pytest.approx(hot.mean())


SPIRAL = """
    #########
    #.......#
    #.#####.#
    #.#...#.#
    #.#.#.#.#
    #.#.###.#
    #.#.....#
    #.#######
    """
COMB = """
    #.#.#.#.#
    #.#.#.#.#
    #########
    ....#....
    ###...###
    """
DIAGONAL = """
    ##.....
    ##.....
    ..###..
    ..###..
    .....#.
    """


@pytest.mark.parametrize(
    ("drawing", "box"),
    [(SPIRAL, (0, 0, 9, 8)), (COMB, (0, 0, 9, 4)), (DIAGONAL, (2, 2, 5, 4))],
    ids=["spiral", "comb", "diagonal neighbours are no neighbours"],
)
def test_regions_that_join_late_are_one(drawing: str, box: tuple[int, ...]) -> None:
    cam = np.array([[c == "#" for c in row] for row in drawing.split()], np.float32)
    assert hot_region(cam, pixel_for_pixel(cam)).box == box


def test_fifteen_per_cent_of_the_maximum_is_hot_and_less_is_not() -> None:
    cam = np.array([[100, 15, 14.999, 0, -200]], np.float32)
    region = hot_region(cam, pixel_for_pixel(cam))
    assert region.box == (0, 0, 2, 1)
    assert region.fraction == pytest.approx(2 / 5)


def test_a_box_is_in_source_pixels_and_its_fraction_is_of_the_whole_picture() -> None:
    cam = np.zeros((4, 4), np.float32)
    cam[1, 2] = 1
    # The view shows the middle 80x40 of a 100x100 picture.
    geometry = Geometry((100, 100), (4, 4), (10.0, 30.0, 90.0, 70.0))
    region = hot_region(cam, geometry)
    assert region.box == (50.0, 40.0, 70.0, 50.0)
    assert region.fraction == pytest.approx(20 * 10 / 100**2)
    assert peak(cam, geometry) == (60.0, 45.0)


def letterbox(fill: Callable[[np.ndarray], None]) -> tuple[np.ndarray, Geometry]:
    """An 8x4 picture in an 8x8 view, two rows of padding above and below it."""
    cam = np.zeros((8, 8), np.float32)
    fill(cam)
    return cam, Geometry((8, 4), (8, 8), (0.0, -2.0, 8.0, 6.0))


def test_padding_is_no_part_of_the_picture() -> None:
    def a_column_and_more_in_the_padding(cam: np.ndarray) -> None:
        cam[:, 0] = 1
        cam[:2, 3:] = 1  # ten pixels of padding against four in the picture
        cam[7, 2] = 5

    region = hot_region(*letterbox(a_column_and_more_in_the_padding))
    assert region.box == (0.0, 0.0, 1.0, 4.0)
    assert region.fraction == pytest.approx(4 / 32)


def test_where_only_padding_is_hot_there_is_no_box() -> None:
    def below(cam: np.ndarray) -> None:
        cam[7, 3] = 1

    region = hot_region(*letterbox(below))
    assert region.box is None
    assert region.fraction == 0


@pytest.mark.parametrize("source", [(17, 5), (3, 40), (640, 480)])
def test_no_box_reaches_beyond_a_padded_picture(source: tuple[int, int]) -> None:
    geometry = Geometry.fitted(source, (64, 48), 1, "pad")
    cam = np.ones((3, 4), np.float32)
    region = hot_region(cam, geometry)
    assert region.box == (0, 0, *source)
    assert region.fraction == pytest.approx(1)


def test_the_peak_is_the_centre_of_the_hottest_cell_the_first_of_equals() -> None:
    cam = np.array([[0, 3, 1], [3, 2, 0]], np.float32)
    geometry = Geometry((60, 20), (30, 30), (0.0, 0.0, 60.0, 20.0))
    assert peak(cam, geometry) == (30.0, 5.0)
