"""Files that are whole or not there, and a directory that one run holds at a time."""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from camcli.errors import LockedError, OutputError
from camcli.images.discover import OUTPUTS

TEMPORARY = ".camcli-tmp-"
# Less cannot hold run.json and one picture's outputs.
_LEAST_ROOM = 2**20
_LOCK = ".camcli.lock"
_counter = itertools.count()


@contextmanager
def atomic(path: Path, durable: bool = False) -> Iterator[BinaryIO]:
    """A file to write; it takes the place of `path` when the block ends, or leaves no trace.

    `durable`: once the block has ended, a power cut cannot undo it.
    """
    temporary = path.parent / f"{TEMPORARY}{os.getpid()}-{next(_counter)}"
    try:
        with _created(temporary) as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        fsync(path.parent)


def _created(path: Path) -> BinaryIO:
    """A new file, to write and read; its folder is only made where it turns out to be missing."""
    try:
        return open(path, "w+b")
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        return open(path, "w+b")


def fsync(path: Path) -> None:
    """Have a file, or a directory's names, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that cannot do it for directories
            raise
    finally:
        os.close(descriptor)


def crc32(content: bytes) -> str:
    """What tells damage from what was written, for a few microseconds a picture."""
    return f"{zlib.crc32(content):08x}"


def require_room(directory: Path) -> None:
    """Make the directory; OutputError where not even one picture's outputs would fit.

    What a run will need is not known before; a disk that fills up later ends it in good order.
    """
    directory.mkdir(parents=True, exist_ok=True)
    found = os.statvfs(directory)
    blocks = found.f_bfree if os.geteuid() == 0 else found.f_bavail
    free = blocks * found.f_frsize
    if found.f_blocks and free < _LEAST_ROOM:  # some file systems do not say
        raise OutputError(
            f"'{directory}' has {free / 2**20:.1f} MiB left, and a run needs at least "
            f"{_LEAST_ROOM / 2**20:.0f} MiB; make room, or choose another directory with -o"
        )


def sweep(directory: Path) -> None:
    """Remove what a killed run was writing; hold the directory's lock meanwhile."""
    for path in temporaries(directory):
        path.unlink(missing_ok=True)


def temporaries(directory: Path) -> Iterator[Path]:
    """What was being written when its writer was killed."""
    places = [os.walk(directory / name) for name in OUTPUTS]
    for folder, _, names in itertools.chain([next(os.walk(directory), ("", [], []))], *places):
        for name in names:
            if name.startswith(TEMPORARY):
                yield Path(folder, name)


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
