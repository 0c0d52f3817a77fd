"""Where two metrics order the same methods in opposite ways, instead of averaging it away."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from camcli.evaluation.bootstrap import preferences
from camcli.evaluation.measuring import Measurements, Row
from camcli.registry import Metric

_SHOWN, _SENTENCES = 3, 8


@dataclass(frozen=True)
class Contradiction:
    """Of each of these pairs `first` finds the former better and `second` the latter, both with an
    interval of the paired differences that leaves out 0; out of `compared` pairs.
    """

    first: Metric
    second: Metric
    pairs: tuple[tuple[Row, Row], ...]
    compared: int

    def sentence(self, name: Mapping[Row, str]) -> str:
        """In words; where there are many pairs, a few of them."""
        groups: dict[Row, list[Row]] = {}
        for better, worse in self.pairs:
            groups.setdefault(better, []).append(worse)
        told = sorted(groups.items(), key=lambda group: -len(group[1]))
        parts = [
            f"{name[better]} before {', '.join(name[row] for row in worse)}"
            for better, worse in told[:_SHOWN]
        ]
        more = " (and more)" if len(told) > _SHOWN else ""
        one, other = self.first.name, self.second.name
        return (
            f"{one} and {other} contradict each other on {len(self.pairs)} of {self.compared} "
            f"pairs: {one} ranks {'; '.join(parts)}{more}; {other} the other way round"
        )


def told(found: Sequence[Contradiction], name: Mapping[Row, str]) -> Iterator[str]:
    """The sentences of those with the most pairs, and how many others there are."""
    largest = sorted(found, key=lambda one: -len(one.pairs))
    yield from (one.sentence(name) for one in largest[:_SENTENCES])
    if (more := len(found) - _SENTENCES) > 0:
        yield f"{more} more pairs of metrics contradict each other: evaluation.json"


def contradictions(measured: Measurements) -> Iterator[Contradiction]:
    """Every two metrics that ask the same question and answer some pair in opposite ways."""
    rows = measured.rows
    judging = [metric for metric in measured.metrics if metric.better != "neither"]
    found = {metric.name: preferences(measured.values(metric), metric.better == "higher",
                                      measured.seed) for metric in judging}  # fmt: skip
    for first, second in itertools.combinations(judging, 2):
        if first.kind != second.kind:
            continue
        here, there = found[first.name], found[second.name]
        opposed = np.argwhere((here == 1) & (there == -1))
        pairs = tuple((rows[better], rows[worse]) for better, worse in opposed)
        if pairs:
            compared = len(rows) * (len(rows) - 1) // 2
            yield Contradiction(first, second, pairs, compared)
