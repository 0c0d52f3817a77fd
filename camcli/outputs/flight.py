"""What a process has in hand, noted as it is taken, so that the next knows over what it was lost.

Nothing is fsynced: the notes outlive the process, which is what they are for, and after a power cut
nobody is to blame.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from camcli.images.decode import facts_of
from camcli.outputs.files import atomic, output_error
from camcli.outputs.sink import Written
from camcli.records import Decoded, Failure, ImageRef
from camcli.shard import WHOLE, Shard

# How often a picture is alone in hand when the process is lost, before it counts as the reason:
# once may be another's doing, as where a machine goes away.
_OFTEN = 2

Reader = Callable[[ImageRef], Decoded | Failure]
Flow = Callable[[Iterable[ImageRef], Reader], Iterator[Written]]


class Flight:
    """The inputs between being read and being written. Hold the shard's lock meanwhile."""

    def __init__(self, directory: Path, shard: Shard = WHOLE) -> None:
        """OutputError where the notes cannot be kept."""
        self._path, self._shard = directory / shard.flight, shard
        lost = self._lost()
        self.guilty = frozenset(key for key, alone in lost.items() if alone >= _OFTEN)
        """Those over which processes were lost, each time with nothing else in hand."""
        self.suspects = frozenset(lost) - self.guilty
        """Those that an earlier process had in hand when it was lost: to be taken one by one."""
        self._replace(lost)
        try:
            self._descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND)
        except OSError as error:
            raise output_error(self._path.parent, error) from error

    def over(self, refs: Iterable[ImageRef], read: Reader, flow: Flow) -> Iterator[Written]:
        """What `flow` makes of the inputs: suspects one by one, the guilty without trying.

        As every batch has the same shape, the maps have the same bits.
        """

        def wary(ref: ImageRef) -> Decoded | Failure:
            return _lost(ref) if ref.key in self.guilty else read(ref)

        for suspect, some in itertools.groupby(refs, lambda ref: ref.key in self.suspects):
            for group in ([ref] for ref in some) if suspect else [some]:
                for written in flow(self._taking(group, suspect), wary):
                    self._landed(written.outcome.ref.key)
                    yield written
        os.close(self._descriptor)
        self._path.unlink(missing_ok=True)  # the process ends in order, with nothing in hand

    def _taking(self, refs: Iterable[ImageRef], alone: bool) -> Iterator[ImageRef]:
        for ref in refs:
            self._note("alone" if alone else "taken", ref.key)
            yield ref

    def _landed(self, key: str) -> None:
        # The guilty stay so until the end: the line that says that they failed may yet be lost.
        if key not in self.guilty:
            self._note("landed", key)

    def _note(self, word: str, key: str) -> None:
        try:
            os.write(self._descriptor, _line(word, key))
        except OSError as error:
            raise output_error(self._path.parent, error) from error

    def _lost(self) -> dict[str, int]:
        """What was in hand, with how often it was alone."""
        held: dict[str, int] = {}
        try:
            lines = self._path.read_bytes().splitlines()
        except FileNotFoundError:
            return held
        except OSError as error:
            raise output_error(self._path.parent, error) from error
        for raw in lines:
            try:
                word, key = map(str, json.loads(raw))
            except (ValueError, TypeError, RecursionError):  # torn, or not camcli's
                continue
            if word == "landed":
                held.pop(key, None)
            else:
                held[key] = held.get(key, 0) + (word == "alone")
        return held

    def _replace(self, lost: dict[str, int]) -> None:
        """Keep only what counts."""
        lines = [_line("alone" if alone else "taken", key) * max(alone, 1)
                 for key, alone in lost.items()]  # fmt: skip
        try:
            with atomic(self._path, self._shard) as file:
                file.write(b"".join(lines))
        except OSError as error:
            raise output_error(self._path.parent, error) from error


def _line(word: str, key: str) -> bytes:
    return json.dumps([word, key], ensure_ascii=True).encode() + b"\n"


def _lost(ref: ImageRef) -> Failure:
    said = "explaining it ended the process, again and again, with nothing else in hand"
    return Failure(ref, facts_of(ref.path), "ProcessLostError", said, "explain")
