"""The shape of a map's hot region: how large it is, in how many pieces, and how round."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from camcli.images.geometry import Geometry
from camcli.images.region import components, hot_places

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Shape:
    """`area` is the hot share of what the network saw, 0 to 1; `components` the number of its
    4-connected pieces; `roundness` 4 pi A / P^2 of the largest, 1 for a disc.
    """

    area: float
    components: int
    roundness: float


def hot_shape(cam: npt.NDArray[np.float32], geometry: Geometry) -> Shape | None:
    """That of the places at 15 % of the rectified map's maximum or more, on the network's view;
    None where nothing is hot.

    Pixels of the view count, so that roundness is that of the map and not of how it is stretched.
    """
    if not 0 < float(cam.max()) < math.inf:
        return None
    hot, _ = hot_places(cam, geometry)
    if not hot.any():
        return None
    numbered, count = components(hot)
    largest = numbered == int(np.bincount(numbered[hot]).argmax())
    return Shape(float(hot.mean()), count, roundness(largest))


def roundness(region: Mask) -> float:
    """4 pi A / P^2, with the perimeter by Crofton's formula in four directions.

    P = pi/4 (e_0 + e_90 + (e_45 + e_135) / sqrt 2), where e counts the places at which rows,
    columns and diagonals enter the region. A disc of 5 pixels' radius or more comes within 5 % of
    1, an upright square near 0.87; what the estimate puts above 1 is cut off.
    """
    padded = np.pad(region, 1)
    straight = _entries(padded[:, :-1], padded[:, 1:]) + _entries(padded[:-1], padded[1:])
    diagonal = _entries(padded[:-1, :-1], padded[1:, 1:]) + _entries(
        padded[:-1, 1:], padded[1:, :-1]
    )
    perimeter = math.pi / 4 * (straight + diagonal / math.sqrt(2))
    return min(1.0, 4 * math.pi * np.count_nonzero(region) / perimeter**2)


def _entries(here: Mask, there: Mask) -> int:
    return int(np.count_nonzero(~here & there))
