"""Tars on disks that fill up or fail, and runs into them that are told to end or are killed."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.conftest import SLOW, SMALL, Ended, committed, faults, sentence, tmpfs, until
from tests.faults.test_disks import KEPT, filled
from tests.written import unpacked

TARS = ("--sink", "tar", "--shard-size", "4", "-q")


def stopped(out: Path, ended: Ended, reason: int, whole: dict[str, bytes]) -> None:
    """The run said what happened, and what is committed is as it should be."""
    assert ended.status == 1, ended
    assert sentence(ended) == f"camcli: cannot write to '{out}' ({os.strerror(reason)}); {KEPT}"
    assert unpacked(out).items() <= whole.items()
    assert not list(out.rglob(".camcli-tmp-*"))
    assert {finding.kind for finding in faults(out)} <= {"extra", "superseded"}


def goes_on(out: Path, ended: Ended, whole: dict[str, bytes]) -> None:
    """With the cause removed, the same command has come to the same end."""
    assert (ended.status, ended.stderr) == (0, "")
    assert unpacked(out) == whole
    assert {finding.kind for finding in faults(out)} <= {"superseded"}
    assert len(committed(out)) == len(set(committed(out)))
    assert json.loads((out / "run.json").read_bytes())["status"] == "done"


def test_a_disk_that_fills_up(
    images: Path, whole: dict[str, bytes], start: Callable, explain: Callable, tmp_path: Path
) -> None:
    with tmpfs(tmp_path / "disk", "size=4m") as disk:
        out = disk / "out"
        run = start("explain", images, "-o", out, *SMALL, "-j", "2", *TARS)
        until(out, 4)
        filled(disk)
        stopped(out, run.wait(), errno.ENOSPC, whole)
        assert explain(images, out, *TARS).status == 1
        shutil.rmtree(disk / "others")
        goes_on(out, explain(images, out, *TARS), whole)


@SLOW
def test_a_disk_that_fills_up_while_tars_are_drawn_again(
    images: Path, explain: Callable, tmp_path: Path
) -> None:
    coloured = (*TARS, "--colormap", "jet", "--overlay-format", "png")
    explain(images, tmp_path / "whole", *coloured)
    with tmpfs(tmp_path / "disk", "size=6m") as disk:
        out = disk / "out"
        assert explain(images, out, *TARS).status == 0
        filled(disk)
        ended = explain(images, out, *coloured)
        refused = f"camcli: cannot write to '{out}' (No space left on device); {KEPT}"
        assert (ended.status, sentence(ended)) == (1, refused)
        shutil.rmtree(disk / "others")
        assert explain(images, out, *coloured) == Ended(0, "", "")
        assert unpacked(out) == unpacked(tmp_path / "whole")
        assert faults(out) == []


def test_a_limit_on_the_size_of_files(
    images: Path, whole: dict[str, bytes], explain: Callable, tmp_path: Path
) -> None:
    """Each run gets one tar further: what fits is committed."""
    out, before = tmp_path / "out", 0
    size = ("--sink", "tar", "--shard-size", "1000", "-q", "--no-isolate")
    for _ in range(2):
        ended = explain(images, out, *size, limits={"FSIZE": 100_000})
        stopped(out, ended, errno.EFBIG, whole)
        assert before < len(committed(out)) < 30
        before = len(committed(out))
    goes_on(out, explain(images, out, *size), whole)


@pytest.mark.parametrize(
    ("call", "path", "after"),
    [
        ("write", "/out/tars/", 9),
        ("rename", "/out/tars/", 1),
        pytest.param("fsync", "/out/tars/", 2, marks=SLOW),
        pytest.param("open", "/out/tars/", 3, marks=SLOW),
        pytest.param("write", "/out/tars/", 0, marks=SLOW),
        pytest.param("write", "/out/results.jsonl", 1, marks=SLOW),
        pytest.param("fsync", "/out/results.jsonl", 1, marks=SLOW),
    ],
)
def test_a_disk_that_fails(
    call: str, path: str, after: int, images: Path, whole: dict[str, bytes],
    explain: Callable, fault: Callable, tmp_path: Path,
) -> None:  # fmt: skip
    out = tmp_path / "out"
    failing = fault(call, path, errno.EIO, after)
    stopped(out, explain(images, out, *TARS, environment=failing), errno.EIO, whole)
    goes_on(out, explain(images, out, *TARS), whole)


def test_writes_that_are_cut_short_are_taken_up_again(
    images: Path, whole: dict[str, bytes], explain: Callable, fault: Callable, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    goes_on(out, explain(images, out, *TARS, environment=fault("short", "/tars/", 0)), whole)
    assert faults(out) == []


def test_an_output_that_may_not_be_written(
    images: Path, whole: dict[str, bytes], explain: Callable, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert explain(images, out, *TARS, "--limit", "8").status == 0
    (out / "tars").chmod(0o555)
    ended = explain(images, out, *TARS, powerless=True)
    stopped(out, ended, errno.EACCES, whole)
    (out / "tars").chmod(0o755)
    goes_on(out, explain(images, out, *TARS), whole)
    assert faults(out) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=SLOW)])
def test_a_run_that_is_told_to_end_closes_its_tar(
    number: int, images: Path, whole: dict[str, bytes], start: Callable, explain: Callable,
    tmp_path: Path,
) -> None:  # fmt: skip
    out = tmp_path / "out"
    run = start("explain", images, "-o", out, *SMALL, "-j", "2", *TARS)
    until(out, 4)
    run.signal(number)
    ended = run.wait()
    assert ended.status in (0, 128 + number)
    assert unpacked(out).items() <= whole.items()
    assert faults(out) == []
    goes_on(out, explain(images, out, *TARS), whole)
    assert faults(out) == []


def test_failures_end_a_run_with_its_tar_closed(
    images: Path, explain: Callable, tmp_path: Path
) -> None:
    folder, out = shutil.copytree(images, tmp_path / "images"), tmp_path / "out"
    for number in (5, 6):
        (folder / f"{number:02}.png").write_bytes(b"no picture")
    ended = explain(folder, out, *TARS, "--max-errors", "1")
    assert ended.status == 3
    assert {"05.png", "06.png"} <= {*committed(out)}
    assert faults(out) == []
    assert explain(folder, out, *TARS).status == 0
    assert len(committed(out)) == 30
    assert faults(out) == []
