"""Outputs in tar files as WebDataset has them: `tars/000000.tar` holds the first so many inputs.

What their members are called is told in `camcli.outputs.stored`. Nothing in a tar depends on when
or by whom it was made. The journal line of an input names its tar, and is written once that is
whole and durable: a tar that no line names was not committed. Where an input is in several tars,
that of its last line counts.
"""

from __future__ import annotations

import itertools
import os
import tarfile
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from camcli.errors import OutputError
from camcli.outputs.files import atomic, output_error
from camcli.outputs.journal import Journal
from camcli.outputs.sink import Committing, Sink
from camcli.outputs.stored import TARS, member
from camcli.shard import WHOLE, Shard

_END = bytes(2 * tarfile.BLOCKSIZE)
# 1980, where zip files begin: GNU tar warns of times that are 0.
_TIME = 315_532_800


def packed(name: str, content: bytes) -> bytes:
    """A member of a tar: its header, its content, and zeros up to a whole block."""
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode = len(content), _TIME, 0o644
    header = info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
    return header + content + bytes(-len(content) % tarfile.BLOCKSIZE)


class Tar:
    """A tar that is being written."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor, self._end = descriptor, 0

    def add(self, files: Mapping[str, bytes]) -> None:
        """Write members, and what ends a tar: where the next ones find no room, this has some."""
        content = b"".join(packed(name, content) for name, content in files.items())
        self._write(content + _END)
        self._end += len(content)

    def end(self) -> None:
        """Cut off what was not written whole."""
        os.ftruncate(self._descriptor, self._end)
        self._write(_END)

    def _write(self, content: bytes) -> None:
        os.lseek(self._descriptor, self._end, os.SEEK_SET)
        left = memoryview(content)
        while left:
            left = left[os.write(self._descriptor, left) :]


@contextmanager
def whole(path: Path, shard: Shard = WHOLE) -> Iterator[Tar]:
    """A tar to write; durable in its place when the block ends, or it leaves no trace."""
    with atomic(path, shard, durable=True) as file:
        tar = Tar(file.fileno())
        yield tar
        tar.end()


@dataclass(frozen=True)
class TarSink(Sink):
    """Tars of `shard_size` inputs each; the last has what is left when a run ends.

    Nothing in a tar is committed before it is closed: where a run is killed, the next explains
    those inputs again.
    """

    shard_size: int = 1000

    @contextmanager
    def commits(self, book: Journal) -> Iterator[Committing]:
        """Commits tar by tar."""
        commits = _Commits(self, book)
        try:
            yield commits
        except BaseException as error:
            with suppress(OutputError):  # which would cover up the first one
                commits.end(error)
            raise
        commits.end()


class _Commits:
    """The tar that is open, and the journal lines of what is in it."""

    def __init__(self, sink: TarSink, book: Journal) -> None:
        self._sink, self._book = sink, book
        known = (sink.shard.number_of_tar(name) for name in book.tars)
        last = max((number for number in known if number is not None), default=-1)
        self._numbers = itertools.count(last + 1)
        self._held = ExitStack()
        self._tar: Tar | None = None
        self._name = ""
        self._lines: list[dict[str, Any]] = []
        self._pool = ThreadPoolExecutor(1)
        self._closing: Future[None] | None = None

    def add(self, line: dict[str, Any], files: Mapping[str, bytes]) -> None:
        key = line["key"]
        try:
            if self._tar is None:
                self._name = self._sink.shard.tar(next(self._numbers))
                path = self._sink.directory / TARS / self._name
                self._tar = self._held.enter_context(whole(path, self._sink.shard))
            self._tar.add({member(key, name): content for name, content in files.items()})
        except OSError as error:
            raise output_error(self._sink.directory, error) from error
        self._lines.append(line | {"tar": self._name})
        if len(self._lines) == self._sink.shard_size:
            self._wait()
            # A disk takes its time to hold a tar: the next one is filled meanwhile.
            self._closing = self._pool.submit(self._close, self._held.pop_all(), self._lines)
            self._lines, self._tar = [], None

    def end(self, error: BaseException | None = None) -> None:
        """Commit what is left, unless what came before it could not be; what `error` left empty
        leaves no trace.
        """
        with self._pool:
            try:
                self._wait()
            except OutputError as earlier:
                self._held.__exit__(type(earlier), earlier, None)
                raise
            if self._lines:
                self._close(self._held.pop_all(), self._lines)
            elif error is not None:
                self._held.__exit__(type(error), error, None)

    def _wait(self) -> None:
        """Until the tar before is committed; raises, however often, what that met."""
        if self._closing is not None:
            self._closing.result()

    def _close(self, held: ExitStack, lines: list[dict[str, Any]]) -> None:
        try:
            held.close()
        except OSError as error:
            raise output_error(self._sink.directory, error) from error
        self._book.append(*lines)
