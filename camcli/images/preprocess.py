"""From an upright picture to the network's view, as the weights were evaluated."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from camcli.errors import UsageError
from camcli.images.geometry import Box, Fit, Geometry

Interpolation = Literal["nearest", "bilinear", "bicubic"]

_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


@dataclass(frozen=True)
class Preprocessing:
    """Resize the shorter side to `resize`, cut out `size` (width, height), normalise.

    `mean` and `std` are per channel, for values in [0, 1]. `origin` says where the values come
    from: a weights entry, a model's configuration, or flags.
    """

    size: tuple[int, int]
    resize: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: Interpolation
    fit: Fit
    origin: str

    def __post_init__(self) -> None:
        if self.fit == "crop" and self.resize < max(self.size):
            raise UsageError(
                f"--resize {self.resize} is smaller than the view {self.size[0]}x{self.size[1]}; "
                "raise --resize, lower --size, or use --fit pad"
            )
        if min(self.std) <= 0:
            raise UsageError(f"--std must be positive in every channel, not {self.std}")


def prepare(picture: Image.Image, recipe: Preprocessing) -> tuple[npt.NDArray[np.uint8], Geometry]:
    """An upright RGB picture -> its view (H, W, 3) uint8, and where the view lies on it.

    Only the pixels of the view are resampled, which gives the same pixels as resizing the whole
    picture and cropping afterwards. Padding takes the mean colour, zero after normalisation.
    """
    geometry = Geometry.fitted(picture.size, recipe.size, recipe.resize, recipe.fit)
    resampling = _RESAMPLING[recipe.interpolation]
    left, top, right, bottom = geometry.seen
    if geometry.seen == geometry.box:
        return np.asarray(_resampled(picture, recipe.size, resampling, geometry.seen)), geometry
    start = [round(v) for v in geometry.source_to_view(left, top)]
    end = [round(v) for v in geometry.source_to_view(right, bottom)]
    view = np.empty((recipe.size[1], recipe.size[0], 3), np.uint8)
    view[:] = np.round(np.asarray(recipe.mean) * 255).astype(np.uint8)
    size = end[0] - start[0], end[1] - start[1]
    inner = _resampled(picture, size, resampling, geometry.seen)
    view[start[1] : end[1], start[0] : end[0]] = np.asarray(inner)
    return view, geometry


def _resampled(
    picture: Image.Image, size: tuple[int, int], resampling: Image.Resampling, box: Box
) -> Image.Image:
    """The box at that size: across, then down, the order in which Pillow resized until release 13.

    Since then it goes by how much each side shrinks, which a crop changes, and it clips to 8 bits
    in between: left to itself it moves pixels of upright photos by up to 15 levels.
    """
    left, top, right, bottom = box
    # Rows that the second pass reaches for: two around a pixel (bicubic), and one for rounding.
    reach = 2 * max(1.0, (bottom - top) / size[1]) + 1
    first = max(0, math.floor(top - reach))
    last = min(picture.height, math.ceil(bottom + reach))
    rows = picture.crop((0, first, picture.width, last))
    across = rows.resize((size[0], rows.height), resampling, (left, 0, right, rows.height))
    return across.resize(size, resampling, (0, top - first, size[0], bottom - first))
