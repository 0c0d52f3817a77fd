"""The command line's process keeps the memory that it has freed, unless it is told otherwise."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

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


def page_faults(**environment: str) -> int:
    """Of filling four arrays of 128 MiB, one after the other, when one has been freed before."""
    done = subprocess.run(
        [sys.executable, "-c", _FAULTS],
        env=os.environ | environment,
        check=True,
        capture_output=True,
        timeout=120,
    )
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is of glibc")
def test_memory_that_was_freed_is_used_again_without_page_faults() -> None:
    kept = page_faults()
    # Not more than large pages have, of which a system may give one for 512 small ones.
    assert kept < 32
    assert page_faults(MALLOC_MMAP_MAX_="65536", MALLOC_TRIM_THRESHOLD_="131072") > 128
