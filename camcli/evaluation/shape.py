"""The shape of a map's hot region: how large it is, in how many pieces, and how round."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from camcli.images.geometry import Geometry
from camcli.images.region import components, hot_places
from camcli.registry import metric

if TYPE_CHECKING:
    from camcli.evaluation.subject import Subject

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


@metric(
    title="hot pieces",
    paper="arXiv 1610.02391",
    better="neither",
    kind="complexity",
)
def hot_pieces(subject: Subject) -> list[float | None]:
    """How many 4-connected pieces of the view reach 15 % of the map's maximum (the rule of
    Selvaraju 2017, section 4.1); no value for a map that is nowhere positive.

    Cost: nothing.
    Known to get wrong: it describes a map and does not judge it.
    """
    return [None if shape is None else float(shape.components) for shape in _shapes(subject)]


@metric(
    title="hot roundness",
    paper="arXiv 1610.02391",
    better="neither",
    kind="complexity",
)
def hot_roundness(subject: Subject) -> list[float | None]:
    """4 pi area / perimeter^2 of the largest of the hot pieces: 1 for a disc, near 0 for what is
    long or ragged; the perimeter is estimated by Crofton's formula in four directions.

    Cost: nothing.
    Known to get wrong: it describes a map and does not judge it; coarse grids make round maps.
    """
    return [None if shape is None else shape.roundness for shape in _shapes(subject)]


def _shapes(subject: Subject) -> list[Shape | None]:
    return [hot_shape(cam.cam, subject.image.geometry) for cam in subject.cams]
