"""Files that are whole or not there, and a directory that one run holds at a time."""

from __future__ import annotations

import errno
import fcntl
import itertools
import math
import os
import time
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from camcli.errors import LockedError, OutputError
from camcli.shard import OUTPUTS, WHOLE, Shard

# Held by a shard only while it looks at the others and writes its run file.
ENTRANCE = ".camcli-entrance.lock"
# Less cannot hold run.json and one picture's outputs.
_LEAST_ROOM = 2**20
# Errors of the output as a whole; any other concerns the one file being written.
FATAL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.EMFILE,
         errno.ENFILE, errno.EACCES, errno.EPERM}  # fmt: skip
_counter = itertools.count()


@contextmanager
def atomic(path: Path, shard: Shard = WHOLE, durable: bool = False) -> Iterator[BinaryIO]:
    """A file to write; it takes the place of `path` when the block ends, or leaves no trace.

    `durable`: once the block has ended, a power cut cannot undo it.
    """
    temporary = path.parent / f"{shard.temporary}{os.getpid()}-{next(_counter)}"
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


def sweep(directory: Path, shard: Shard = WHOLE) -> None:
    """Remove what a killed run or shard was writing; hold its lock meanwhile."""
    for path in temporaries(directory, shard):
        path.unlink(missing_ok=True)


def temporaries(directory: Path, shard: Shard = WHOLE) -> Iterator[Path]:
    """What was being written when its writer was killed; of a whole run, by any shard too."""
    places = [os.walk(directory / name) for name in OUTPUTS]
    for folder, _, names in itertools.chain([next(os.walk(directory), ("", [], []))], *places):
        for name in names:
            if name.startswith(shard.temporary):
                yield Path(folder, name)


@contextmanager
def writing(directory: Path) -> Iterator[None]:
    """OutputError where nothing more can be written; an error of the one file stays what it is."""
    try:
        yield
    except OSError as error:
        if error.errno in FATAL:
            raise output_error(directory, error) from error
        raise


def output_error(directory: Path, error: OSError) -> OutputError:
    """What to tell the user where nothing more can be written."""
    return OutputError(
        f"cannot write to '{directory}' ({error.strerror}); everything written so far is kept, "
        "and the same command goes on from there"
    )


@contextmanager
def locked(directory: Path, timeout: float, shard: Shard = WHOLE) -> Iterator[None]:
    """Hold a directory, created if need be; LockedError if another run holds it too long.

    A whole run holds it alone. Shards share it, and each holds its own lock beside. The lock is
    the kernel's (flock) and goes with the process, however it ends.
    """
    deadline = time.monotonic() + timeout
    with ExitStack() as held:
        file = held.enter_context(_lock_file(directory, WHOLE.lock))
        kind = fcntl.LOCK_EX if shard == WHOLE else fcntl.LOCK_SH
        _acquire(file, kind, f"another run is writing to '{directory}'", deadline)
        if shard != WHOLE:
            own = held.enter_context(_lock_file(directory, shard.lock))
            busy = f"another run is writing shard {shard} to '{directory}'"
            _acquire(own, fcntl.LOCK_EX, busy, deadline)
        yield


@contextmanager
def entrance(directory: Path) -> Iterator[None]:
    """One shard at a time; the others wait the moment that it takes."""
    with _lock_file(directory, ENTRANCE) as file:
        _acquire(file, fcntl.LOCK_EX, f"another shard is starting in '{directory}'", math.inf)
        yield


def _lock_file(directory: Path, name: str) -> BinaryIO:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        return open(directory / name, "a+b")  # for reading too: over NFS, sharing needs that
    except OSError as error:
        raise OutputError(
            f"cannot write to the output directory '{directory}' ({error.strerror}); "
            "choose another with -o"
        ) from error


def _acquire(file: BinaryIO, kind: int, busy: str, deadline: float) -> None:
    while True:
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
            return
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                return  # a file system without locks: nothing to hold
        if time.monotonic() >= deadline:
            raise LockedError(
                f"{busy}; wait for it (--lock-timeout SECONDS) or choose another directory with -o"
            )
        time.sleep(min(0.2, max(0.0, deadline - time.monotonic())))
