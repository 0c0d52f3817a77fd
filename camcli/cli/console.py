"""Messages to people on stderr, and names printed so that they can do no harm."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from camcli.errors import OutputError

_SECONDS_BETWEEN_LINES = 30.0


def shown(text: str) -> str:
    """Text with control characters and undecodable bytes escaped."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )


def counted(number: int, what: str) -> str:
    """`1 fault`, `1,000 faults`"""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def emit(line: bytes | str) -> bool:
    """A line of data on stdout; False where its reader has gone. OutputError where it is full."""
    if sys.stdout is None:
        return False
    if isinstance(line, str):
        line = line.encode(sys.stdout.encoding, "backslashreplace")
    try:
        sys.stdout.buffer.write(line)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return False
    except OSError as error:
        sys.stdout = None  # what it still holds would be refused again
        raise OutputError(
            f"stdout cannot be used ({error.strerror}); what was done so far is kept"
        ) from error
    return True


def say(text: str) -> None:
    """A line on stderr, above a progress bar if there is one. Without stderr it is dropped."""
    if sys.stderr is None:
        return
    try:
        if "tqdm" in sys.modules:
            sys.modules["tqdm"].tqdm.write(text, file=sys.stderr)
        else:
            print(text, file=sys.stderr)
    except OSError:  # a log on a full disk, a reader that has gone: no reason to stop working
        sys.stderr = None


def complain(text: str) -> None:
    """A fault, in one line."""
    say(f"camcli: {shown(text)}")


class Progress:
    """Counts inputs: a bar on a terminal, a plain line every half minute elsewhere."""

    def __init__(self, bar: Any, plain: bool) -> None:
        self._bar, self._plain = bar, plain
        self._count, self._last = 0, time.monotonic()

    def advance(self, count: int = 1) -> None:
        """So many more inputs are committed."""
        self._count += count
        if self._bar is not None:
            self._bar.update(count)
        elif self.due():
            say(f"camcli: {self._count:,} done")

    def due(self) -> bool:
        """Whether half a minute has passed since a line was last due."""
        now = time.monotonic()
        if not self._plain or now - self._last <= _SECONDS_BETWEEN_LINES:
            return False
        self._last = now
        return True


@contextmanager
def progress(quiet: bool, wanted: bool) -> Iterator[Progress]:
    """Progress on stderr, unless the run is to be quiet."""
    terminal = sys.stderr is not None and sys.stderr.isatty()
    if quiet or not wanted or not terminal:
        yield Progress(None, plain=not quiet and wanted)
        return
    from tqdm import tqdm

    with tqdm(unit=" pictures", file=sys.stderr, dynamic_ncols=True) as bar:
        yield Progress(bar, plain=False)
