"""Intervals over pictures, and the orders of methods that rest on them."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from camcli import evaluation as _registered
from camcli.evaluation import bootstrap
from camcli.evaluation.bootstrap import Interval, intervals, preferences
from camcli.evaluation.contradictions import contradictions, told
from camcli.evaluation.measuring import Row
from camcli.registry import METRICS

assert _registered.__all__
VALUES = arrays.arrays(
    np.float64,
    st.tuples(st.integers(2, 12), st.integers(1, 3)),
    elements=st.floats(-10, 10, width=16) | st.just(float("nan")),
)


def resampled_slowly(values: np.ndarray, drawn: np.ndarray) -> tuple[float, float]:
    """Percentiles of the means of resampled pictures, each resample written out."""
    means = []
    for counts in drawn:
        pictures = [v for v, count in zip(values, counts, strict=True) for _ in range(int(count))]
        means.append(sum(pictures) / len(pictures))
    return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


def test_an_interval_is_where_the_means_of_resamples_lie() -> None:
    values = np.random.default_rng(0).exponential(size=(15, 2))
    drawn = np.concatenate([*bootstrap._drawn(15, seed=3)])
    assert drawn.shape == (2000, 15)
    assert (drawn.sum(axis=1) == 15).all()
    for column, interval in enumerate(intervals(values, seed=3)):
        assert (interval.low, interval.high) == pytest.approx(
            resampled_slowly(values[:, column], drawn)
        )
        assert interval.mean == pytest.approx(values[:, column].mean())


def test_intervals_hold_the_true_mean_about_as_often_as_they_say() -> None:
    generator = np.random.default_rng(1)
    values = generator.normal(2, 1, size=(40, 400))  # 400 studies of 40 pictures
    held = [i.low < 2 < i.high for i in intervals(values, seed=0)]
    assert 0.90 < np.mean(held) < 0.98


@given(VALUES, st.integers(0, 5))
def test_an_interval_lies_within_the_values_around_their_mean(
    values: np.ndarray, seed: int
) -> None:
    for column, found in zip(values.T, intervals(values, seed), strict=True):
        there = column[~np.isnan(column)]
        assert found.n == len(there)
        if len(there) < 2:
            assert (found.low, found.high) == (None, None)
            continue
        slack = 1e-9
        assert there.min() - slack <= found.low <= found.high <= there.max() + slack
        assert there.min() - slack <= found.mean <= there.max() + slack


def test_pictures_without_a_value_are_as_if_they_were_not_there() -> None:
    values = np.array([[1.0], [np.nan], [3.0]])
    (found,) = intervals(values, 0)
    assert (found.n, found.mean) == (2, 2)
    assert intervals(values[:1], 0) == [Interval(1, 1.0)]
    assert intervals(values[1:2], 0) == [Interval(0)]
    assert intervals(values[:0], 0) == [Interval(0)]


def test_resamples_in_parts_are_the_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(size=(7, 2))
    whole = intervals(values, 0)
    monkeypatch.setattr(bootstrap, "_AT_ONCE", 70)
    assert intervals(values, 0) == whole


@given(VALUES, st.booleans())
def test_a_preference_is_the_opposite_the_other_way_round(values: np.ndarray, higher: bool) -> None:
    found = preferences(values, higher, 0)
    assert (found == -found.T).all()
    assert (preferences(values, not higher, 0) == -found).all()


def test_methods_are_compared_picture_by_picture() -> None:
    """Pictures differ by far more than the methods: only pairs can tell them apart."""
    pictures = np.linspace(0, 100, 20)
    values = np.stack([pictures, pictures + 1, pictures * (1 + 1e-9)], axis=1)
    one, other, _ = intervals(values, 0)
    assert other.low < one.high
    assert preferences(values, higher=True, seed=0).tolist() == [[0, -1, 0], [1, 0, 1], [0, -1, 0]]


ROWS = [Row("hirescam", "l"), Row("layercam", "l"), Row("(random)", "")]


def measured(**values: np.ndarray) -> SimpleNamespace:
    metrics = [METRICS[name] for name in values]
    return SimpleNamespace(
        rows=ROWS, metrics=metrics, seed=0, values=lambda metric: values[metric.name]
    )


def ranked(*means: float, spread: float = 0.1) -> np.ndarray:
    noise = np.random.default_rng(0).normal(size=(30, 3))
    return np.array(means) + spread * noise


def test_metrics_that_order_methods_in_opposite_ways_are_said_to() -> None:
    found = [*contradictions(measured(deletion_mean=ranked(1, 2, 3), road_lerf=ranked(5, 6, 2)))]
    (one,) = found
    assert one.pairs == ((ROWS[0], ROWS[1]),)
    names = {row: row.method for row in ROWS}
    assert one.sentence(names) == (
        "deletion_mean and road_lerf contradict each other on 1 of 3 pairs: deletion_mean ranks "
        "hirescam before layercam; road_lerf the other way round"
    )


def test_what_the_intervals_leave_open_is_no_contradiction() -> None:
    noisy = ranked(5, 5.1, 2, spread=2)
    assert not [*contradictions(measured(deletion_mean=ranked(1, 2, 3), road_lerf=noisy))]
    agreeing = ranked(9, 5, 2)
    assert not [*contradictions(measured(deletion_mean=ranked(1, 2, 3), road_lerf=agreeing))]


def test_metrics_of_different_kinds_do_not_contradict_each_other() -> None:
    opposed = {"sparseness": ranked(1, 2, 3), "hot_fraction": ranked(1, 2, 3)}
    assert not [*contradictions(measured(deletion_mean=ranked(1, 2, 3), **opposed))]


def test_many_pairs_are_shortened_in_words_and_kept_in_full() -> None:
    (one,) = contradictions(measured(deletion_mean=ranked(1, 2, 3), road_lerf=ranked(1, 2, 3)))
    assert len(one.pairs) == 3
    names = {row: row.method for row in ROWS}
    assert [*told([one] * 8, names)] == [one.sentence(names)] * 8
    assert [*told([one] * 11, names)][8:] == [
        "3 more pairs of metrics contradict each other: evaluation.json"
    ]
    assert "hirescam before layercam, (random); layercam before (random);" in one.sentence(names)
