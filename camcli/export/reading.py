"""The run that is exported: what it holds, whether it is complete, and one result after another."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from camcli.errors import OutputError
from camcli.outputs import manifest
from camcli.outputs.results import Result, results

Converted = TypeVar("Converted")


class Reading:
    """An explain run, read without its lock: a run that goes on meanwhile may add to it.

    `complain` is told which input cannot be read, and why. Raises UsageError where there is no run,
    or one that did not write what is needed.
    """

    def __init__(self, directory: Path, needs: set[str], complain: Callable[[str], None]) -> None:
        self.runs = manifest.require_written(directory, needs, "this export")
        self.directory, self._complain = directory, complain
        one = next(iter(self.runs.values()))
        self.labels: list[str] = one["labels"]
        self.model: str = one["model"]["name"]
        self.layered = len(one["identity"]["layer"]) > 1
        self.faults = 0

    @property
    def remark(self) -> str | None:
        """What to know of a run that is not complete."""
        count = next(iter(self.runs)).count
        if len(self.runs) < count:
            return f"{len(self.runs):,} of {count:,} shards have been started; these are exported"
        if any(run.get("status") != "done" for run in self.runs.values()):
            return "the run is not finished; what it has committed so far is exported"
        return None

    def converted(self, convert: Callable[[Result], Converted]) -> Iterator[Converted]:
        """What every input becomes; one whose record or maps cannot be read is left out."""
        for result in results(self.directory, self.runs):
            try:
                made = convert(result)
            except OutputError:
                raise
            except Exception as error:  # a damaged file makes json and numpy raise anything
                self.faults += 1
                reason = error.strerror if isinstance(error, OSError) else None
                what = reason or f"{type(error).__name__}: {error}"
                self._complain(f"{result.key}: its outputs cannot be read ({what}): camcli verify")
                continue
            yield made


def relative(path: str | Path, base: Path) -> str:
    """A path as seen from a directory, which is given without symbolic links: `..` follows them."""
    return os.path.relpath(path, base)
