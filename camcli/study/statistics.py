"""Means with intervals, an exact test of paired differences, and agreement between raters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ratings = Mapping[str, Mapping[str, float]]
"""Of every item, by rater."""
_REPLICATES = 10_000
_LEVEL = 0.95


def mean(ratings: Ratings) -> float | None:
    """The mean of all answers; None where there are none."""
    values = [value for of_item in ratings.values() for value in of_item.values()]
    return float(np.mean(values)) if values else None


def interval(ratings: Ratings, seed: int) -> tuple[float, float] | None:
    """The 95 % percentile interval of the mean, (low, high); None where there are no answers.

    Items and raters are both drawn again with replacement (Owen 2007, the pigeonhole bootstrap),
    for both are samples: of the pictures that could be shown, of the people who could be asked.
    With one rater, or one item, the other alone is drawn.
    """
    table = _table(ratings)
    known = ~np.isnan(table)
    if not known.any():
        return None
    values, counts = np.where(known, table, 0.0), known.astype(np.float64)
    items, raters = table.shape
    generator = np.random.default_rng(seed)
    drawn = generator.multinomial(items, np.full(items, 1 / items), _REPLICATES)
    people = generator.multinomial(raters, np.full(raters, 1 / raters), _REPLICATES)
    sums = np.einsum("bi,ij,bj->b", drawn, values, people, optimize=True)
    numbers = np.einsum("bi,ij,bj->b", drawn, counts, people, optimize=True)
    means = sums[numbers > 0] / numbers[numbers > 0]
    low, high = np.quantile(means, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return float(low), float(high)


def sign_flip(differences: Sequence[int]) -> float:
    """The two-sided p of paired differences, whole numbers: P(|S| >= |sum|), S their sum with
    random signs.

    If the sides were alike, each difference would be as likely with the other sign (Fisher 1935).
    All 2^n signs are counted, by the distribution of partial sums, so that p is exact.
    """
    reach = sum(abs(d) for d in differences)
    chance = np.zeros(2 * reach + 1)
    chance[reach] = 1.0
    for d in differences:
        chance = (np.roll(chance, d) + np.roll(chance, -d)) / 2  # never reaches beyond the ends
    observed = abs(sum(differences))
    at = np.arange(-reach, reach + 1)
    return float(min(1.0, chance[np.abs(at) >= observed].sum()))


def ordinal(values: Floats, counts: Floats) -> Floats:
    """Krippendorff's ordinal distances: (the ranks between two values, half of each end)^2."""
    upto = np.cumsum(counts) - counts / 2
    found: Floats = (upto[:, None] - upto[None, :]) ** 2
    return found


def nominal(values: Floats, counts: Floats) -> Floats:
    """Distance 1 between any two different values."""
    found: Floats = (values[:, None] != values[None, :]).astype(np.float64)
    return found


def alpha(ratings: Ratings, distance: Callable[[Floats, Floats], Floats] = ordinal) -> float | None:
    """Krippendorff's alpha, 1 - observed / expected disagreement (Krippendorff 2011).

    1 is agreement, 0 what chance would give. None where no item has two answers, or all are alike.
    """
    units = [list(of_item.values()) for of_item in ratings.values() if len(of_item) > 1]
    values = np.unique([value for unit in units for value in unit])
    together = np.zeros((len(values), len(values)))
    for unit in units:
        counts = np.array([unit.count(value) for value in values], np.float64)
        together += (np.outer(counts, counts) - np.diag(counts)) / (len(unit) - 1)
    counts = together.sum(0)
    total = counts.sum()
    apart = distance(values, counts)
    expected = (np.outer(counts, counts) * apart).sum()
    if not expected:
        return None
    return float(1 - (total - 1) * (together * apart).sum() / expected)


def _table(ratings: Ratings) -> Floats:
    """Answers by item and rater, NaN where there is none."""
    raters = sorted({rater for of_item in ratings.values() for rater in of_item})
    rows = [[of_item.get(rater, np.nan) for rater in raters] for of_item in ratings.values()]
    return np.array(rows, np.float64).reshape(len(ratings), len(raters))
