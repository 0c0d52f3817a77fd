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
    """`box` is (left, top, right, bottom) of the largest hot component; `fraction` the hot share
    of the whole source picture, every component counted, from 0 to 1.
    """

    box: Box
    fraction: float


def peak(cam: npt.NDArray[np.float32], geometry: Geometry) -> tuple[float, float]:
    """The centre of the hottest cell."""
    row, column = np.unravel_index(int(cam.argmax()), cam.shape)
    return geometry.cell_to_source(int(row), int(column), (cam.shape[0], cam.shape[1]))


def hot_region(cam: npt.NDArray[np.float32], geometry: Geometry) -> HotRegion:
    """The pixels of the view at 15 % of the rectified map's maximum or more."""
    heat = geometry.on_view(np.maximum(cam, 0))
    hot = heat >= HOT * float(heat.max())
    left, top, right, bottom = _largest_component(hot)
    x0, y0 = geometry.view_to_source(left, top)
    x1, y1 = geometry.view_to_source(right, bottom)
    edge = geometry.seen
    box = (max(x0, edge[0]), max(y0, edge[1]), min(x1, edge[2]), min(y1, edge[3]))
    return HotRegion(box, _share_of_source(hot, geometry))


def _share_of_source(hot: npt.NDArray[np.bool_], geometry: Geometry) -> float:
    """Padding is no part of the picture, so only the pixels of the view that show it count."""
    left, top, right, bottom = geometry.seen
    x0, y0 = (round(v) for v in geometry.source_to_view(left, top))
    x1, y1 = (round(v) for v in geometry.source_to_view(right, bottom))
    seen = (right - left) * (bottom - top) / (geometry.source[0] * geometry.source[1])
    return float(hot[y0:y1, x0:x1].mean()) * seen


def _largest_component(hot: npt.NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """The bounding box (left, top, right, bottom) of the largest 4-connected region.

    Runs of hot pixels are joined row by row with union-find; of equal regions the first wins.
    """
    parent: list[int] = []
    runs: list[tuple[int, int, int]] = []

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    above: list[int] = []
    edges = np.diff(np.pad(hot.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    for y in range(hot.shape[0]):
        starts, ends = np.flatnonzero(edges[y] == 1), np.flatnonzero(edges[y] == -1)
        here = []
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
            run = len(runs)
            runs.append((y, start, end))
            parent.append(run)
            here.append(run)
            for other in above:
                if runs[other][1] < end and start < runs[other][2]:
                    one, two = sorted((root(other), root(run)))
                    parent[two] = one
        above = here
    sizes: dict[int, int] = {}
    for run, (_, start, end) in enumerate(runs):
        sizes[root(run)] = sizes.get(root(run), 0) + end - start
    best = max(sizes, key=lambda r: sizes[r])
    mine = [runs[run] for run in range(len(runs)) if root(run) == best]
    return (
        min(start for _, start, _ in mine),
        mine[0][0],
        max(end for _, _, end in mine),
        mine[-1][0] + 1,
    )
