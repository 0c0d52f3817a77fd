"""Files that are whole or not there, and a directory that one run holds at a time."""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from camcli.errors import LockedError, OutputError

TEMPORARY = ".camcli-tmp-"
_LOCK = ".camcli.lock"
_counter = itertools.count()


@contextmanager
def atomic(path: Path) -> Iterator[BinaryIO]:
    """A file to write; it takes the place of `path` when the block ends, or leaves no trace."""
    temporary = path.parent / f"{TEMPORARY}{os.getpid()}-{next(_counter)}"
    try:
        with _created(temporary) as file:
            yield file
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _created(path: Path) -> BinaryIO:
    """A new file; its folder is only made where it turns out to be missing."""
    try:
        return open(path, "wb")
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        return open(path, "wb")


def sweep(directory: Path) -> None:
    """Remove what a killed run was writing; hold the directory's lock meanwhile."""
    for folder, _, names in os.walk(directory):
        for name in names:
            if name.startswith(TEMPORARY):
                Path(folder, name).unlink(missing_ok=True)


def output_error(directory: Path, error: OSError) -> OutputError:
    """What to tell the user where nothing more can be written."""
    return OutputError(
        f"cannot write to '{directory}' ({error.strerror}); everything written so far is kept, "
        "and the same command goes on from there"
    )


@contextmanager
def locked(directory: Path, timeout: float) -> Iterator[None]:
    """Hold a directory, created if need be; LockedError if another run holds it too long.

    The lock is the kernel's (flock) and goes with the process, however it ends.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        file = open(directory / _LOCK, "wb")  # noqa: SIM115
    except OSError as error:
        raise OutputError(
            f"cannot write to the output directory '{directory}' ({error.strerror}); "
            "choose another with -o"
        ) from error
    with file:
        _acquire(file, directory, time.monotonic() + timeout)
        yield


def _acquire(file: BinaryIO, directory: Path, deadline: float) -> None:
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                return  # a file system without locks: nothing to hold
        if time.monotonic() >= deadline:
            raise LockedError(
                f"another run is writing to '{directory}'; wait for it (--lock-timeout SECONDS) "
                "or choose another directory with -o"
            )
        time.sleep(min(0.2, max(0.0, deadline - time.monotonic())))
