"""What the command line may change because its process is its own."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

# Parameters of mallopt(3), and the highest value that one takes.
_TRIM_THRESHOLD, _MMAP_MAX, _MOST = -1, -4, 2**31 - 1
_PDEATHSIG = 1  # of prctl(2)
_SPINS = "10000"  # of 300,000 that are GCC's own choice


def fill_standard_streams() -> None:
    """Have /dev/null stand where cron or a shell has closed a standard stream.

    Else the next file or socket takes its number, and what a library prints goes into it.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


def own_process() -> None:
    """Pillow heeds --max-pixels alone, and torch finds what suits it."""
    from camcli.images.decode import own_pillow

    own_pillow()
    suit_torch()


def suit_torch() -> None:
    """What has to be settled before torch is imported."""
    try:
        os.getcwd()
    except FileNotFoundError:  # MKL ends a process whose working directory has been deleted
        os.chdir("/")
    keep_memory()
    yield_cores()


def yield_cores() -> None:
    """Have OpenMP's threads soon sleep while they wait for each other, rather than
    keep cores busy that the codecs or another process could use.
    """
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = _SPINS


def keep_memory() -> None:
    """Have glibc keep freed memory. Given back and taken anew for every tensor, it comes as fresh
    pages, and their faults cost more than the arithmetic of a small network.

    What the environment says (MALLOC_*_) goes first; other C libraries are left alone.
    """
    import ctypes

    chosen = {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_"}
    if sys.platform != "linux" or chosen & os.environ.keys():
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, _MOST)


def die_with(parent: int) -> None:
    """End, at once, when the process that started this one ends, or has ended."""
    import ctypes

    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(128 + signal.SIGKILL)


@contextmanager
def interruptible(
    first: Callable[[int], None], again: Callable[[], None] = lambda: None
) -> Iterator[list[int]]:
    """The first SIGINT, SIGTERM or SIGHUP calls `first`; the next calls `again` and ends all."""
    received: list[int] = []
    before = {}

    def on_signal(number: int, frame: FrameType | None) -> None:
        if received:
            again()
            os._exit(128 + number)
        received.append(number)
        first(number)

    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup stays in force
                before[number] = signal.signal(number, on_signal)
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
