"""Metrics over pictures: values are kept, pictures and maps are not."""

from __future__ import annotations

import hashlib
import heapq
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
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

    `pictures` says how many each metric measures, those with the lowest of `ranks`, which go by
    key; None is all of them. A picture's value of a row is the mean over its targets.
    """

    def __init__(
        self,
        answers: Answers,
        engine: Engine | None,
        metrics: Sequence[Metric],
        pictures: Mapping[str, int | None],
        ranks: Mapping[str, int],
        seed: int,
    ) -> None:
        self.answers, self.engine, self.seed = answers, engine, seed
        self.metrics, self._limits, self._ranks = metrics, pictures, ranks
        self.keys: list[str] = []
        """The pictures that were measured, in order."""
        self._rows: dict[Row, int] = {}
        self._values: dict[str, list[tuple[str, Values]]] = {m.name: [] for m in metrics}

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
        key = explanation.ref.key
        for metric in self.metrics:
            limit = self._limits[metric.name]
            if limit is not None and self._ranks[key] >= limit:
                continue
            found = np.array([math.nan if value is None or not usable else value
                              for value, usable in zip(metric.function(subject), finite,
                                                       strict=True)])  # fmt: skip
            self._values[metric.name].append((key, _by_row(found, columns, len(self._rows))))
        self.keys.append(key)

    def values(self, metric: Metric) -> Values:
        """(pictures, rows), NaN where a map has no value."""
        own = self._values[metric.name]
        table = np.full((len(own), len(self._rows)), math.nan)
        for n, (_, values) in enumerate(own):
            table[n, : len(values)] = values
        return table[:, [self._rows[row] for row in self.rows]]

    def keys_of(self, metric: Metric) -> list[str]:
        """The pictures that this metric measured, in the order of its values."""
        return [key for key, _ in self._values[metric.name]]


def _by_row(values: Values, columns: Sequence[int], rows: int) -> Values:
    """The mean of each row's values, those that are NaN left out."""
    there = ~np.isnan(values)
    counts = np.bincount(np.array(columns)[there], minlength=rows)
    sums = np.bincount(np.array(columns)[there], values[there], minlength=rows)
    return np.where(counts > 0, sums / np.maximum(counts, 1), math.nan)


def sampled(
    items: Iterable[T], key: Callable[[T], str], seed: int, limit: int | None
) -> tuple[list[T], dict[str, int]]:
    """At most `limit` items in their order, and by key the rank of each, from 0, in a seeded random
    order that depends on the keys alone.

    So the pictures that a costly metric measures are a random sample of the others', and the same
    whether pictures are explained now or were before.
    """

    def place(numbered: tuple[int, T]) -> bytes:
        text = f"{seed}\0{key(numbered[1])}".encode("utf-8", "surrogateescape")
        return hashlib.blake2b(text, digest_size=16).digest()

    numbered = enumerate(items)
    if limit is None:
        chosen = sorted(numbered, key=place)
    else:
        chosen = heapq.nsmallest(limit, numbered, key=place)
    ranks = {key(item): rank for rank, (_, item) in enumerate(chosen)}
    return [item for _, item in sorted(chosen, key=lambda one: one[0])], ranks
