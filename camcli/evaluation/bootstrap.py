"""Percentile bootstrap intervals over pictures, for means and for paired differences."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]
RESAMPLES, CONFIDENCE = 2000, 0.95
_AT_ONCE = 2**22
# Differences of this share of the values are rounding, however regular.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Interval:
    """A mean over `n` pictures, and its confidence interval; None where there are too few."""

    n: int
    mean: float | None = None
    low: float | None = None
    high: float | None = None


def intervals(values: Values, seed: int) -> list[Interval]:
    """An interval for each column of (pictures, columns), by percentiles of the means of resampled
    pictures (Efron & Tibshirani 1993, section 13.3); NaN where a picture has no value.

    The same pictures are drawn for all columns, and for the same seed.
    """
    if not len(values):
        return [Interval(0)] * values.shape[1]
    tail = (1 - CONFIDENCE) / 2
    counts, means = (~np.isnan(values)).sum(axis=0), _resampled(values, seed)
    found = []
    for column, n in enumerate(counts.tolist()):
        if n == 0:
            found.append(Interval(0))
            continue
        mean = float(np.nanmean(values[:, column]))
        if n == 1:
            found.append(Interval(1, mean))
            continue
        low, high = np.nanquantile(means[:, column], [tail, 1 - tail])
        found.append(Interval(n, mean, float(low), float(high)))
    return found


def preferences(values: Values, higher: bool, seed: int) -> npt.NDArray[np.int8]:
    """Which of two columns is the better one, (columns, columns): 1 where the row's is, -1 where
    the column's is, 0 where the interval of their paired differences holds 0.

    Paired: by pictures that have both values. What differs by rounding alone is the same.
    """
    columns = values.shape[1]
    first, second = np.triu_indices(columns, 1)
    found = np.zeros((columns, columns), np.int8)
    differences = values[:, first] - values[:, second]
    for a, b, interval in zip(first, second, intervals(differences, seed), strict=True):
        if interval.low is None or interval.high is None:
            continue
        least = _ROUNDING * float(np.nanmean(np.abs(values[:, [a, b]])))
        sign = int(interval.low > least) - int(interval.high < -least)
        found[a, b] = sign if higher else -sign
        found[b, a] = -found[a, b]
    return found


def _resampled(values: Values, seed: int) -> Values:
    """The columns' means over resampled pictures, (resamples, columns); NaN where none has one."""
    there = ~np.isnan(values)
    filled = np.where(there, values, 0.0)
    with np.errstate(invalid="ignore"):
        return np.concatenate([(drawn @ filled) / (drawn @ there)
                               for drawn in _drawn(len(values), seed)])  # fmt: skip


def _drawn(pictures: int, seed: int) -> Iterator[Values]:
    """How often each picture is drawn, (some resamples, pictures), until there are enough."""
    generator = np.random.default_rng(seed)
    size = max(1, min(RESAMPLES, _AT_ONCE // pictures))
    for start in range(0, RESAMPLES, size):
        count = min(size, RESAMPLES - start)
        shares = np.full(pictures, 1 / pictures)
        yield generator.multinomial(pictures, shares, count).astype(np.float64)
