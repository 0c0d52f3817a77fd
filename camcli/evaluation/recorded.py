"""Metrics that cost nothing further: what the record says, and the shape of the map itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from camcli.registry import metric

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from camcli.evaluation.subject import Subject


@metric(
    title="completeness error",
    paper="arXiv 2011.08891",
    better="lower",
    kind="faithfulness",
)
def completeness_error(subject: Subject) -> list[float | None]:
    """|(score - baseline) - sum of the map| / |score - baseline|, as the record has it; the
    baseline is the score with the layer's activation at zero.

    Only for maps in units of the score, where the layer has a baseline.

    Cost: nothing; it is measured while the map is made.
    Known to get wrong: a map may account for the score with its mass in the wrong places.
    """
    return [cam.completeness_error for cam in subject.cams]


@metric(
    title="location error",
    paper="arXiv 2011.08891",
    better="lower",
    kind="faithfulness",
)
def location_error(subject: Subject) -> list[float | None]:
    """|L / |L| - H / |H||, H the HiResCAM map where that accounts for the score exactly (Draelos &
    Carin 2020, arXiv 2011.08891), as the record has it.

    Cost: nothing; it is measured while the map is made.
    Known to get wrong: nothing where it is defined; it is not defined for most networks' earlier
    layers.
    """
    return [cam.location_error for cam in subject.cams]


@metric(
    title="sparseness",
    paper="arXiv 1810.06583",
    better="higher",
    kind="complexity",
)
def sparseness(subject: Subject) -> list[float | None]:
    """The Gini index of |L| over the pixels of the view, 1 - 2 sum_k v_k (d - k + 1/2) / (d |v|),
    v sorted upwards, k = 1..d (Chalasani 2020, arXiv 1810.06583): 0 where all pixels are alike,
    1 - 1/d where a single one is not zero. No value for a map of zeros.

    Cost: nothing.
    Known to get wrong: one hot pixel anywhere is as sparse as can be.
    """
    return [gini(heat) for heat in subject.heat]


@metric(
    title="hot fraction",
    paper="arXiv 1610.02391",
    better="neither",
    kind="complexity",
)
def hot_fraction(subject: Subject) -> list[float | None]:
    """The share of the whole source picture where the map reaches 15 % of its maximum (the rule of
    Selvaraju 2017, section 4.1); no value for a map that is nowhere positive, or constant.

    Cost: nothing.
    Known to get wrong: it describes a map and does not judge it.
    """
    from camcli.images.region import hot_region

    geometry = subject.image.geometry
    return [
        hot_region(cam.cam, geometry).fraction if cam.status == "ok" else None
        for cam in subject.cams
    ]


def gini(values: npt.NDArray[np.float32]) -> float | None:
    """The Gini index of the absolute values; None where all are zero."""
    import numpy as np

    ordered = np.sort(np.abs(values.astype(np.float64)).ravel())
    count, total = len(ordered), float(ordered.sum())
    if total == 0:
        return None
    weight = (count - np.arange(1, count + 1) + 0.5) / count
    return float(1 - 2 * (ordered / total) @ weight)
