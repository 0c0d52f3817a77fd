"""Metrics over pictures: values are kept, pictures and maps are not."""

from __future__ import annotations

import hashlib
import heapq
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from camcli.engine import Engine
from camcli.evaluation.answers import Answers
from camcli.evaluation.baselines import BASELINES
from camcli.evaluation.bootstrap import Values
from camcli.evaluation.subject import Marks, Subject
from camcli.records import Cam, Explanation
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
        marks: Marks | None = None,
    ) -> None:
        self.answers, self.engine, self.seed = answers, engine, seed
        self.metrics, self._limits, self._ranks = metrics, pictures, ranks
        self.marks = marks
        self.keys: list[str] = []
        """The pictures that were measured, in order."""
        self._rows: dict[Row, int] = {}
        self._likened: dict[Row, set[Row]] = {}
        self._values: dict[str, list[tuple[str, Values]]] = {m.name: [] for m in metrics}

    @property
    def rows(self) -> list[Row]:
        """Methods in the order of the explanations, then the baselines."""
        return sorted(self._rows, key=lambda row: row.baseline)

    @property
    def same(self) -> dict[Row, list[Row]]:
        """Rows that had the maps of a former one, but for rounding, on every picture, by that."""
        found: dict[Row, list[Row]] = {}
        for row, firsts in self._likened.items():
            for first in firsts - {row}:
                found.setdefault(first, []).append(row)
        return found

    def add(self, explanation: Explanation) -> None:
        """Measure one picture."""
        subject = Subject(explanation, self.answers, self.engine, self.seed, self.marks)
        columns = [self._rows.setdefault(Row(cam.method, cam.layer), len(self._rows))
                   for cam in subject.cams]  # fmt: skip
        self._liken(subject.cams)
        finite = [bool(np.isfinite(cam.cam).all()) for cam in subject.cams]
        key = explanation.ref.key
        for metric in self.metrics:
            limit = self._limits[metric.name]
            if limit is not None and self._ranks[key] >= limit:
                continue
            found = _parts([value if usable else None
                            for value, usable in zip(metric.function(subject), finite,
                                                     strict=True)])  # fmt: skip
            self._values[metric.name].append((key, _by_row(found, columns, len(self._rows))))
        self.keys.append(key)

    def _liken(self, cams: Sequence[Cam]) -> None:
        """Keep which row each row's maps are the first of; it is none where they are of several."""
        found: dict[Row, set[Row]] = {}
        for cam in cams:
            first = next(one for one in cams if one.cam is cam.cam)
            found.setdefault(Row(cam.method, cam.layer), set()).add(Row(first.method, first.layer))
        for row, firsts in found.items():
            known = self._likened.get(row, firsts)
            self._likened[row] = known & firsts if len(firsts) == 1 else set()

    def values(self, metric: Metric) -> Values:
        """(pictures, rows), NaN where a map has no value."""
        return self.settled(metric)[0]

    def settled(self, metric: Metric) -> tuple[Values, list[float | None]]:
        """The same, and what the metric settled on for each row, where it is one that does."""
        own = self._values[metric.name]
        parts = max((values.shape[1] for _, values in own), default=1)
        table = np.full((len(own), len(self._rows), parts), math.nan)
        for n, (_, values) in enumerate(own):
            table[n, : len(values)] = values
        table = table[:, [self._rows[row] for row in self.rows]]
        if metric.settle is None:
            return table[:, :, 0], [None] * len(self._rows)
        return metric.settle(self.keys_of(metric), table, self.seed)

    def keys_of(self, metric: Metric) -> list[str]:
        """The pictures that this metric measured, in the order of its values."""
        return [key for key, _ in self._values[metric.name]]


def _parts(found: Sequence[Any]) -> Values:
    """(maps, parts); a map without a value has NaN in all of them."""
    parts = max((np.size(value) for value in found if value is not None), default=1)
    return np.array([np.full(parts, math.nan) if value is None else np.reshape(value, parts)
                     for value in found], np.float64)  # fmt: skip


def _by_row(values: Values, columns: Sequence[int], rows: int) -> Values:
    """The mean of each row's values without NaN, (maps, parts) -> (rows, parts)."""
    there = ~np.isnan(values)
    sums, counts = np.zeros((2, rows, values.shape[1]))
    np.add.at(sums, columns, np.where(there, values, 0.0))
    np.add.at(counts, columns, there)
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
