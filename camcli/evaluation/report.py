"""What an evaluation found: a table for people, evaluation.json and evaluation.csv."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from camcli.evaluation.bootstrap import CONFIDENCE, RESAMPLES, Interval, intervals
from camcli.evaluation.contradictions import Contradiction
from camcli.evaluation.games import Games
from camcli.evaluation.measuring import Measurements, Row
from camcli.outputs.files import atomic, output_error
from camcli.registry import Kind, Metric

SCHEMA_VERSION = 1
_WIDE = 100
_CELL = 12


@dataclass(frozen=True)
class Finding:
    """One metric's means, a row each."""

    metric: Metric
    rows: list[tuple[Row, Interval]]
    settled: list[float | None]
    """What the metric settled on for each row, such as a threshold."""

    @property
    def n(self) -> int:
        """The pictures that any row has a value for."""
        return max((interval.n for _, interval in self.rows), default=0)


def findings(measured: Measurements) -> list[Finding]:
    """Every metric with its intervals, by kind; the same seed gives the same."""
    kinds = get_args(Kind)
    found = []
    for metric in sorted(measured.metrics, key=lambda metric: kinds.index(metric.kind)):
        values, settled = measured.settled(metric)
        rows = [*zip(measured.rows, intervals(values, measured.seed), strict=True)]
        found.append(Finding(metric, rows, settled))
    return found


def table(found: Sequence[Finding]) -> Iterator[str]:
    """Lines of at most 100 characters: a row a method, a column a metric, blocks by kind."""
    names = [*names_of([row for row, _ in found[0].rows]).values()]
    width = max([len("lower is better"), *map(len, names)])
    for block in _blocks(found, _WIDE - width):
        wide = [max(_CELL, len(one.metric.name)) for one in block]

        def line(head: str, cells: Sequence[str], wide: Sequence[int] = wide) -> str:
            padded = (f"  {cell:>{w}}" for cell, w in zip(cells, wide, strict=True))
            return f"{head:<{width}}{''.join(padded)}".rstrip()

        yield line(block[0].metric.kind, [one.metric.name for one in block])
        yield line("better", [_better(one.metric) for one in block])
        yield line("pictures", [f"{one.n:,}" for one in block])
        for n, name in enumerate(names):
            yield line(name, [_cell(one.rows[n][1]) for one in block])
        yield ""


def names_of(rows: Sequence[Row]) -> dict[Row, str]:
    """What the rows are called, with their layers where there are several."""
    several = len({row.layer for row in rows if not row.baseline}) > 1
    return {row: f"{row.method} {row.layer}".strip() if several else row.method for row in rows}


def _blocks(found: Sequence[Finding], room: int) -> Iterator[list[Finding]]:
    block: list[Finding] = []
    used = 0
    for one in found:
        width = max(_CELL, len(one.metric.name)) + 2
        if block and (one.metric.kind != block[0].metric.kind or used + width > room):
            yield block
            block, used = [], 0
        block.append(one)
        used += width
    if block:
        yield block


def _better(metric: Metric) -> str:
    return "-" if metric.better == "neither" else metric.better


def _cell(interval: Interval) -> str:
    """`0.213 ±.024`: the mean, and half of its interval."""
    if interval.mean is None:
        return "-"
    shown = f"{interval.mean:.3f}" if interval.mean >= 0.0005 or not interval.mean else (
        f"{interval.mean:.0e}")  # fmt: skip
    if interval.low is None or interval.high is None:
        return shown
    half = f"{(interval.high - interval.low) / 2:.3f}".removeprefix("0")
    return f"{shown} ±{half}"


def summary(found: Sequence[Finding]) -> list[dict[str, Any]]:
    """The metrics for evaluation.json."""
    return [
        {
            "name": one.metric.name,
            "title": one.metric.title,
            "paper": one.metric.paper,
            "better": one.metric.better,
            "kind": one.metric.kind,
            "rows": [
                {
                    "method": row.method,
                    "layer": row.layer or None,
                    "baseline": row.baseline,
                    **vars(interval),
                    **({} if settled is None else {"threshold": settled}),
                }
                for (row, interval), settled in zip(one.rows, one.settled, strict=True)
            ],
        }
        for one in found
    ]


def write(
    directory: Path,
    about: Mapping[str, Any],
    found: Sequence[Finding],
    contradicting: Sequence[Contradiction],
    measured: Measurements,
    games: Games,
) -> None:
    """evaluation.json: the means and what is needed to repeat them; evaluation.csv: a line for
    every picture, row and metric. OutputError where they cannot be written.
    """
    names = names_of(measured.rows)
    content = {
        "schema_version": SCHEMA_VERSION,
        **about,
        "seed": measured.seed,
        "resamples": RESAMPLES,
        "confidence": CONFIDENCE,
        "views_asked": measured.answers.asked,
        "metrics": summary(found),
        "contradictions": [
            {
                "metrics": [one.first.name, one.second.name],
                "pairs": [[names[better], names[worse]] for better, worse in one.pairs],
                "compared": one.compared,
                "sentence": one.sentence(names),
            }
            for one in contradicting
        ],
    }
    text = json.dumps(content, indent=1, ensure_ascii=True, default=str).encode() + b"\n"
    try:
        with atomic(directory / "evaluation.csv") as file:
            for block in _csv(measured, games):
                file.write(block)
        with atomic(directory / "evaluation.json") as file:
            file.write(text)
    except OSError as error:
        raise output_error(directory, error) from error


def _csv(measured: Measurements, games: Games) -> Iterator[bytes]:
    yield _encoded([["key", "method", "layer", "metric", "value"]])
    for table in filter(None, (measured, games.grid)):
        for metric in table.metrics:
            for key, values in zip(table.keys_of(metric), table.values(metric), strict=True):
                yield _encoded([
                    [_cell_of(key), row.method, row.layer, metric.name, repr(float(value))]
                    for row, value in zip(table.rows, values, strict=True)
                    if not math.isnan(value)
                ])  # fmt: skip
    for one in games.sanity:
        yield _encoded([["", one.method, one.layer, name, repr(value)]
                        for name, value in one.figures().items()])  # fmt: skip


def _encoded(lines: Sequence[Sequence[str]]) -> bytes:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(lines)
    return buffer.getvalue().encode(errors="backslashreplace")


def _cell_of(text: str) -> str:
    """A file's name is no formula, whatever a spreadsheet would take it for."""
    return f"'{text}" if text[:1] in "=+-@\t\r" else text
