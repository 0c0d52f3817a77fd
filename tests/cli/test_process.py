"""The command line's process keeps freed memory and yields its cores, unless told otherwise."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

# Page faults of filling four arrays of 128 MiB by turns, when one has been freed before.
_FAULTS = """
import resource
import numpy as np
from camcli.cli.process import keep_memory
keep_memory()
np.ones(2**24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    np.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


# Without what a test in this process may have settled already.
_UNTOUCHED = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}


def told(program: str, **environment: str) -> float:
    """The number that a program prints."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=_UNTOUCHED | environment,
        check=True,
        capture_output=True,
        timeout=120,
    )
    return float(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is of glibc")
def test_memory_that_was_freed_is_used_again_without_page_faults() -> None:
    kept = told(_FAULTS)
    # Not more than large pages have, of which a system may give one for 512 small ones.
    assert kept < 32
    assert told(_FAULTS, MALLOC_MMAP_MAX_="65536", MALLOC_TRIM_THRESHOLD_="131072") > 128


_WAITING = """
import os
from camcli.cli.process import suit_torch
suit_torch()
print(os.environ.get("GOMP_SPINCOUNT", 0))
"""


def test_threads_that_wait_for_work_leave_the_cores_to_others() -> None:
    assert 0 < told(_WAITING) < 100_000  # GCC's own choice is 300,000
    assert told(_WAITING, GOMP_SPINCOUNT="7") == 7
    assert told(_WAITING, OMP_WAIT_POLICY="ACTIVE") == 0
