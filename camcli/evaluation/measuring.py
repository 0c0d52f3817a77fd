"""Metrics over pictures: values are kept, pictures and maps are not."""

from __future__ import annotations

import hashlib
import heapq
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from camcli.engine import Engine
from camcli.evaluation.answers import Answers
from camcli.evaluation.baselines import BASELINES
from camcli.evaluation.bootstrap import Values
from camcli.evaluation.subject import Subject
from camcli.records import Explanation
from camcli.registry import Metric

T = TypeVar("T")


class Row(NamedTuple):
    """What is compared: a method on a layer, or a baseline, which has none."""

    method: str
    layer: str

    @property
    def baseline(self) -> bool:
        return self.method in BASELINES


class Measurements:
    """The values of every metric, picture by picture.

    `pictures` says how many each metric measures; None is all of them. A picture's value of a row
    is the mean over its targets.
    """

    def __init__(
        self,
        answers: Answers,
        engine: Engine | None,
        metrics: Sequence[Metric],
        pictures: Mapping[str, int | None],
        seed: int,
    ) -> None:
        self.answers, self.engine, self.seed = answers, engine, seed
        self.metrics, self.limits = metrics, pictures
        self.keys: list[str] = []
        """The pictures that were measured, in order; each metric has values of the first ones."""
        self._rows: dict[Row, int] = {}
        self._values: dict[str, list[Values]] = {metric.name: [] for metric in metrics}

    @property
    def rows(self) -> list[Row]:
        """Methods in the order of the explanations, then the baselines."""
        return sorted(self._rows, key=lambda row: row.baseline)

    def add(self, explanation: Explanation) -> None:
        """Measure one picture."""
        subject = Subject(explanation, self.answers, self.engine, self.seed)
        columns = [self._rows.setdefault(Row(cam.method, cam.layer), len(self._rows))
                   for cam in subject.cams]  # fmt: skip
        finite = [bool(np.isfinite(cam.cam).all()) for cam in subject.cams]
        for metric in self.metrics:
            limit = self.limits[metric.name]
            if limit is not None and len(self.keys) >= limit:
                continue
            found = np.array([math.nan if value is None or not usable else value
                              for value, usable in zip(metric.function(subject), finite,
                                                       strict=True)])  # fmt: skip
            self._values[metric.name].append(_by_row(found, columns, len(self._rows)))
        self.keys.append(explanation.ref.key)

    def values(self, metric: Metric) -> Values:
        """(pictures, rows), NaN where a map has no value."""
        own = self._values[metric.name]
        table = np.full((len(own), len(self._rows)), math.nan)
        for n, values in enumerate(own):
            table[n, : len(values)] = values
        return table[:, [self._rows[row] for row in self.rows]]


def _by_row(values: Values, columns: Sequence[int], rows: int) -> Values:
    """The mean of each row's values, those that are NaN left out."""
    there = ~np.isnan(values)
    counts = np.bincount(np.array(columns)[there], minlength=rows)
    sums = np.bincount(np.array(columns)[there], values[there], minlength=rows)
    return np.where(counts > 0, sums / np.maximum(counts, 1), math.nan)


def sampled(
    items: Iterable[T], key: Callable[[T], str], seed: int, limit: int | None
) -> Iterator[T]:
    """The items in a seeded random order that depends on their keys alone; at most `limit`.

    So the pictures that a costly metric measures are a random sample of the others', and the same
    whether pictures are explained now or were before.
    """

    def place(item: T) -> bytes:
        text = f"{seed}\0{key(item)}".encode("utf-8", "surrogateescape")
        return hashlib.blake2b(text, digest_size=16).digest()

    if limit is None:
        return iter(sorted(items, key=place))
    return iter(heapq.nsmallest(limit, items, key=place))
