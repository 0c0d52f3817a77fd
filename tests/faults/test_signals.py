"""Signals, and two runs on one directory: nothing is lost, nothing is written twice."""

from __future__ import annotations

import fcntl
import json
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.conftest import (
    SMALL,
    SOAK,
    Ended,
    Started,
    committed,
    faults,
    outputs,
    sentence,
    until,
)

STATUS = {signal.SIGHUP: 129, signal.SIGINT: 130, signal.SIGTERM: 143}


@pytest.fixture
def run(start: Callable, images: Path, tmp_path: Path) -> Callable[..., Started]:
    """Starts the run that every test here starts."""
    command = ("explain", images, "-o", tmp_path / "out", *SMALL, "-j", "2")
    return lambda *options, **more: start(*command, *options, **more)


def left_alone(pid: int) -> bool:
    """Whether no process of a group is left, within seconds."""
    for _ in range(500):
        try:
            os.killpg(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.01)
    return False


# A terminal signals the whole group, decoders too; `kill` the run alone.
@pytest.mark.parametrize("group", [False, True], ids=["run", "group"])
@pytest.mark.parametrize("number", STATUS)
def test_a_signal_ends_a_run_in_good_order(
    number: signal.Signals, group: bool, run: Callable, whole: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    running = run()
    until(out, 3)
    running.signal(number, group)
    ended = running.wait()
    assert ended.status == STATUS[number], ended
    assert f"camcli: stopped by {number.name}; the same command goes on" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert left_alone(running.pid)
    assert 3 <= len(committed(out)) < 30
    assert faults(out) == []
    assert run("-q").wait() == Ended(0, "", "")
    assert outputs(out) == whole


@pytest.mark.parametrize("signals", [3, pytest.param(60, marks=SOAK)])
def test_signals_at_any_moment_lose_nothing(
    signals: int, run: Callable, whole: dict[str, bytes], tmp_path: Path
) -> None:
    out, chance, before, sent = tmp_path / "out", random.Random(0), 0, 0
    while sent < signals:
        running, number = run("-q"), chance.choice([*STATUS])
        time.sleep(chance.uniform(0.0, 0.8))
        running.signal(number, group=chance.random() < 0.5)
        ended = running.wait()
        sent += 1
        # Before it listens, a run ends as any process does.
        assert ended.status in (STATUS[number], -number, 0), ended
        assert ended.stderr == ""
        now = committed(out)
        assert len(now) == len(set(now)) >= before
        before = len(now)
        if before == 30:
            assert faults(out) == []
            (out / "run.json").unlink()
            (out / "results.jsonl").unlink()
            for kind in ("json", "maps", "overlays"):
                for path in (out / kind).iterdir():
                    path.unlink()
                (out / kind).rmdir()
            before = 0
    assert run("-q").wait() == Ended(0, "", "")
    assert outputs(out) == whole
    assert faults(out) == []


def test_a_second_signal_stops_at_once_and_loses_nothing_committed(
    run: Callable, whole: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    running = run("-q", interval=0.5)
    until(out, 1)
    running.signal(signal.SIGTERM)
    running.signal(signal.SIGINT)
    assert running.wait().status in (130, 143)
    assert left_alone(running.pid)
    kept = committed(out)
    assert run("-q").wait() == Ended(0, "", "")
    assert committed(out)[: len(kept)] == kept
    assert outputs(out) == whole
    assert faults(out) == []


def test_a_second_run_is_refused_waits_or_follows_one_that_was_killed(
    run: Callable, whole: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    first = run("-q")
    until(out, 2)
    first.signal(signal.SIGSTOP)
    refused = run("-q").wait()
    assert refused.status == 75
    assert sentence(refused) == (
        f"camcli: another run is writing to '{out}'; wait for it (--lock-timeout SECONDS) "
        "or choose another directory with -o"
    )
    second = run("-q", "--lock-timeout", "60")
    time.sleep(0.3)
    first.kill()  # while it holds the lock, and decoders wait for it
    assert second.wait() == Ended(0, "", "")
    assert len(set(committed(out))) == 30
    assert outputs(out) == whole
    assert faults(out) == []


def test_a_second_run_that_waits_finds_the_work_of_the_first(
    run: Callable, whole: dict[str, bytes], tmp_path: Path
) -> None:
    first = run()
    until(tmp_path / "out", 2)
    ended = run("--lock-timeout", "60").wait()
    assert first.wait().status == ended.status == 0
    assert "0 explained, 30 already done" in ended.stderr
    assert outputs(tmp_path / "out") == whole


def test_records_stop_with_their_reader_and_the_next_run_goes_on(
    run: Callable, whole: dict[str, bytes], tmp_path: Path
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, 4096)  # of a few records
    running = run("--json", "-q", stdout=pipe)
    line = b""
    while not line.endswith(b"\n"):
        try:
            line += os.read(reader, 1)
        except BlockingIOError:
            time.sleep(0.005)
    os.close(reader)
    assert running.wait() == Ended(0, "", "")
    out = tmp_path / "out"
    kept = committed(out)
    assert json.loads(line)["key"] == kept[0]
    assert len(kept) < 30
    assert run("-q").wait() == Ended(0, "", "")
    assert outputs(out) == whole
    assert faults(out) == []
