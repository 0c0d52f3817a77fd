"""results.jsonl: one line per input as it is committed. The line is the commit mark."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from camcli.outputs.files import output_error
from camcli.records import ImageRef

NAME = "results.jsonl"
State = Literal["done", "failed", "transient"]
_STATES: tuple[State, ...] = ("done", "failed", "transient")
# An entry as one number: time of change, size, state.
_STATE_BITS, _SIZE_BITS = 2, 50


class Entry(NamedTuple):
    """What the journal knows of an input whose size or time is none or odd."""

    state: State
    stamp: tuple[int, int] | None


class Journal:
    """The journal of one output directory, read once and appended to.

    Only digests of keys are held, and entries as numbers, so that a million inputs fit in memory.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / NAME
        self._entries: dict[bytes, int | Entry] = {}
        for raw in _whole_lines(self.path):
            if (found := _quickly(raw) or _slowly(raw)) is not None:
                key, entry = found
                self._entries[_digest(key)] = entry
        self._descriptor = -1

    def state(self, ref: ImageRef) -> State | None:
        """How an input ended; None where it is new, or its file is not what it was."""
        entry = self._entries.get(_digest(ref.key.encode("utf-8", "surrogatepass")))
        if entry is None:
            return None
        now = stamp(ref.path)
        if isinstance(entry, Entry):
            return entry.state if entry.stamp == now else None
        same = now is not None and entry >> _STATE_BITS == now[1] << _SIZE_BITS | now[0]
        return _STATES[entry % (1 << _STATE_BITS)] if same else None

    def __len__(self) -> int:
        return len(self._entries)

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
        key, entry = _entry(line)
        self._entries[_digest(key)] = entry

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


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of a journal; a torn one was never committed and is passed over."""
    for raw in _whole_lines(path):
        if (line := _parsed(raw)) is not None:
            yield line


def _whole_lines(path: Path) -> Iterator[bytes]:
    try:
        file = open(path, "rb")  # noqa: SIM115
    except FileNotFoundError:
        return
    with file:
        for raw in file:
            if raw.endswith(b"\n"):
                yield raw


def _parsed(raw: bytes) -> dict[str, Any] | None:
    try:
        line = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    if isinstance(line, dict) and isinstance(line.get("key"), str) and "status" in line:
        return line
    return None


def stamp(path: str) -> tuple[int, int] | None:
    """What tells whether a file has changed; None where it cannot be asked."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_size, status.st_mtime_ns


def _slowly(raw: bytes) -> tuple[bytes, int | Entry] | None:
    """The key's bytes and the entry of any line."""
    line = _parsed(raw)
    return None if line is None else _entry(line)


def _entry(line: dict[str, Any]) -> tuple[bytes, int | Entry]:
    state: State = "done"
    if line["status"] != "ok":
        state = "transient" if line.get("transient") else "failed"
    size, mtime = line.get("size"), line.get("mtime_ns")
    key = line["key"].encode("utf-8", "surrogatepass")
    if type(size) is int and type(mtime) is int and 0 <= size < 1 << _SIZE_BITS:
        return key, _packed(state, size, mtime)
    return key, Entry(state, None if size is None or mtime is None else (size, mtime))


# JSON as `append` writes it: printable ASCII, a space after each comma and colon, fields in one
# order, further ones flat and none of them twice. What it does not match is read by `json`.
_STRING = rb'"[ !#-\[\]-~]*+(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[ !#-\[\]-~]*+)*+"'
_NUMBER = rb"-?(?:0|[1-9][0-9]{0,17}+)(?:\.[0-9]+)?(?:e[+-][0-9]+)?"
_SCALAR = rb"(?:%b|%b|true|false|null)" % (_STRING, _NUMBER)
_FLAT = rb'\{"[a-z_]+": %b(?:, "[a-z_]+": %b)*+\}' % (_SCALAR, _SCALAR)
_WRITTEN = re.compile(
    rb'\{"key": (%b), "source": %b, "status": "(ok|error)"(?:, "transient": (true|false))?'
    rb', "size": (0|[1-9][0-9]{0,13}), "mtime_ns": (0|[1-9][0-9]{0,18})'
    rb'(?:, "(?!(?:key|source|status|transient|size|mtime_ns)")[a-z0-9_]+": (?:%b|%b))*+\}\n'
    % (_STRING, _STRING, _SCALAR, _FLAT)
)


def _quickly(raw: bytes) -> tuple[bytes, int | Entry] | None:
    """The same for a line as it was written, without parsing what is not needed."""
    found = _WRITTEN.fullmatch(raw)
    if found is None:
        return None
    quoted, status, transient, size, mtime = found.groups()
    key = quoted[1:-1]
    if b"\\" in key:
        key = json.loads(quoted).encode("utf-8", "surrogatepass")
    state: State = "done"
    if status != b"ok":
        state = "transient" if transient == b"true" else "failed"
    return key, _packed(state, int(size), int(mtime))


def _packed(state: State, size: int, mtime: int) -> int:
    """An entry as one number, which takes a fifth of the memory."""
    return (mtime << _SIZE_BITS | size) << _STATE_BITS | _STATES.index(state)


def _digest(key: bytes) -> bytes:
    # Of 15 bytes, because one more takes a third more memory in CPython.
    return hashlib.blake2b(key, digest_size=15).digest()
