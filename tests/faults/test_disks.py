"""Disks that fill up, fail, or may not be written: one sentence, nothing half, and it goes on."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.conftest import (
    SLOW,
    SMALL,
    Ended,
    committed,
    draw,
    ext4,
    faults,
    formatted,
    outputs,
    sentence,
    tmpfs,
    until,
)

KEPT = "everything written so far is kept, and the same command goes on from there"


def stopped_and_whole(out: Path, ended: Ended, reason: int, whole: dict[str, bytes]) -> None:
    """The run said what happened, and whatever is there is as it should be."""
    assert ended.status == 1, ended
    assert sentence(ended) == f"camcli: cannot write to '{out}' ({os.strerror(reason)}); {KEPT}"
    assert outputs(out).items() <= whole.items()
    assert not list(out.rglob(".camcli-tmp-*"))
    kinds = {finding.kind for finding in faults(out)}
    assert kinds <= {"extra"}  # written, and not yet committed


def goes_on(out: Path, ended: Ended, whole: dict[str, bytes]) -> None:
    """With the cause removed, the same command has come to the same end."""
    assert (ended.status, ended.stderr) == (0, "")
    assert outputs(out) == whole
    assert faults(out) == []
    assert json.loads((out / "run.json").read_bytes())["status"] == "done"


def filled(disk: Path) -> None:
    """Leave neither room nor inodes."""
    (disk / "others").mkdir()
    with contextlib.suppress(OSError), open(disk / "others" / "big", "wb", buffering=0) as file:
        while file.write(bytes(4096)) == 4096:
            pass
    with contextlib.suppress(OSError):
        for number in range(10_000):
            (disk / "others" / str(number)).touch()


@pytest.mark.parametrize("limits", ["size=4m", pytest.param("nr_inodes=100,size=8m", marks=SLOW)])
def test_a_disk_that_fills_up(
    limits: str, images: Path, whole: dict[str, bytes], start: Callable, explain: Callable,
    tmp_path: Path,
) -> None:  # fmt: skip
    with tmpfs(tmp_path / "disk", limits) as disk:
        out = disk / "out"
        run = start("explain", images, "-o", out, *SMALL, "-j", "2", "-q")
        until(out, 3)
        filled(disk)
        stopped_and_whole(out, run.wait(), errno.ENOSPC, whole)
        again = explain(images, out, "-q")  # is refused, or ends as before
        assert again.status == 1
        assert "make room" in (line := sentence(again)) or KEPT in line
        shutil.rmtree(disk / "others")
        goes_on(out, explain(images, out, "-q"), whole)


@SLOW
def test_a_disk_that_fills_up_while_overlays_are_drawn_again(
    images: Path, explain: Callable, tmp_path: Path
) -> None:
    coloured = ("-q", "--colormap", "jet", "--overlay-format", "png")
    explain(images, tmp_path / "whole", *coloured)
    with tmpfs(tmp_path / "disk", "size=6m") as disk:
        out = disk / "out"
        assert explain(images, out, "-q").status == 0
        filled(disk)
        ended = explain(images, out, *coloured)
        assert ended.status == 1, ended
        refused = f"camcli: cannot write to '{out}' (No space left on device); {KEPT}"
        assert sentence(ended) == refused
        shutil.rmtree(disk / "others")
        assert explain(images, out, *coloured) == Ended(0, "", "")
        assert outputs(out) == outputs(tmp_path / "whole")
        assert faults(out) == []


def test_a_limit_on_the_size_of_files(images: Path, explain: Callable, tmp_path: Path) -> None:
    """Which only the overlay of the third picture reaches."""
    folder, out = tmp_path / "images", tmp_path / "out"
    folder.mkdir()
    for number in range(6):
        draw(folder / f"{number}.png", number, size=600 if number == 2 else 60)
    explain(folder, tmp_path / "whole", "-q")
    whole = outputs(tmp_path / "whole")
    assert sorted(map(len, whole.values()))[-1] > 120_000
    limits = {"FSIZE": 100_000}
    ended = explain(folder, out, "-q", "--no-isolate", limits=limits)
    stopped_and_whole(out, ended, errno.EFBIG, whole)
    # A process that decodes cannot hand the pixels over: a failure that may pass.
    ended = explain(folder, out, "-q", limits=limits)
    assert (ended.status, ended.stderr) == (3, f"camcli: {folder / '2.png'}: File too large\n")
    goes_on(out, explain(folder, out, "-q"), whole)


def test_a_disk_that_the_kernel_makes_read_only(
    images: Path, whole: dict[str, bytes], start: Callable, explain: Callable, tmp_path: Path
) -> None:
    """As ext4 does where it meets an error of its own."""
    image = formatted(tmp_path / "image", 32)
    out = tmp_path / "disk" / "out"
    with ext4(image, tmp_path / "disk") as disk:
        run = start("explain", images, "-o", out, *SMALL, "-j", "2", "-q")
        until(out, 5)
        subprocess.run(["mount", "-o", "remount,abort", disk], check=True)
        ended = run.wait()
        assert sentence(ended) == f"camcli: cannot write to '{out}' (Read-only file system); {KEPT}"
        assert ended.status == 1
        again = explain(images, out, "-q")
        assert (again.status, "Read-only file system" in sentence(again)) == (1, True)
    subprocess.run(["fsck.ext4", "-p", image], capture_output=True, check=False)
    with ext4(image, tmp_path / "disk"):
        assert 5 <= len(committed(out)) < 30
        goes_on(out, explain(images, out, "-q"), whole)


FAILING = [
    ("write", "/out/maps/", 7),
    ("short", "/out/results.jsonl", 0),
    ("rename", "/out/run.json", 1),
]
OTHERS = [
    ("write", "/out/results.jsonl", 1),
    ("syncfs", "/out", 1),
    ("open", "/out/", 7),
    ("write", "/out/overlays/", 7),
    ("write", "/out/json/", 7),
    ("write", "/out/.camcli-tmp-", 1),
    ("fsync", "/out/results.jsonl", 1),
    ("rename", "/out/overlays/", 7),
    ("open", "/out/json/.camcli-tmp-", 7),
    ("open", "/out/results.jsonl", 0),
    *[(call, path, 0) for call, path, _ in FAILING],
]


@pytest.mark.parametrize(
    ("call", "path", "after"),
    [*FAILING, *(pytest.param(*other, marks=SLOW) for other in OTHERS)],
)
def test_a_disk_that_fails(
    call: str, path: str, after: int, images: Path, whole: dict[str, bytes],
    explain: Callable, fault: Callable, tmp_path: Path,
) -> None:  # fmt: skip
    out = tmp_path / "out"
    number = errno.ENOSPC if call == "short" else errno.EIO
    ended = explain(images, out, "-q", environment=fault(call, path, number, after))
    assert ended.status == 1, ended
    assert os.strerror(number) in sentence(ended)
    assert outputs(out).items() <= whole.items()
    goes_on(out, explain(images, out, "-q"), whole)


@pytest.mark.parametrize("after", [0, pytest.param(20, marks=SLOW)])
def test_a_write_that_is_cut_short_is_taken_up_again_or_told(
    after: int, images: Path, whole: dict[str, bytes], explain: Callable, fault: Callable,
    tmp_path: Path,
) -> None:  # fmt: skip
    """As on a disk that had room for half of it, and has room again."""
    out = tmp_path / "out"
    cut = fault("short", f"{out}/", 0, after, times=40)
    ended = explain(images, out, "-q", environment=cut)
    if ended.status != 0:
        assert KEPT in sentence(ended)
    goes_on(out, explain(images, out, "-q"), whole)
