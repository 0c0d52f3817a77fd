"""The statistics of a study, against slow replicas and the papers' own example."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest

from camcli.study import statistics

NONE = None
# Krippendorff (2011), "Computing Krippendorff's Alpha-Reliability", section E: four observers.
OBSERVERS = {
    "A": [1, 2, 3, 3, 2, 1, 4, 1, 2, NONE, NONE, NONE],
    "B": [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NONE, 3],
    "C": [NONE, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NONE],
    "D": [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NONE],
}


def ratings(observers: dict[str, list]) -> dict[str, dict[str, float]]:
    count = len(next(iter(observers.values())))
    return {
        str(item): {who: given[item] for who, given in observers.items() if given[item] is not None}
        for item in range(count)
    }


def slow_alpha(of_items: dict[str, dict[str, float]], ordinal: bool) -> Fraction:
    """By pairs of single answers, in exact fractions."""
    units = [list(answers.values()) for answers in of_items.values() if len(answers) > 1]
    pooled = [value for unit in units for value in unit]

    def distance(one: float, other: float) -> Fraction:
        if one == other:
            return Fraction(0)
        if not ordinal:
            return Fraction(1)
        low, high = sorted((one, other))
        between = sum(low <= value <= high for value in pooled)
        return (between - Fraction(pooled.count(low) + pooled.count(high), 2)) ** 2

    observed = sum(
        Fraction(1, len(unit) - 1) * sum(distance(a, b) for a, b in itertools.permutations(unit, 2))
        for unit in units
    )
    expected = sum(distance(a, b) for a, b in itertools.permutations(pooled, 2))
    return 1 - (len(pooled) - 1) * observed / expected


def test_alpha_is_that_of_the_papers_example() -> None:
    data = ratings(OBSERVERS)
    assert statistics.alpha(data, statistics.nominal) == pytest.approx(0.743, abs=5e-4)
    assert statistics.alpha(data, statistics.ordinal) == pytest.approx(0.815, abs=5e-4)


@pytest.mark.parametrize("seed", range(6))
def test_alpha_is_that_of_single_answers_compared_in_pairs(seed: int) -> None:
    generator = np.random.default_rng(seed)
    given = generator.integers(-2, 3, (4, 9)).astype(object)
    given[generator.random((4, 9)) < 0.3] = None
    data = ratings({str(row): list(values) for row, values in enumerate(given)})
    for ordinal, distance in ((True, statistics.ordinal), (False, statistics.nominal)):
        assert statistics.alpha(data, distance) == pytest.approx(float(slow_alpha(data, ordinal)))


def test_alpha_says_nothing_without_two_answers_or_two_values() -> None:
    assert statistics.alpha({"x": {"a": 1}, "y": {}}) is None
    assert statistics.alpha({"x": {"a": 1, "b": 1}, "y": {"a": 1, "b": 1}}) is None


@pytest.mark.parametrize(
    "differences", [[], [0, 0], [3], [1, 1, 1, 1, 1], [2, -1, 4, 0, 1], [-5, 3, 3, -1, 2, 2, -7]]
)
def test_the_sign_flip_test_counts_every_choice_of_signs(differences: list[int]) -> None:
    observed = abs(sum(differences))
    every = list(itertools.product((1, -1), repeat=len(differences)))
    beyond = sum(
        abs(sum(s * d for s, d in zip(signs, differences, strict=True))) >= observed
        for signs in every
    )
    assert statistics.sign_flip(differences) == pytest.approx(beyond / len(every))


def test_an_interval_holds_its_mean_and_is_the_same_again() -> None:
    generator = np.random.default_rng(0)
    data = {str(i): {r: float(generator.integers(-2, 3)) for r in "abc"} for i in range(20)}
    low, high = statistics.interval(data, seed=1)
    assert low < statistics.mean(data) < high
    assert statistics.interval(data, seed=1) == (low, high)
    assert statistics.interval(data, seed=2) != (low, high)


def test_an_interval_is_that_of_a_slow_bootstrap() -> None:
    generator = np.random.default_rng(5)
    table = generator.integers(-2, 3, (8, 3)).astype(float)
    data = {str(i): dict(zip("abc", row, strict=True)) for i, row in enumerate(table)}
    means = []
    for _ in range(4000):
        items, raters = generator.integers(0, 8, 8), generator.integers(0, 3, 3)
        means.append(np.mean([table[i, r] for i in items for r in raters]))
    slow = np.quantile(means, [0.025, 0.975])
    assert statistics.interval(data, seed=0) == pytest.approx(slow, abs=0.08)


def test_raters_who_agree_and_differ_from_item_to_item_give_a_wide_interval() -> None:
    """Many raters do not make up for few items: items are drawn again as well."""
    alike = {str(i): {str(r): v for r in range(50)} for i, v in enumerate([-2, 2, -2, 2])}
    low, high = statistics.interval(alike, seed=0)
    assert high - low > 2
    assert statistics.interval({"x": {"a": 1.0}}, seed=0) == (1.0, 1.0)
    assert statistics.interval({"x": {}}, seed=0) is None
    assert statistics.mean({"x": {}}) is None
