"""Files that cannot be opened: no permission, no descriptors, a disk that cannot be read."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.conftest import SLOW, Ended, committed, faults, outputs, sentence


@pytest.fixture
def own(images: Path, tmp_path: Path) -> Path:
    """The pictures, for a test to change."""
    return Path(shutil.copytree(images, tmp_path / "images"))


@pytest.fixture
def undisturbed(own: Path, explain: Callable, tmp_path: Path) -> dict[str, bytes]:
    assert explain(own, tmp_path / "whole", "-q").status == 0
    return outputs(tmp_path / "whole")


def test_inputs_that_may_not_be_read_fail_alone_and_are_tried_again(
    own: Path, undisturbed: dict[str, bytes], explain: Callable, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    forbidden = [own / "03.png", own / "24.png"]
    for path in forbidden:
        path.chmod(0)
    for _ in range(2):
        ended = explain(own, out, "-q", powerless=True)
        assert ended.status == 3
        assert ended.stderr.splitlines() == [
            f"camcli: {path}: Permission denied" for path in forbidden
        ]
        assert len(set(committed(out))) == 30
        assert faults(out) == []
    for path in forbidden:
        path.chmod(0o644)
    assert explain(own, out, "-q", powerless=True) == Ended(0, "", "")
    assert outputs(out) == undisturbed


@SLOW
def test_a_folder_that_may_not_be_listed_is_one_failure(
    own: Path, explain: Callable, tmp_path: Path
) -> None:
    out, inner = tmp_path / "out", own / "inner"
    inner.mkdir()
    shutil.copy(own / "00.png", inner)
    inner.chmod(0)
    ended = explain(own, out, "-q", powerless=True)
    assert (ended.status, ended.stderr) == (3, f"camcli: {inner}: Permission denied\n")
    inner.chmod(0o755)
    assert explain(own, out, "-q", powerless=True) == Ended(0, "", "")
    assert (out / "maps" / "inner" / "00.png.npz").exists()
    assert faults(out) == []


@pytest.mark.parametrize(
    "name",
    [
        "maps",
        *(pytest.param(n, marks=SLOW) for n in ("", "results.jsonl", "run.json", ".camcli.lock")),
    ],
)
def test_an_output_that_may_not_be_written_is_said_to_be_the_output(
    name: str, own: Path, undisturbed: dict[str, bytes], explain: Callable, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert explain(own, out, "-q", "--limit", "5").status == 0
    place = out / name
    mode = place.stat().st_mode
    place.chmod(0o555 if place.is_dir() else 0)
    ended = explain(own, out, "-q", powerless=True)
    assert ended.status == 1
    assert f"'{out}" in (line := sentence(ended))
    assert "Permission denied" in line
    place.chmod(mode)
    assert explain(own, out, "-q", powerless=True) == Ended(0, "", "")
    assert outputs(out) == undisturbed
    assert faults(out) == []


def test_inputs_that_a_disk_cannot_read_fail_alone_and_are_tried_again(
    images: Path, whole: dict[str, bytes], explain: Callable, fault: Callable, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    ended = explain(images, out, "-q", environment=fault("read", "/images/1", errno.EIO))
    assert ended.status == 3
    assert ended.stderr.splitlines() == [
        f"camcli: {images}/1{n}.png: Input/output error" for n in range(10)
    ]
    assert explain(images, out, "-q") == Ended(0, "", "")
    assert outputs(out) == whole
    assert faults(out) == []


@pytest.mark.parametrize("name", ["results.jsonl", pytest.param("run.json", marks=SLOW)])
def test_what_an_earlier_run_left_and_cannot_be_read_is_one_sentence(
    name: str, images: Path, whole: dict[str, bytes], explain: Callable, fault: Callable,
    tmp_path: Path,
) -> None:  # fmt: skip
    out = tmp_path / "out"
    assert explain(images, out, "-q", "--limit", "5").status == 0
    ended = explain(images, out, "-q", environment=fault("read", f"/out/{name}", errno.EIO))
    assert ended.status == 1
    assert f"'{out}/{name}' cannot be read" in sentence(ended)
    assert explain(images, out, "-q") == Ended(0, "", "")
    assert outputs(out) == whole


MOST = [pytest.param(most, marks=[] if most == 12 else SLOW) for most in range(4, 30)]


@pytest.mark.parametrize("most", MOST)
def test_a_limit_on_open_files(
    most: int, images: Path, whole: dict[str, bytes], explain: Callable, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    ended = explain(images, out, "-q", "-j", "8", limits={"NOFILE": most})
    assert ended.status in (0, 1, 3)
    said = ended.stderr.splitlines()  # of pictures, and of the output at last
    assert all("Too many open files" in line for line in said)
    assert bool(said) == bool(ended.status)
    assert explain(images, out, "-q") == Ended(0, "", "")
    assert outputs(out) == whole
    assert faults(out) == []


def test_overlays_that_cannot_be_drawn_again_are_not_claimed(
    images: Path, explain: Callable, fault: Callable, tmp_path: Path
) -> None:
    out, coloured = tmp_path / "out", ("-q", "--colormap", "jet")
    explain(images, tmp_path / "whole", *coloured)
    assert explain(images, out, "-q").status == 0
    broken = fault("write", "/out/overlays/", errno.EIO, after=10)
    ended = explain(images, out, *coloured, environment=broken)
    assert ended.status == 1
    assert os.strerror(errno.EIO) in sentence(ended)
    assert explain(images, out, *coloured) == Ended(0, "", "")
    assert outputs(out) == outputs(tmp_path / "whole")
