"""Where a map is hot, in pixels of the upright source picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from camcli.images.geometry import Box, Geometry

Ints = npt.NDArray[np.intp]
Bools = npt.NDArray[np.bool_]
HOT = 0.15
"""Share of the maximum above which a place is hot (Selvaraju 2017, section 4.1)."""


@dataclass(frozen=True)
class HotRegion:
    """`box` is (left, top, right, bottom) of the largest hot component, None where only padding
    is hot; `fraction` the hot share of the whole source picture, every component counted, from 0
    to 1.
    """

    box: Box | None
    fraction: float


def peak(cam: npt.NDArray[np.float32], geometry: Geometry) -> tuple[float, float]:
    """The centre of the hottest cell."""
    row, column = np.unravel_index(int(cam.argmax()), cam.shape)
    return geometry.cell_to_source(int(row), int(column), (cam.shape[0], cam.shape[1]))


def hot_region(cam: npt.NDArray[np.float32], geometry: Geometry) -> HotRegion:
    """The pixels of the view at 15 % of the rectified map's maximum or more."""
    hot, (x0, y0) = hot_places(cam, geometry)
    if not hot.any():
        return HotRegion(None, 0.0)
    found = _largest_component(hot)
    left, top, right, bottom = geometry.seen
    start = geometry.view_to_source(x0 + found[0], y0 + found[1])
    end = geometry.view_to_source(x0 + found[2], y0 + found[3])
    box = max(start[0], left), max(start[1], top), min(end[0], right), min(end[1], bottom)
    seen = (right - left) * (bottom - top) / (geometry.source[0] * geometry.source[1])
    return HotRegion(box, float(hot.mean()) * seen)


def hot_mask(cam: npt.NDArray[np.float32], geometry: Geometry, threshold: float = HOT) -> Bools:
    """The largest hot component as pixels of the upright source picture, (height, width): those
    whose centre lies in it. `threshold` is the share of the maximum from which a place is hot.
    """
    hot, (x0, y0) = hot_places(cam, geometry, threshold)
    width, height = geometry.source
    mask = np.zeros((height, width), np.bool_)
    numbered, count = components(hot)
    if not count:
        return mask
    largest = numbered == np.bincount(numbered[hot]).argmax()
    across = [int(geometry.source_to_view(x + 0.5, 0)[0] // 1) - x0 for x in range(width)]
    down = [int(geometry.source_to_view(0, y + 0.5)[1] // 1) - y0 for y in range(height)]
    columns = [x for x, at in enumerate(across) if 0 <= at < hot.shape[1]]
    rows = [y for y, at in enumerate(down) if 0 <= at < hot.shape[0]]
    if columns and rows:
        pixels = largest[[down[y] for y in rows]][:, [across[x] for x in columns]]
        mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = pixels
    return mask


def hot_places(
    cam: npt.NDArray[np.float32], geometry: Geometry, threshold: float = HOT
) -> tuple[Bools, tuple[int, int]]:
    """Which pixels of the view are hot, padding left away, and the (x, y) where those begin."""
    heat = geometry.on_view(np.maximum(cam, 0))
    hot = heat >= threshold * float(heat.max())
    left, top, right, bottom = geometry.seen
    x0, y0 = (round(v) for v in geometry.source_to_view(left, top))
    x1, y1 = (round(v) for v in geometry.source_to_view(right, bottom))
    return hot[y0:y1, x0:x1], (x0, y0)  # padding is no part of the picture


def components(hot: Bools) -> tuple[Ints, int]:
    """The 4-connected regions of a mask, numbered from 1 on a ground of 0, and how many."""
    starts, ends, component = _runs(hot)
    roots, numbers = np.unique(component, return_inverse=True)
    numbered = np.zeros(hot.shape, np.intp)
    numbered[hot] = np.repeat(numbers + 1, ends - starts)
    return numbered, len(roots)


def _largest_component(hot: Bools) -> tuple[int, int, int, int]:
    """The bounding box (left, top, right, bottom) of the largest 4-connected region.

    Of equal regions the first wins.
    """
    stride = hot.shape[1] + 1
    starts, ends, component = _runs(hot)
    mine = component == np.bincount(component, ends - starts).argmax()
    first, last = starts[mine], ends[mine]
    left, right = (first % stride).min(), (last % stride).max()
    return int(left), int(first[0]) // stride, int(right), int(last[-1]) // stride + 1


def _runs(hot: Bools) -> tuple[Ints, Ints, Ints]:
    """Where runs of hot pixels start and end, along rows with a cold pixel after each, and the
    first run of each one's region: runs are joined to those of the row above.
    """
    height, width = hot.shape
    stride = width + 1
    line = np.zeros(height * stride + 1, np.bool_)
    line[1:].reshape(height, stride)[:, :width] = hot
    turns = np.flatnonzero(line[1:] != line[:-1])
    starts, ends = turns[0::2], turns[1::2]
    return starts, ends, _joined(starts, ends, stride)


def _joined(starts: Ints, ends: Ints, stride: int) -> Ints:
    """For every run, the first run of its region; `stride` leads from a pixel to the one below."""
    # The runs that overlap this one's place in the row above: `count` of them from `first` on.
    first = np.searchsorted(ends, starts - stride, side="right")
    count = np.searchsorted(starts, ends - stride) - first
    parent = _flat(np.where(count > 0, first, np.arange(len(starts))))
    for run in np.flatnonzero(count > 1).tolist():  # where branches meet
        for other in range(first[run] + 1, first[run] + count[run]):
            one, two = sorted((_root(parent, other), _root(parent, run)))
            parent[two] = one
    return _flat(parent)


def _flat(parent: Ints) -> Ints:
    """Every run with its root as its parent."""
    while not np.array_equal(further := parent[parent], parent):
        parent = further
    return parent


def _root(parent: Ints, run: int) -> int:
    while parent[run] != run:
        parent[run] = parent[parent[run]]
        run = int(parent[run])
    return run
