"""What a study compares: two methods of one run, or one method of each of two runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from camcli.errors import UsageError, did_you_mean
from camcli.outputs import manifest
from camcli.outputs.given import given_classes
from camcli.outputs.record import Record
from camcli.outputs.results import Result, results
from camcli.shard import Shard

NAMES = "AB"


@dataclass(frozen=True)
class Arm:
    """One of the sides of a study: a method's maps in a run."""

    directory: Path
    method: str
    runs: dict[Shard, dict[str, Any]]

    @property
    def about(self) -> dict[str, str]:
        """What the key says of it."""
        output = os.path.abspath(self.directory)
        return {"output": output, "model": self.run["model"]["name"], "method": self.method}

    @property
    def run(self) -> dict[str, Any]:
        """Its run file; that of any shard, for they agree."""
        return next(iter(self.runs.values()))

    def results(self) -> Iterator[Result]:
        """Its explained pictures."""
        return (result for result in results(self.directory, self.runs) if result.explained)


def arms_of(directories: Sequence[Path], methods: Sequence[str]) -> tuple[Arm, ...]:
    """The arms of a study; UsageError where the runs and methods given are not two sides.

    Of one run the methods given, or its own. Of two runs the method given or one for each.
    """
    found = []
    runs = [_drawable(directory) for directory in directories]
    if len(directories) == 1:
        pairs = [(0, name) for name in methods or _methods(runs[0])]
        if len(pairs) > 2:
            raise UsageError(
                f"'{directories[0]}' has maps of {', '.join(name for _, name in pairs)}; a study "
                "compares two: --methods A,B"
            )
    elif len(directories) == 2 and len(methods) <= 2:
        pairs = [(at, _method_of(directories[at], runs[at], at, methods)) for at in (0, 1)]
    else:
        raise UsageError("a study compares two runs, or two methods: give OUT_A and OUT_B, or one "
                         "run and --methods A,B")  # fmt: skip
    for at, method in pairs:
        known = _methods(runs[at])
        if method not in known:
            hint = did_you_mean(method, known)
            raise UsageError(f"'{directories[at]}' has no maps of '{method}'{hint or '; it has '}"
                             f"{'' if hint else ', '.join(known)}")  # fmt: skip
        found.append(Arm(directories[at], method, runs[at]))
    if len(set(pairs)) < len(pairs) or _same(found):
        raise UsageError("both sides of the study are the same maps; give two methods or two runs")
    return tuple(found)


def _same(arms: Sequence[Arm]) -> bool:
    places = {(os.path.realpath(arm.directory), arm.method) for arm in arms}
    return len(places) < len(arms)


def _drawable(directory: Path) -> dict[Shard, dict[str, Any]]:
    return manifest.require_written(directory, ("json", "npz"), "a study")


def _methods(runs: dict[Shard, dict[str, Any]]) -> list[str]:
    return [method["name"] for method in next(iter(runs.values()))["methods"]]


def _method_of(
    directory: Path, runs: dict[Shard, dict[str, Any]], at: int, methods: Sequence[str]
) -> str:
    if methods:
        return methods[min(at, len(methods) - 1)]
    known = _methods(runs)
    if len(known) > 1:
        raise UsageError(
            f"'{directory}' has maps of {', '.join(known)}; say which to show: --methods NAME"
        )
    return known[0]


def is_right(arm: Arm, truth: str | None) -> Callable[[Result, Record], bool]:
    """Whether the model predicts the class that `truth` (csv:FILE or folder) gives a picture.

    A picture without a class is not right; without `truth` every one is.
    """
    if truth is None:
        return lambda result, record: True
    found = given_classes(truth, arm.run)
    assert found is not None  # as it is where nothing is asked for
    given, _ = found
    return lambda result, record: record["predictions"][0]["index"] == given(result, record)
