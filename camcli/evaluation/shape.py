"""Metrics of the shape of a map's hot region, which describe a map and do not judge it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from camcli.registry import metric

if TYPE_CHECKING:
    from camcli.evaluation.subject import Subject
    from camcli.images.shape import Shape


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
    from camcli.images.shape import hot_shape

    return [hot_shape(cam.cam, subject.image.geometry) for cam in subject.cams]
