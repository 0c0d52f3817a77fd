"""A long run: its memory, descriptors and threads stay what they were early on."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.conftest import RESULTS, SOAK, Ended, draw

COUNT = 20_000
MODEL = ("--model", "squeezenet1_1", "--weights", "none", "--size", "64", "--batch-size", "16")


@pytest.fixture(scope="module")
def thousands(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Links to a hundred pictures: each is an input of its own."""
    folder = tmp_path_factory.mktemp("soak") / "images"
    folder.mkdir()
    for number in range(COUNT):
        path = folder / f"{number:05}.png"
        if number < 100:
            draw(path, number, size=32)
        else:
            os.link(folder / f"{number % 100:05}.png", path)
    return folder


def sampled(pid: int) -> tuple[int, int, int] | None:
    """Resident kilobytes, descriptors and threads of a process; None once it has ended."""
    try:
        with open(f"/proc/{pid}/status") as file:
            status = dict(line.split(":", 1) for line in file)
        return (
            int(status["VmRSS"].split()[0]),
            len(os.listdir(f"/proc/{pid}/fd")),
            int(status["Threads"]),
        )
    except (OSError, KeyError):
        return None


@SOAK
def test_a_long_run_takes_no_more_than_a_short_one(
    thousands: Path, start: Callable, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run = start("explain", thousands, "-o", out, *MODEL, "-j", "2", "-q", interval=0.5)
    early, late = [], []
    while (sample := sampled(run.pid)) is not None:
        try:
            done = (out / RESULTS).read_bytes().count(b"\n")
        except FileNotFoundError:
            done = 0
        if 1500 <= done < 2500:
            early.append(sample)
        elif 4000 <= done < COUNT - 100:
            late.append(sample)
        time.sleep(0.05)
    assert run.wait() == Ended(0, "", "")
    assert min(len(early), len(late)) >= 5
    for which in (0, 1, 2):
        before, after = (statistics.median(s[which] for s in part) for part in (early, late))
        print(which, before, after)
        # The journal keeps some hundred bytes an input; descriptors and threads are counted.
        assert after <= (before * 1.03 + 4096 if which == 0 else before + 1)
