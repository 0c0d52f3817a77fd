"""results.jsonl: one line per input as it is committed. The line is the commit mark.

What a power cut may leave is read as far as it is whole: a torn last line, zeros, a line that was
cut off and goes on as another. The last line of an input counts.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from camcli.errors import OutputError
from camcli.images import archives
from camcli.outputs.files import fsync, output_error
from camcli.records import ImageRef
from camcli.shard import WHOLE, Shard

LOST = "lost"
"""The status of an input whose outputs are missing or damaged: it is to be explained again."""
State = Literal["done", "failed", "transient", "lost"]
_STATES: tuple[State, ...] = ("done", "failed", "transient", "lost")
_NUMBERS = {state: number for number, state in enumerate(_STATES)}
_STATE_MASK = 0b11
_DONE = _NUMBERS["done"]
# By what a line says of being transient.
_FAILED = {b"": _NUMBERS["failed"], b"false": _NUMBERS["failed"], b"true": _NUMBERS["transient"]}
_BLOCK = 2**16
# Of a file whose size or time, as recorded, is none that a file can have.
_NO_STAMP = (-1, -1)


class Journal:
    """The journal of a run or a shard, read once and appended to.

    Only digests of keys are held, with entries as numbers, so that a million inputs fit in memory.
    """

    def __init__(self, directory: Path, shard: Shard = WHOLE) -> None:
        self.path = directory / shard.journal
        self._entries: dict[bytes, int] = {}
        entries = self._entries
        self.tars: set[str] = set()
        """The tars that outputs are in."""
        for lines in _whole_lines(self.path):
            self.tars |= _tars_of(lines)
            for found in _entries(lines):
                if found is not None:
                    entries[_digest(found[0])] = found[1]
        self._appender = Appender(self.path)

    def state(self, ref: ImageRef) -> State | Literal["changed"] | None:
        """How an input ended, unless its file is not what it was; None where it is new."""
        entry = self._entries.get(_digest(_bytes_of(ref.key)))
        if entry is None:
            return None
        state = _STATES[entry & _STATE_MASK]
        same = entry == _packed(state, stamp(ref.path))
        return state if same or state == LOST else "changed"

    def count(self, state: State) -> int:
        """How many inputs ended so, whatever has become of their files."""
        number = _NUMBERS[state]
        return sum(entry & _STATE_MASK == number for entry in self._entries.values())

    def __len__(self) -> int:
        return len(self._entries)

    def append(self, *lines: dict[str, Any]) -> None:
        """Commit inputs; OutputError where they cannot be written."""
        self._appender.append(*lines)
        for line in lines:
            self.tars.update({line["tar"]} if "tar" in line else ())
            key, entry = _entry(line)
            self._entries[_digest(key)] = entry

    def close(self) -> None:
        """Let go of the file; appending opens it again."""
        self._appender.close()


class Appender:
    """Writes to a journal without having read it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = -1

    def append(self, *lines: dict[str, Any]) -> None:
        """Commit inputs, in a single write that survives a power cut once this returns."""
        whole = b"".join(json.dumps(line, ensure_ascii=True).encode() + b"\n" for line in lines)
        try:
            if self._descriptor < 0:
                self._descriptor = self._open()
            if os.write(self._descriptor, whole) < len(whole):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._descriptor)
        except OSError as error:
            raise output_error(self.path.parent, error) from error

    def close(self) -> None:
        """Let go of the file; appending opens it again."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _open(self) -> int:
        """The file for appending, a torn last line from a killed run cut off first."""
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        keep = size = os.fstat(descriptor).st_size
        while keep:
            start = max(0, keep - _BLOCK)
            if newline := os.pread(descriptor, keep - start, start).rfind(b"\n") + 1:
                keep = start + newline
                break
            keep = start
        if keep < size:
            os.ftruncate(descriptor, keep)
        fsync(self.path.parent)
        return descriptor


class LastLines:
    """The line of every input that counts, in order; only digests of keys are held."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.unreadable = 0
        """Whole lines that are no entries."""
        self.tars: set[str] = set()
        """The tars that outputs are or were in."""
        self._numbers: dict[bytes, int] = {}
        count = itertools.count()
        for lines in _whole_lines(path):
            self.tars |= _tars_of(lines)
            for found, number in zip(_entries(lines), count, strict=False):
                if found is None:
                    self.unreadable += 1
                else:
                    self._numbers[_digest(found[0])] = number

    def __contains__(self, key: str) -> bool:
        return _digest(_bytes_of(key)) in self._numbers

    def __iter__(self) -> Iterator[dict[str, Any]]:
        whole = itertools.chain.from_iterable(_whole_lines(self.path))
        for number, raw in enumerate(whole):
            line = _parsed(raw)
            if line is not None and number == self._numbers.get(_digest(_bytes_of(line["key"]))):
                yield line


def committed(path: Path) -> Iterator[tuple[bytes, bytes]]:
    """The key and the whole line, as bytes, of each input that was committed."""
    for lines in _whole_lines(path):
        for raw, found in zip(lines, _entries(lines), strict=True):
            if found is not None:
                yield found[0], raw


def _whole_lines(path: Path) -> Iterator[list[bytes]]:
    """All lines but a torn last one, some hundreds at a time."""
    try:
        with open(path, "rb") as file:
            while lines := file.readlines(_BLOCK):
                if not lines[-1].endswith(b"\n"):
                    lines.pop()
                yield lines
    except FileNotFoundError:
        return
    except OSError as error:
        raise OutputError(f"the journal '{path}' cannot be read ({error.strerror})") from error


def _parsed(raw: bytes) -> dict[str, Any] | None:
    # Within a line this is a key's own beginning only, for inside text quotes are escaped: what
    # stands before the last one is zeros or a line that was cut off.
    for start in sorted({0, max(0, raw.rfind(b'{"key": '))}):
        try:
            line = json.loads(raw[start:])
        except (ValueError, RecursionError):
            continue
        if isinstance(line, dict) and isinstance(line.get("key"), str) and "status" in line:
            return line
    return None


def stamp(path: str) -> tuple[int, int] | None:
    """What tells whether a file has changed; None where it cannot be asked."""
    try:
        status = archives.status(path)
    except (OSError, ValueError):
        return None
    return status.st_size, status.st_mtime_ns


def _entry(line: dict[str, Any]) -> tuple[bytes, int]:
    state: State = "done"
    if line["status"] == LOST:
        state = "lost"
    elif line["status"] != "ok":
        state = "transient" if line.get("transient") else "failed"
    size, mtime = line.get("size"), line.get("mtime_ns")
    recorded: tuple[int, int] | None = None
    if size is not None and mtime is not None:
        whole = type(size) is int and type(mtime) is int
        recorded = (size, mtime) if whole else _NO_STAMP
    return _bytes_of(line["key"]), _packed(state, recorded)


def _packed(state: State, stamp: tuple[int, int] | None) -> int:
    """An entry as one number: 62 bits that tell one stamp from another, and the state.

    Stamps are compared within a process and for one key, so Python's own hash will do.
    """
    return hash(stamp) & ~_STATE_MASK | _NUMBERS[state]


def _written(string: bytes) -> re.Pattern[bytes]:
    """Matches JSON as `append` writes it: a space after each comma and colon, fields in one order,
    further ones flat and none of them twice. What it does not match is read by `json`.
    """
    number = rb"-?+(?:0|[1-9][0-9]{0,17}+)(?:\.[0-9]++)?+(?:e[+-][0-9]++)?+"
    scalar = rb'(?:"%b"|%b|true|false|null)' % (string, number)
    flat = rb'\{"[a-z_]++": %b(?:, "[a-z_]++": %b)*+\}' % (scalar, scalar)
    return re.compile(
        rb'(?m)^\{"key": "(%b)", "source": "%b", "status": "(ok|error)"'
        rb'(?:, "transient": (true|false))?'
        rb', "size": (0|[1-9][0-9]{0,13}), "mtime_ns": (0|[1-9][0-9]{0,18})'
        rb'(?:, "(?!(?:key|source|status|transient|size|mtime_ns)")[a-z0-9_]++": (?:%b|%b))*+\}\n'
        % (string, string, scalar, flat)
    )


_WRITTEN = _written(rb'[ !#-\[\]-~]*+(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[ !#-\[\]-~]*+)*+')
# Among these alone strings end at the next quote, which is found twice as fast.
_SIMPLE = bytes(set(range(0x20, 0x7F)) - set(b"\\"))
_SIMPLY_WRITTEN = _written(rb'[^"]*+')


def _entries(lines: list[bytes]) -> list[tuple[bytes, int] | None]:
    """The key's bytes and the entry of each whole line; None where it is no entry."""
    block = b"".join(lines)
    simple = len(block.translate(None, _SIMPLE)) == len(lines)
    found = _SIMPLY_WRITTEN.findall(block) if simple else []
    if len(found) == len(lines):
        # `_packed`, written out: over a million lines, calls would be felt.
        return [(key, hash((int(size), int(mtime))) & ~_STATE_MASK
                 | (_DONE if status == b"ok" else _FAILED[transient]))
                for key, status, transient, size, mtime in found]  # fmt: skip
    return [_one_entry(raw) for raw in lines]


def _one_entry(raw: bytes) -> tuple[bytes, int] | None:
    if match := _WRITTEN.fullmatch(raw):
        key, status, transient, size, mtime = match.groups(b"")
        if b"\\" in key:
            key = _bytes_of(json.loads(b'"%b"' % key))
        number = _DONE if status == b"ok" else _FAILED[transient]
        return key, _packed(_STATES[number], (int(size), int(mtime)))
    line = _parsed(raw)
    return None if line is None else _entry(line)


def _tars_of(lines: list[bytes]) -> set[str]:
    """The tars that lines name, as their last field."""
    return {raw[raw.rfind(b'"', 0, -3) + 1 : -3].decode(errors="replace")
            for raw in lines if raw.endswith(b'.tar"}\n')}  # fmt: skip


def _bytes_of(key: str) -> bytes:
    return key.encode("utf-8", "surrogatepass")


def _digest(key: bytes) -> bytes:
    # Of 15 bytes, because one more takes a third more memory in CPython.
    return hashlib.blake2b(key, digest_size=15).digest()
