"""Whole runs whose pictures are decoded in processes of their own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from camcli import config
from camcli.cli.explain import job_of
from camcli.errors import UsageError
from camcli.run import Run, Summary
from tests.images.decoding import failing_codec
from tests.written import outputs

SAMPLES = Path(__file__).parent.parent / "samples"
SMALL = {"model": "squeezenet1_1", "weights": "none", "size": "64", "batch_size": "2"}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for sample in sorted(SAMPLES.glob("*.jpg")):
        shutil.copy(sample, folder)
    (folder / "text.jpg").write_text("no picture")
    return folder


def finished(images: Path, out: Path, **settings: object) -> Summary:
    chosen, origins = config.resolve(SMALL | {"output": str(out)} | settings, {}, None)
    asked = {name for name, origin in origins.items() if origin != "default"}
    run = Run(job_of(chosen, (str(images),), asked))
    for _ in run.records():
        pass
    return run.summary


def journal(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "results.jsonl").read_bytes().splitlines()]


def test_a_crash_costs_one_picture_and_isolation_changes_no_byte(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished(images, tmp_path / "plain", isolate=False)
    plain = outputs(tmp_path / "plain")
    failing_codec(tmp_path / "site", monkeypatch)
    (images / "coffee-crash.jpg").write_text(f"signal {signal.SIGSEGV:02}")
    (images / "zz-hang.jpg").write_text("hang")
    summary = finished(images, tmp_path / "apart", isolate=True, decode_timeout="4", workers="2")
    assert (summary.done, summary.failed) == (5, 3)
    apart = outputs(tmp_path / "apart")
    assert plain.items() <= apart.items()
    assert apart.keys() - plain.keys() == {"json/coffee-crash.jpg.json", "json/zz-hang.jpg.json"}
    lines = journal(tmp_path / "apart")
    assert [line["key"] for line in lines] == sorted(os.listdir(images))
    errors = {line["key"]: line["error"] for line in lines if line["status"] == "error"}
    assert errors == {
        "coffee-crash.jpg": "the decoder crashed (SIGSEGV)",
        "text.jpg": "not a picture that can be identified",
        "zz-hang.jpg": "not decoded within 4 s (--decode-timeout)",
    }
    assert all(len(line["sha256"]) == 64 for line in lines)
    again = finished(images, tmp_path / "apart", isolate=True)
    assert (again.already_done, again.failed_earlier, again.failed) == (5, 3, 0)


def processes_of(group: int) -> list[str]:
    """The processes of a group that still run."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, its_group = status.read_text().rpartition(")")[2].split()[:3]
            if int(its_group) == group and state != "Z":
                found.append(status.parent.name)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_whole_group_ends_the_run_as_without_isolation(
    images: Path, tmp_path: Path, number: signal.Signals, camcli: Callable
) -> None:
    for n in range(40):
        shutil.copy(images / "coffee.jpg", images / f"more-{n:02}.jpg")
    given = [x for k, v in SMALL.items() for x in (f"--{k.replace('_', '-')}", v)]
    out = tmp_path / "out"
    command = [sys.executable, "-m", "camcli", "explain", images, "-o", out, *given, "--isolate"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True) as run:
        while not (out / "results.jsonl").exists():
            assert run.poll() is None
            time.sleep(0.02)
        assert len(processes_of(run.pid)) > 2
        os.killpg(run.pid, number)
        _, said = run.communicate(timeout=60)
    assert run.returncode == 128 + number
    assert number.name.encode() in said
    assert not processes_of(run.pid)
    lines = journal(out)
    assert [x["key"] for x in lines if x["status"] == "error"] in ([], ["text.jpg"])
    camcli("explain", images, "-o", out, *given, "--isolate", check=3)
    assert len(journal(out)) == len(os.listdir(images))


def test_a_timeout_that_could_not_be_kept_is_refused(images: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^--decode-timeout 5 needs --isolate: a thread"):
        finished(images, tmp_path / "out", isolate=False, decode_timeout="5")
