"""Where a map is hot, in pixels of the upright source picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from camcli.images.geometry import Box, Geometry

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
    heat = geometry.on_view(np.maximum(cam, 0))
    hot = heat >= HOT * float(heat.max())
    left, top, right, bottom = geometry.seen
    x0, y0 = (round(v) for v in geometry.source_to_view(left, top))
    x1, y1 = (round(v) for v in geometry.source_to_view(right, bottom))
    hot = hot[y0:y1, x0:x1]  # padding is no part of the picture
    if not hot.any():
        return HotRegion(None, 0.0)
    found = _largest_component(hot)
    start = geometry.view_to_source(x0 + found[0], y0 + found[1])
    end = geometry.view_to_source(x0 + found[2], y0 + found[3])
    box = max(start[0], left), max(start[1], top), min(end[0], right), min(end[1], bottom)
    seen = (right - left) * (bottom - top) / (geometry.source[0] * geometry.source[1])
    return HotRegion(box, float(hot.mean()) * seen)


def _largest_component(hot: npt.NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """The bounding box (left, top, right, bottom) of the largest 4-connected region.

    Runs of hot pixels are joined to those of the row above by union-find; of equal regions the
    first wins.
    """
    edges = np.diff(np.pad(hot.view(np.int8), ((0, 0), (1, 1))), axis=1)
    rows, starts = np.nonzero(edges == 1)
    ends = np.nonzero(edges == -1)[1]
    runs = list(zip(rows.tolist(), starts.tolist(), ends.tolist(), strict=True))
    parent = list(range(len(runs)))

    def root(run: int) -> int:
        while parent[run] != run:
            parent[run] = run = parent[parent[run]]
        return run

    above = 0
    for run, (row, start, end) in enumerate(runs):
        # Runs that end before this one starts can touch none of the row's later runs either.
        while runs[above][0] < row - 1 or (runs[above][0] == row - 1 and runs[above][2] <= start):
            above += 1
        other = above
        while runs[other][0] == row - 1 and runs[other][1] < end:
            first, second = sorted((root(other), root(run)))
            parent[second] = first
            other += 1
    sizes = [0] * len(runs)
    for run, (_, start, end) in enumerate(runs):
        sizes[root(run)] += end - start
    best = sizes.index(max(sizes))
    mine = [runs[run] for run in range(len(runs)) if root(run) == best]
    left, right = min(run[1] for run in mine), max(run[2] for run in mine)
    return left, mine[0][0], right, mine[-1][0] + 1
