"""One process of `camcli explain` that another looks after: what it says, and how it is ended."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

# Seconds between two words with the driver: how long a signal may take to arrive.
_PAUSE = 0.5
# Bytes of records that are handed on at once.
_MOST = 2**20


@dataclass
class Said:
    """What a process has said, in whole lines, since it was last asked."""

    records: list[bytes] = field(default_factory=list)
    events: list[bytes] = field(default_factory=list)


def started(
    command: Sequence[str], folder: str, environment: dict[str, str], stdin: bytes | None
) -> subprocess.Popen[bytes]:
    """The process. What it reads is at hand before it starts."""
    with _given(stdin) as file:
        return subprocess.Popen(
            command,
            stdin=file,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=folder,
            env=os.environ | environment,
            start_new_session=True,
        )


def _given(stdin: bytes | None) -> IO[bytes]:
    if stdin is None:
        return open(os.devnull, "rb")
    file = tempfile.TemporaryFile()  # noqa: SIM115
    file.write(stdin)
    file.seek(0)
    return file


def attend(process: subprocess.Popen[bytes], hear: Callable[[Said], bool]) -> int:
    """Hand on what the process says until it has ended; its exit status, negative for a signal.

    `hear` returns whether the process is to finish what it has in flight, and end. However this
    ends, so has the process.
    """
    assert process.stdout is not None
    assert process.stderr is not None
    said = Said()
    streams = {process.stdout: (said.records, bytearray()),
               process.stderr: (said.events, bytearray())}  # fmt: skip
    told = False
    spoken = 0.0
    try:
        with selectors.DefaultSelector() as open_streams:
            for stream in streams:
                open_streams.register(stream, selectors.EVENT_READ)
            while open_streams.get_map():
                for key, _ in open_streams.select(_PAUSE):
                    if not _read(key.fileobj, *streams[key.fileobj]):  # type: ignore[index, arg-type]
                        open_streams.unregister(key.fileobj)
                full = sum(map(len, said.records)) > _MOST
                if full or time.monotonic() - spoken >= _PAUSE:
                    if hear(said) and not told:
                        told = True
                        process.terminate()  # what Ray starts does not heed a SIGINT
                    spoken = time.monotonic()
        status = process.wait()
        hear(said)
        return status
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


def _read(stream: IO[bytes], lines: list[bytes], rest: bytearray) -> bool:
    """Take what is there; False at the end."""
    chunk = os.read(stream.fileno(), 2**16)
    rest += chunk or (b"\n" if rest else b"")
    whole, newline, tail = bytes(rest).rpartition(b"\n")
    lines += (whole + newline).splitlines(keepends=True)
    rest[:] = tail
    return bool(chunk)


class Growth:
    """How many lines a journal has, counted as it grows."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._count = self._read = 0

    def count(self) -> int:
        """The lines that are whole."""
        try:
            with open(self._path, "rb") as file:
                if file.seek(0, os.SEEK_END) < self._read:  # a torn line was cut off
                    self._count = self._read = 0
                file.seek(self._read)
                while chunk := file.read(2**20):
                    self._count += chunk.count(b"\n")
                    self._read += len(chunk)
        except FileNotFoundError:
            return 0
        return self._count


def crashed(status: int) -> str:
    """How a process ended that nobody ended: by which signal, or with which status."""
    return signal.Signals(-status).name if status < 0 else f"exit status {status}"
