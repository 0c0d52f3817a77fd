"""results.jsonl: one line per input as it is committed. The line is the commit mark."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from camcli.outputs.files import output_error
from camcli.records import FileFacts

NAME = "results.jsonl"
State = Literal["done", "failed", "transient"]


@dataclass(frozen=True)
class Entry:
    """What the journal knows of an input: how it ended, and which bytes it had."""

    state: State
    stamp: tuple[int, int] | None


class Journal:
    """The journal of one output directory, read once and appended to.

    Only digests of keys are held, so that a million inputs fit in memory.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / NAME
        self._entries: dict[bytes, Entry] = {}
        for line in read_lines(self.path):
            self._remember(line)
        self._descriptor = -1

    def find(self, key: str) -> Entry | None:
        """The last committed line of an input."""
        return self._entries.get(_digest(key))

    def __len__(self) -> int:
        return len(self._entries)

    def count(self, state: State) -> int:
        """How many inputs are in that state."""
        return sum(entry.state == state for entry in self._entries.values())

    def append(self, line: dict[str, Any]) -> None:
        """Commit one input, in a single write."""
        whole = json.dumps(line, ensure_ascii=True).encode() + b"\n"
        try:
            if self._descriptor < 0:
                self._descriptor = self._open()
            if os.write(self._descriptor, whole) < len(whole):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise output_error(self.path.parent, error) from error
        self._remember(line)

    def close(self) -> None:
        """Let go of the file; appending opens it again."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _open(self) -> int:
        """The file for appending, a torn last line from a killed run cut off first."""
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        size = os.fstat(descriptor).st_size
        keep = size
        while keep and os.pread(descriptor, 1, keep - 1) != b"\n":
            keep -= 1
        if keep < size:
            os.ftruncate(descriptor, keep)
        return descriptor

    def _remember(self, line: dict[str, Any]) -> None:
        state: State = "done"
        if line["status"] != "ok":
            state = "transient" if line.get("transient") else "failed"
        size, mtime = line.get("size"), line.get("mtime_ns")
        stamp = None if size is None or mtime is None else (size, mtime)
        self._entries[_digest(line["key"])] = Entry(state, stamp)


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of a journal; a torn one was never committed and is passed over."""
    try:
        file = open(path, "rb")  # noqa: SIM115
    except FileNotFoundError:
        return
    with file:
        for raw in file:
            if not raw.endswith(b"\n"):
                return
            try:
                line = json.loads(raw)
            except (ValueError, RecursionError):
                continue
            if isinstance(line, dict) and isinstance(line.get("key"), str) and "status" in line:
                yield line


def stamp(facts: FileFacts | None) -> tuple[int, int] | None:
    """What tells whether an input has changed."""
    return None if facts is None else (facts.size, facts.mtime_ns)


def _digest(key: str) -> bytes:
    return hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).digest()
