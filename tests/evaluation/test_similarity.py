"""Rank correlation, SSIM and entropy of maps, against slow replicas and known answers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from camcli.evaluation.similarity import (
    complexity,
    complexity_rise,
    rank_correlation,
    structural_similarity,
)

values = arrays.arrays(np.float32, (4, 5), elements=st.integers(-3, 3).map(float))


def slow_rank_correlation(one: np.ndarray, other: np.ndarray) -> float:
    def ranks(values: list[float]) -> list[float]:
        return [sum(w < v for w in values) + (sum(w == v for w in values) + 1) / 2 for v in values]

    a, b = ranks(one.ravel().tolist()), ranks(other.ravel().tolist())
    ma, mb = sum(a) / len(a), sum(b) / len(b)
    shared = sum((x - ma) * (y - mb) for x, y in zip(a, b, strict=True))
    scale = math.sqrt(sum((x - ma) ** 2 for x in a) * sum((y - mb) ** 2 for y in b))
    return shared / scale if scale else 0.0


@settings(max_examples=50)
@given(values, values)
def test_rank_correlation_is_that_of_mean_ranks(one, other):
    assert rank_correlation(one, other) == pytest.approx(slow_rank_correlation(one, other))


def test_rank_correlation_does_not_see_how_large_values_are():
    ramp = np.arange(12.0).reshape(3, 4)
    assert rank_correlation(ramp, np.exp(ramp)) == pytest.approx(1.0)
    assert rank_correlation(ramp, -ramp) == pytest.approx(-1.0)
    assert rank_correlation(ramp, np.zeros_like(ramp)) == 0.0


def slow_similarity(one: np.ndarray, other: np.ndarray) -> float:
    a, b = (np.maximum(v, 0).astype(float) / (v.max() or 1) for v in (one, other))
    height, width = min(7, a.shape[0]), min(7, a.shape[1])
    found = []
    for r in range(a.shape[0] - height + 1):
        for c in range(a.shape[1] - width + 1):
            p, q = (v[r : r + height, c : c + width] for v in (a, b))
            shared = (p * q).mean() - p.mean() * q.mean()
            found.append(
                (2 * p.mean() * q.mean() + 0.0001)
                * (2 * shared + 0.0009)
                / ((p.mean() ** 2 + q.mean() ** 2 + 0.0001) * (p.var() + q.var() + 0.0009))
            )
    return float(np.mean(found))


@pytest.mark.parametrize("shape", [(4, 5), (7, 7), (9, 12)])
def test_structural_similarity_is_that_of_its_windows(shape):
    one, other = np.random.default_rng(0).normal(size=(2, *shape))
    assert structural_similarity(one, other) == pytest.approx(slow_similarity(one, other))
    assert structural_similarity(one, 3 * one) == pytest.approx(1.0)
    assert structural_similarity(one, -one) < 0.3


def test_structural_similarity_is_that_of_scikit_image():
    metrics = pytest.importorskip("skimage.metrics")
    one, other = np.random.default_rng(1).uniform(-1, 1, (2, 20, 30))
    drawn = [np.maximum(values, 0) / values.max() for values in (one, other)]
    theirs = metrics.structural_similarity(
        *drawn, win_size=7, data_range=1.0, use_sample_covariance=False
    )
    assert structural_similarity(one, other) == pytest.approx(theirs)


def test_the_entropy_of_a_map_is_that_of_its_histogram():
    assert complexity(np.arange(100.0)) == pytest.approx(math.log(100))
    assert complexity(np.array([[0.0, 0.0], [0.0, 1.0]])) == pytest.approx(
        -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    )
    assert complexity(np.ones((3, 3))) == 0.0


def test_the_rise_of_complexity_is_relative_to_the_map_before():
    spike, ramp = np.zeros(100), np.arange(100.0)
    spike[0] = 1.0
    rise = complexity_rise(spike, ramp)
    assert rise == pytest.approx((math.log(100) - complexity(spike)) / complexity(spike))
    assert complexity_rise(ramp, spike) < 0
    assert complexity_rise(np.ones(4), ramp) is None
