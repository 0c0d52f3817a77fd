"""results.jsonl: one line per input as it is committed. The line is the commit mark.

What a power cut may leave is read as far as it is whole: a torn last line, zeros, a line that was
cut off and goes on as another. The last line of an input counts.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

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
# An entry as one number: time of change, size, state.
_STATE_BITS, _SIZE_BITS = 2, 50
_STATE_MASK = (1 << _STATE_BITS) - 1
_BLOCK = 2**16


class Entry(NamedTuple):
    """What the journal knows of an input whose size or time is none or odd."""

    state: State
    stamp: tuple[int, int] | None


class Journal:
    """The journal of a run or a shard, read once and appended to.

    Only digests of keys are held, and entries as numbers, so that a million inputs fit in memory.
    """

    def __init__(self, directory: Path, shard: Shard = WHOLE) -> None:
        self.path = directory / shard.journal
        self._entries: dict[bytes, int | Entry] = {}
        entries = self._entries
        self.tars: set[str] = set()
        """The tars that outputs are in."""
        for raw in _whole_lines(self.path):
            if raw.endswith(_IN_TAR):
                self.tars.add(_tar_of(raw))
            if (found := _quickly(raw) or _slowly(raw)) is not None:
                entries[_digest(found[0])] = found[1]
        self._appender = Appender(self.path)

    def state(self, ref: ImageRef) -> State | Literal["changed"] | None:
        """How an input ended, unless its file is not what it was; None where it is new."""
        entry = self._entries.get(_digest(_bytes_of(ref.key)))
        if entry is None:
            return None
        now = stamp(ref.path)
        if isinstance(entry, Entry):
            state, same = entry.state, entry.stamp == now
        else:
            state = _STATES[entry & _STATE_MASK]
            same = now is not None and entry == _packed(state, *now)
        return state if same or state == LOST else "changed"

    def count(self, state: State) -> int:
        """How many inputs ended so, whatever has become of their files."""
        number = _NUMBERS[state]
        return sum(
            entry.state == state if isinstance(entry, Entry) else entry & _STATE_MASK == number
            for entry in self._entries.values()
        )

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
        for number, raw in enumerate(_whole_lines(path)):
            if raw.endswith(_IN_TAR):
                self.tars.add(_tar_of(raw))
            found = _quickly(raw) or _slowly(raw)
            if found is None:
                self.unreadable += 1
            else:
                self._numbers[_digest(found[0])] = number

    def __contains__(self, key: str) -> bool:
        return _digest(_bytes_of(key)) in self._numbers

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for number, raw in enumerate(_whole_lines(self.path)):
            line = _parsed(raw)
            if line is not None and number == self._numbers.get(_digest(_bytes_of(line["key"]))):
                yield line


def committed(path: Path) -> Iterator[tuple[bytes, bytes]]:
    """The key and the whole line, as bytes, of each input that was committed."""
    for raw in _whole_lines(path):
        if (found := _quickly(raw) or _slowly(raw)) is not None:
            yield found[0], raw


def _whole_lines(path: Path) -> Iterator[bytes]:
    try:
        with open(path, "rb") as file:
            for raw in file:
                if raw.endswith(b"\n"):
                    yield raw
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


def _slowly(raw: bytes) -> tuple[bytes, int | Entry] | None:
    """The key's bytes and the entry of any line."""
    line = _parsed(raw)
    return None if line is None else _entry(line)


def _entry(line: dict[str, Any]) -> tuple[bytes, int | Entry]:
    state: State = "done"
    if line["status"] == LOST:
        state = "lost"
    elif line["status"] != "ok":
        state = "transient" if line.get("transient") else "failed"
    size, mtime = line.get("size"), line.get("mtime_ns")
    key = _bytes_of(line["key"])
    if type(size) is int and type(mtime) is int and 0 <= size < 1 << _SIZE_BITS:
        return key, _packed(state, size, mtime)
    return key, Entry(state, None if size is None or mtime is None else (size, mtime))


# JSON as `append` writes it: printable ASCII, a space after each comma and colon, fields in one
# order, further ones flat and none of them twice. What it does not match is read by `json`.
_STRING = rb'"[ !#-\[\]-~]*+(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[ !#-\[\]-~]*+)*+"'
_NUMBER = rb"-?+(?:0|[1-9][0-9]{0,17}+)(?:\.[0-9]++)?+(?:e[+-][0-9]++)?+"
_SCALAR = rb"(?:%b|%b|true|false|null)" % (_STRING, _NUMBER)
_FLAT = rb'\{"[a-z_]++": %b(?:, "[a-z_]++": %b)*+\}' % (_SCALAR, _SCALAR)
_WRITTEN = re.compile(
    rb'\{"key": (%b), "source": %b, "status": "(ok|error)"(?:, "transient": (true|false))?'
    rb', "size": (0|[1-9][0-9]{0,13}), "mtime_ns": (0|[1-9][0-9]{0,18})'
    rb'(?:, "(?!(?:key|source|status|transient|size|mtime_ns)")[a-z0-9_]++": (?:%b|%b))*+\}\n'
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
        key = _bytes_of(json.loads(quoted))
    state: State = "done"
    if status != b"ok":
        state = "transient" if transient == b"true" else "failed"
    return key, _packed(state, int(size), int(mtime))


_IN_TAR = b'.tar"}\n'


def _tar_of(raw: bytes) -> str:
    """The tar that a line names, as its last field."""
    return raw[raw.rfind(b'"', 0, -3) + 1 : -3].decode(errors="replace")


def _packed(state: State, size: int, mtime: int) -> int:
    """An entry as one number, which takes a fifth of the memory."""
    return (mtime << _SIZE_BITS | size) << _STATE_BITS | _NUMBERS[state]


def _bytes_of(key: str) -> bytes:
    return key.encode("utf-8", "surrogatepass")


def _digest(key: bytes) -> bytes:
    # Of 15 bytes, because one more takes a third more memory in CPython.
    return hashlib.blake2b(key, digest_size=15).digest()
