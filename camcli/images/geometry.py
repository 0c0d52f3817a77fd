"""The one owner of the mapping between source picture, network view and CAM grid."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt

Fit = Literal["crop", "squash", "pad"]
Box = tuple[float, float, float, float]
Floats = npt.NDArray[np.float32]
_COARSE = 32  # cells


@dataclass(frozen=True)
class Geometry:
    """Where the network's view lies on the upright source picture.

    Sizes are (width, height). `box` is the view's (left, top, right, bottom) in source pixels: it
    is smaller than the picture where the picture was cropped and reaches beyond it where the view
    was padded. All coordinates are continuous with pixel i covering [i, i + 1): pixel centres lie
    at i + 0.5, which is the half-pixel (`align_corners=False`) convention throughout.
    """

    source: tuple[int, int]
    view: tuple[int, int]
    box: Box

    @classmethod
    def fitted(
        cls, source: tuple[int, int], view: tuple[int, int], resize: int, fit: Fit
    ) -> Geometry:
        """The geometry of a picture prepared for the network.

        `crop`: the shorter side is resized to `resize`, then the centre is cut out (torchvision's
        rule, its rounding included). `squash`: the whole picture is stretched over the view.
        `pad`: the whole picture is fitted inside the view, centred.
        """
        width, height = source
        if fit == "squash":
            return cls(source, view, (0.0, 0.0, float(width), float(height)))
        if fit == "crop":
            resized = _shorter_side_to(source, resize)
        else:
            scale = min(view[0] / width, view[1] / height)
            resized = (max(1, round(width * scale)), max(1, round(height * scale)))
        box = []
        for size, seen, whole in zip(source, view, resized, strict=True):
            # The same offset for both fits: negative where the view is larger than the picture.
            offset = round((whole - seen) / 2)
            box.append((offset * size / whole, (offset + seen) * size / whole))
        (left, right), (top, bottom) = box
        return cls(source, view, (left, top, right, bottom))

    @property
    def seen(self) -> Box:
        """The part of the source picture that the network saw, in source pixels."""
        left, top, right, bottom = self.box
        width, height = self.source
        return max(left, 0.0), max(top, 0.0), min(right, float(width)), min(bottom, float(height))

    def view_to_source(self, x: float, y: float) -> tuple[float, float]:
        """A point of the view, in source pixels."""
        left, top, right, bottom = self.box
        width, height = self.view
        return left + x * (right - left) / width, top + y * (bottom - top) / height

    def source_to_view(self, x: float, y: float) -> tuple[float, float]:
        """A point of the source picture, in pixels of the view."""
        left, top, right, bottom = self.box
        width, height = self.view
        return (x - left) * width / (right - left), (y - top) * height / (bottom - top)

    def cell_to_source(self, row: int, column: int, grid: tuple[int, int]) -> tuple[float, float]:
        """The centre of cell (row, column) of an (h, w) grid over the view, in source pixels."""
        x = (column + 0.5) * self.view[0] / grid[1]
        y = (row + 0.5) * self.view[1] / grid[0]
        return self.view_to_source(x, y)

    def on_view(self, cam: Floats) -> Floats:
        """The map interpolated bilinearly to the view, (h, w) -> (view height, view width)."""
        rows, columns = cam.shape
        down = _interpolation(rows, self.view[1], 0.0, float(rows))
        across = _interpolation(columns, self.view[0], 0.0, float(columns))
        return _between(down, cam, across)

    def on_canvas(self, cam: Floats, canvas: tuple[int, int]) -> Floats:
        """The map on the whole source picture drawn at `canvas` (width, height) pixels.

        One interpolation from the grid, (h, w) -> (height, width); zero where the network saw
        nothing.
        """
        rows, columns = cam.shape
        left, top, right, bottom = self.box
        column, row = columns / (right - left), rows / (bottom - top)
        width, height = self.source
        across = _interpolation(columns, canvas[0], -left * column, (width - left) * column)
        down = _interpolation(rows, canvas[1], -top * row, (height - top) * row)
        return _between(down, cam, across)


def _between(down: Floats, cam: Floats, across: Floats) -> Floats:
    """The product down @ cam @ across.T.

    Of coarse maps not by BLAS, which wakes a thread on every core and then waits for those that
    decode and explain: 20 ms instead of 0.3 on two busy cores.
    """
    if max(cam.shape) > _COARSE:
        return np.asarray(down @ cam @ across.T, np.float32)
    rows = np.einsum("ij,jk->ik", down, cam)
    return np.asarray(np.einsum("ij,jk->ik", rows, np.ascontiguousarray(across.T)), np.float32)


def _shorter_side_to(source: tuple[int, int], resize: int) -> tuple[int, int]:
    """Torchvision's `Resize(int)`: the longer side is cut to a whole pixel, not rounded."""
    width, height = source
    if width <= height:
        return resize, int(resize * height / width)
    return int(resize * width / height), resize


@lru_cache(maxsize=256)
def _interpolation(cells: int, points: int, start: float, stop: float) -> Floats:
    """The bilinear weights, (points, cells), of points spread over [start, stop] in cells.

    A point outside [0, cells] gets no weight at all; one within half a cell of the edge takes the
    edge cell. Pictures of one size share the matrix.
    """
    positions = start + (np.arange(points) + 0.5) * ((stop - start) / points)
    matrix = np.zeros((points, cells), np.float32)
    inside = np.flatnonzero((positions >= 0) & (positions <= cells))
    at = np.clip(positions[inside] - 0.5, 0, cells - 1)
    low = np.floor(at).astype(np.intp)
    share = (at - low).astype(np.float32)
    matrix[inside, low] = 1 - share
    matrix[inside, np.minimum(low + 1, cells - 1)] += share
    matrix.flags.writeable = False
    return matrix
