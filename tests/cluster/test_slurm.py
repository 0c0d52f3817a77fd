"""The array script in configs/, run by a real Slurm: at once, cancelled, near its time limit."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from camcli.shard import Shard
from tests.cluster.slurm import Slurm, missing, started, until
from tests.written import journalled, outputs

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(missing()), reason=missing())]

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "configs" / "slurm-array.sh"
TASKS = 8
PICTURES = 24
# A method that needs many forward passes, so that tasks can be met at work.
SETTINGS = {"CAMCLI_MODEL": "squeezenet1_1", "CAMCLI_WEIGHTS": "none", "CAMCLI_SIZE": "64",
            "CAMCLI_BATCH_SIZE": "2", "CAMCLI_METHOD": "smoothgradcampp",
            "OMP_NUM_THREADS": "1"}  # fmt: skip


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    """A node on which all tasks of the array can run at once, and camcli on its path."""
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder:
        (Path(folder) / "bin").mkdir()
        command = Path(folder) / "bin" / "camcli"
        command.write_text(f"#!/bin/sh\nexec '{sys.executable}' -m camcli \"$@\"\n")
        command.chmod(0o755)
        paths = {"PATH": os.pathsep.join([str(command.parent), os.environ["PATH"]]),
                 "PYTHONPATH": str(ROOT)}  # fmt: skip
        with started(Path(folder), TASKS * 4, os.environ | SETTINGS | paths) as slurm:
            yield slurm


@pytest.fixture(scope="module")
def images(slurm: Slurm) -> Path:
    folder = slurm.folder / "images"
    folder.mkdir()
    samples = sorted((ROOT / "samples").glob("*.jpg"))
    for number, sample in zip(range(PICTURES), itertools.cycle(samples)):
        shutil.copy(sample, folder / f"{number:02}.jpg")
    return folder


@pytest.fixture(scope="module")
def whole(slurm: Slurm, images: Path) -> dict[str, bytes]:
    """What one run without shards writes."""
    slurm.tell("camcli", "explain", images, "--output", slurm.folder / "whole")
    return outputs(slurm.folder / "whole")


def lines(out: Path, count: int) -> list[list[str]]:
    """The keys in the journal of every shard, as often as they are there."""
    journals = [out / Shard(index, count).journal for index in range(count)]
    return [[line["key"] for line in journalled(path)] if path.exists() else []
            for path in journals]  # fmt: skip


def at_work(out: Path, tasks: int) -> bool:
    """Whether every task has begun, and there are maps already."""
    begun = all((out / Shard(index, tasks).run_file).exists() for index in range(tasks))
    return begun and len(list((out / "maps").glob("*.npz"))) >= tasks


def documented(slurm: Slurm, images: Path, out: Path, options: str = "") -> tuple[str, str]:
    """Submit the two lines that the script's head shows; the numbers of the array and the merge."""
    lines = re.findall(r"^#     (.*)$", SCRIPT.read_text(), re.MULTILINE)
    assert len(lines) == 2
    text = "; ".join([*lines, "echo $job"]).replace("configs/", f"{options} {ROOT}/configs/")
    text = text.replace("/data/images", str(images)).replace("/data/explained", str(out))
    merge, array = re.findall(r"\d+", slurm.tell("bash", "-euc", text))
    return array, merge


def test_the_two_documented_lines_make_one_run_even_where_a_picture_is_damaged(
    slurm: Slurm, images: Path, whole: dict[str, bytes]
) -> None:
    """For Slurm the task that met it has failed."""
    damaged, out = images / "damaged.jpg", slurm.folder / "explained"
    damaged.write_bytes(b"no picture")
    array, merge = documented(slurm, images, out)
    states = slurm.ended(array)
    assert slurm.ended(merge) == {"": "COMPLETED 0:0"}
    damaged.unlink()
    assert sorted(states.values()) == ["COMPLETED 0:0"] * (TASKS - 1) + ["FAILED 3:0"]
    slurm.tell("camcli", "verify", out, "--deep")
    run = json.loads((out / "run.json").read_bytes())
    assert [(part["index"], part["count"]) for part in run["shards"]] == [
        (index, TASKS) for index in range(TASKS)
    ]
    assert (run["counts"]["done"], run["counts"]["failed"]) == (PICTURES, 1)
    written = outputs(out)
    del written["json/damaged.jpg.json"]
    assert written == whole


def test_a_cancelled_array_is_finished_by_the_same_sbatch_again(
    slurm: Slurm, images: Path, whole: dict[str, bytes]
) -> None:
    out = slurm.folder / "cancelled"
    job = slurm.submit(SCRIPT, images, out)
    until(lambda: at_work(out, TASKS), "all tasks to be at work")
    slurm.tell("scancel", job)
    # 143: camcli was given the time to end its batch.
    assert set(slurm.ended(job).values()) <= {"CANCELLED 143:0", "COMPLETED 0:0"}
    before = lines(out, TASKS)
    assert 0 < sum(map(len, before)) < PICTURES
    written = {key: (out / "maps" / f"{key}.npz").stat().st_mtime_ns
               for key in itertools.chain(*before)}  # fmt: skip
    states = slurm.ended(slurm.submit(SCRIPT, images, out))
    assert set(states.values()) == {"COMPLETED 0:0"}
    assert [now[: len(then)] for now, then in zip(lines(out, TASKS), before, strict=True)] == before
    assert {key: (out / "maps" / f"{key}.npz").stat().st_mtime_ns for key in written} == written
    every = [f"{number:02}.jpg" for number in range(PICTURES)]
    assert sorted(itertools.chain(*lines(out, TASKS))) == every
    slurm.tell("camcli", "verify", out, "--deep")
    slurm.tell("camcli", "merge", out)
    slurm.tell("camcli", "verify", out)
    assert outputs(out) == whole


def test_a_task_near_its_time_limit_ends_its_batch_and_is_queued_again(
    slurm: Slurm, images: Path, whole: dict[str, bytes]
) -> None:
    """As --signal=B:USR1@60 has Slurm do it, at a moment that no clock decides."""
    assert "#SBATCH --signal=B:USR1@60\n" in SCRIPT.read_text()
    out = slurm.folder / "limited"
    job, merge = documented(slurm, images, out, "--array=0-1")
    until(lambda: at_work(out, 2), "both tasks to be at work")
    slurm.tell("scancel", "--batch", "--signal=USR1", job)
    states = slurm.ended(job)
    assert states == {"0": "COMPLETED 0:0", "1": "COMPLETED 0:0"}
    for task in range(2):
        log = (slurm.folder / f"camcli-{job}_{task}.log").read_text()
        events = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
        ends = [event for event in events if event["event"] == "finished"]
        assert [end["exit_status"] for end in ends] == [143, 0]
        assert ends[1]["counts"]["already_done"] == ends[0]["counts"]["explained"] > 0
    assert slurm.ended(merge) == {"": "COMPLETED 0:0"}  # it has waited for the tasks' second start
    slurm.tell("camcli", "verify", out, "--deep")
    assert outputs(out) == whole
