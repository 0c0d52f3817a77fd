"""Lists of paths, in files and on stdin."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import BinaryIO

from camcli.errors import UsageError


def listed(source: str, null_separated: bool) -> Iterator[str]:
    """The paths of a list, as raw bytes from the file system's point of view."""
    if source == "-":
        yield from _split(piped(), null_separated)
        return
    try:
        with open(source, "rb") as file:
            yield from _split(file, null_separated)
    except OSError as error:
        raise UsageError(f"cannot read the list '{source}': {error.strerror}") from error


def piped() -> BinaryIO:
    """What is piped into stdin; UsageError where nothing is."""
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError("a list of paths was expected on stdin, but nothing is piped into it")
    return sys.stdin.buffer


def _split(file: BinaryIO, null_separated: bool) -> Iterator[str]:
    if not null_separated:
        for line in file:
            if path := line.rstrip(b"\r\n"):
                yield os.fsdecode(path)
        return
    rest = b""
    while chunk := file.read(65536):
        *whole, rest = (rest + chunk).split(b"\0")
        yield from (os.fsdecode(path) for path in whole if path)
    if rest:
        yield os.fsdecode(rest)
