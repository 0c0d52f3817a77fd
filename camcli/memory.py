"""How many pictures fit into memory at once, and telling that it ran out."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

T = TypeVar("T")

_RAN_OUT = re.compile(r"out of memory|(can't|not enough|cannot) .{0,20}memory", re.IGNORECASE)
# What is left to decoded pictures, other processes, and libraries that take memory as they go.
_SHARE = 0.5
# Larger batches of the usual networks are no faster.
_MOST = {"cpu": 16, "mps": 32}
_MOST_ON_GPU = 256
_CGROUP = Path("/sys/fs/cgroup")


def unless_it_runs_out(work: Callable[[], T]) -> T | None:
    """What the work returns; None, with all that it took given back, where memory ran out."""
    try:
        return work()
    except Exception as error:
        if not ran_out(error):
            raise
    if torch.cuda.is_available():  # the exception, which held on to tensors, is gone by now
        torch.cuda.empty_cache()
    return None


def ran_out(error: BaseException) -> bool:
    """Whether an exception says that there is no memory left, on the host or on the device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and _RAN_OUT.search(str(error)) is not None


def available(device: torch.device) -> int:
    """Bytes that a process may still take on a device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return min(_free_on_host(), _free_in_cgroup())


def fitting(device: torch.device, explain: Callable[[int], None], largest: int) -> int:
    """The largest power of two of pictures that fits into a share of what is available.

    On a GPU a picture costs what `explain(8)` takes beyond `explain(4)` at its peak. Elsewhere
    peaks cannot be read: there it is taken for eight times the largest map, of `largest` bytes.
    """
    each = 8 * largest
    if device.type == "cuda":
        each = (_peak(device, explain, 8) - _peak(device, explain, 4)) // 4
    count = int(_SHARE * available(device)) // max(each, 1)
    most = _MOST.get(device.type, _MOST_ON_GPU)
    return 1 << (max(1, min(count, most)).bit_length() - 1)


def _peak(device: torch.device, explain: Callable[[int], None], count: int) -> int:
    torch.cuda.reset_peak_memory_stats(device)
    explain(count)
    return torch.cuda.max_memory_allocated(device)


def _free_on_host() -> int:
    try:
        text = Path("/proc/meminfo").read_text()
    except OSError:  # not Linux
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    found = re.search(r"^MemAvailable:\s+(\d+) kB$", text, re.MULTILINE)
    return int(found[1]) * 1024 if found else 2**63


def _free_in_cgroup() -> int:
    """What a container's limit leaves, where there is one."""
    try:
        limit, used = ((_CGROUP / f"memory.{name}").read_text() for name in ("max", "current"))
        return int(limit) - int(used)
    except (OSError, ValueError):  # no cgroup, or no limit ("max")
        return 2**63
