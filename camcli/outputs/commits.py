"""Durability points: outputs reach the disk, and only then the journal lines that name them."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import re
import threading
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from camcli.outputs.files import fsync, output_error

Json = dict[str, Any]

# Seconds between two points: the first comes early, so that a short run keeps something too.
FIRST, LONGEST = 0.25, 2.0
# Lines that may wait for a point; beyond that, whoever adds waits for the disk.
_MOST = 10_000
_NO_SYNCFS = {errno.ENOSYS, errno.EINVAL, errno.EPERM, errno.EOPNOTSUPP}


class Disk:
    """Makes files below one output directory durable, and the directories that name them.

    Where the kernel has it, by one syncfs for them all, which costs next to nothing beside an
    fsync of every file.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        # Kept open: syncfs tells of what went wrong since its descriptor was opened.
        self._descriptor = os.open(directory, os.O_RDONLY)
        self._syncfs = _syncfs()

    def sync(self, names: Iterable[str]) -> None:
        """Return once these files, named relative to the directory, survive a power cut."""
        try:
            if self._syncfs is None or not self._synced():
                self._one_by_one(names)
        except OSError as error:
            raise output_error(self._directory, error) from error

    def close(self) -> None:
        """Let go of the directory."""
        os.close(self._descriptor)

    def _synced(self) -> bool:
        """One syncfs; False, from then on, where the system turns out not to allow it."""
        assert self._syncfs is not None
        if self._syncfs(self._descriptor) == 0:
            return True
        number = ctypes.get_errno()
        if number not in _NO_SYNCFS:
            raise OSError(number, os.strerror(number))
        self._syncfs = None
        return False

    def _one_by_one(self, names: Iterable[str]) -> None:
        folders = {self._directory}
        for name in names:
            path = self._directory / name
            fsync(path)
            for folder in path.parents:
                if folder in folders:
                    break
                folders.add(folder)
        for folder in folders:
            fsync(folder)


class Commits:
    """Holds lines back until the next point, which a thread of its own takes while others work.

    A context: leaving it takes the last point. After a point that failed nothing more is
    committed, because the kernel reports an error once and then forgets what it could not write.
    """

    def __init__(
        self,
        sync: Callable[[list[str]], None],
        append: Callable[..., None],
        first: float | None = None,
        longest: float | None = None,
    ) -> None:
        """`sync` makes files durable, `append` writes the lines; both raise OutputError."""
        self._sync, self._append = sync, append
        self._pause = FIRST if first is None else first
        self._longest = LONGEST if longest is None else longest
        self._lines: list[Json] = []
        self._files: list[str] = []
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closing = False
        self._error: Exception | None = None

    def add(self, line: Json, files: Iterable[str]) -> None:
        """Have an input committed once its files are durable. Raises what an earlier point met."""
        with self._changed:
            self._changed.wait_for(lambda: self._error or len(self._lines) < _MOST)
            if self._error is not None:
                raise self._error
            self._lines.append(line)
            self._files.extend(files)
            if self._thread is None:
                # A daemon: a run that was dropped half-way must not keep the process alive.
                self._thread = threading.Thread(target=self._points, daemon=True)
                self._thread.start()
            elif len(self._lines) == _MOST:
                self._changed.notify_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Commit what is left; what ended the run already is not covered up by a second fault."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
        if self._error is not None and kind in (None, GeneratorExit):
            raise self._error

    def _points(self) -> None:
        try:
            while not self._closing:
                self._point()
            self._point()
        except Exception as error:  # told to whoever adds next
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _point(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._closing or len(self._lines) >= _MOST, self._pause)
            lines, self._lines = self._lines, []
            files, self._files = self._files, []
            self._changed.notify_all()
        if lines:
            self._sync(files)
            self._append(*lines)
        self._pause = min(2 * self._pause, self._longest)


@cache
def _syncfs() -> Callable[[int], int] | None:
    """syncfs(2), where it exists and reports errors: Linux 5.8 and newer."""
    version = re.match(r"(\d+)\.(\d+)", platform.release())
    if (
        platform.system() != "Linux"
        or version is None
        or tuple(map(int, version.groups())) < (5, 8)
    ):
        return None
    found: Callable[[int], int] | None = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    return found
