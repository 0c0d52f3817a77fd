"""Percentile bootstrap intervals over pictures, for means and for paired differences."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]
RESAMPLES, CONFIDENCE = 2000, 0.95


@dataclass(frozen=True)
class Interval:
    """A mean over `n` pictures and where the confidence interval of it lies; None for one picture
    or none.
    """

    n: int
    mean: float | None
    low: float | None
    high: float | None


def intervals(values: Values, seed: int) -> list[Interval]:
    """An interval for each column of (pictures, columns); NaN where a picture has no value.

    The columns' resamples are the same, so that they are paired (Efron & Tibshirani 1993,
    chapter 13).
    """
    pictures, columns = values.shape
    there = ~np.isnan(values)
    counts = there.sum(axis=0)
    filled = np.where(there, values, 0.0)
    drawn = np.random.default_rng(seed).multinomial(
        pictures, np.full(pictures, 1 / pictures), RESAMPLES
    ) if pictures else np.zeros((RESAMPLES, 0))  # fmt: skip
    found = []
    tail = (1 - CONFIDENCE) / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        means = (drawn @ filled) / (drawn @ there)
    for column in range(columns):
        n = int(counts[column])
        if n == 0:
            found.append(Interval(0, None, None, None))
            continue
        mean = float(filled[:, column].sum() / n)
        if n == 1:
            found.append(Interval(1, mean, None, None))
            continue
        low, high = np.nanquantile(means[:, column], [tail, 1 - tail])
        found.append(Interval(n, mean, float(low), float(high)))
    return found
