"""What killed exports were writing, told from what living ones write by the lock of the kernel."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from camcli.shard import WHOLE

BEFORE = "-before"
"""How the name of a directory ends that is being replaced."""


@contextmanager
def held(path: Path) -> Iterator[None]:
    """The lock of a file or directory, which goes with the process; OSError if it is taken."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def sweep_files(folder: Path) -> None:
    """Remove temporary files of killed exports from a folder that only exports write to."""
    for left in folder.glob(f"{WHOLE.temporary}*"):
        if left.is_file():
            with suppress(OSError), held(left):
                left.unlink()


def sweep_directories(folder: Path) -> None:
    """Remove what was to take this directory's place; put back what was moved out of its way."""
    for left in folder.parent.glob(f"{WHOLE.temporary}*-{folder.name}"):
        with suppress(OSError), held(left):
            _settle(left.with_name(left.name + BEFORE), folder)
            shutil.rmtree(left)
    for before in folder.parent.glob(f"{WHOLE.temporary}*-{folder.name}{BEFORE}"):
        if not before.with_name(before.name.removesuffix(BEFORE)).exists():
            _settle(before, folder)


def _settle(before: Path, folder: Path) -> None:
    if before.exists() and not folder.exists():
        before.rename(folder)
    shutil.rmtree(before, ignore_errors=True)
