"""Power cuts: what a disk holds at any moment is a run that can go on.

A run writes to an ext4 image on a loop device. The image is copied meanwhile: what the kernel has
not written back yet is not in it, as after a power cut, and mounting the copy replays its journal.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.faults.conftest import (
    SLOW,
    SMALL,
    committed,
    draw,
    ext4,
    faults,
    formatted,
    outputs,
    until,
)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("many") / "images"
    folder.mkdir()
    for number in range(200):
        draw(folder / f"{number:03}.png", number, size=60)
    return folder


def cuts(
    start: Callable, images: Path, tmp_path: Path, moments: list[int], **options: object
) -> Iterator[Path]:
    """Images of the disk, each as it was once so many inputs had been committed."""
    image = formatted(tmp_path / "image", 32)
    with ext4(image, tmp_path / "disk") as disk:
        out = disk / "out"
        run = start("explain", images, "-o", out, *SMALL, "-j", "2", "-q", **options)
        for number, moment in enumerate(moments):
            until(out, moment)
            copy = tmp_path / f"copy-{number}"
            run.signal(signal.SIGSTOP, group=True)
            copy.write_bytes(at_an_instant(image))
            run.signal(signal.SIGCONT, group=True)
            yield copy
        run.wait()


def at_an_instant(image: Path) -> bytes:
    """What a disk holds once nobody writes to it: two readings are equal.

    A single reading, while the disk is written to, finds the name of a file without its bytes
    where the name lies further back; no disk keeps what came after a flush and loses what it held
    before.
    """
    end = time.monotonic() + 60
    before = image.read_bytes()
    while (content := image.read_bytes()) != before:
        assert time.monotonic() < end
        before = content
    return content


@contextmanager
def after(copy: Path, tmp_path: Path) -> Iterator[Path]:
    """The disk after a power cut; the journal of the file system is replayed."""
    with ext4(copy, tmp_path / "disk") as disk:
        yield disk / "out"


def damaged(out: Path) -> list[object]:
    """What is there of a run and is not as its journal says; what it had not committed may be."""
    if not (out / "run.json").exists():
        assert committed(out) == []
        return []
    return [finding for finding in faults(out) if finding.kind not in ("extra", "temporary")]


MOMENTS = [2, 30, 90]


@pytest.mark.parametrize(
    "moments", [MOMENTS[1:2], pytest.param([1, *range(5, 160, 20)], marks=SLOW)]
)
def test_what_was_committed_before_a_power_cut_is_whole_and_the_rest_is_done_after_it(
    moments: list[int], many: Path, start: Callable, explain: Callable, tmp_path: Path
) -> None:
    explain(many, tmp_path / "whole", "-q")
    whole = outputs(tmp_path / "whole")
    copies = list(cuts(start, many, tmp_path, moments))
    kept = []
    for copy in copies:
        with after(copy, tmp_path) as out:
            assert damaged(out) == []
            kept.append(len(committed(out)))
            ended = explain(many, out, "-q")
            assert (ended.status, ended.stderr) == (0, "")
            assert outputs(out) == whole
            assert faults(out) == []
    assert any(0 < count < 200 for count in kept), kept
    assert sorted(kept) == kept


@SLOW
def test_without_durability_points_a_power_cut_damages_what_was_committed(
    many: Path, start: Callable, tmp_path: Path
) -> None:
    """So that the test above can fail: the journal reaches the disk, its files do not."""
    lost = []
    for copy in list(cuts(start, many, tmp_path, [30, 60, 90], unordered=True)):
        with after(copy, tmp_path) as out:
            lost += damaged(out)
    assert lost
