"""Runs that are killed and disks that are full: no half file, and the same bytes in the end."""

from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from camcli import config
from camcli.cli.explain import job_of
from camcli.errors import OutputError
from camcli.run import Run

SAMPLES = Path(__file__).parent.parent / "samples"
SMALL = {"model": "squeezenet1_1", "weights": "none", "size": "64", "batch_size": "2"}
KINDS = ("json", "maps", "overlays")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("crash") / "images"
    folder.mkdir()
    for n, sample in itertools.product(range(12), sorted(SAMPLES.glob("*.jpg"))):
        shutil.copy(sample, folder / f"{n:02}-{sample.name}")
    return folder


@pytest.fixture(scope="module")
def whole(images: Path) -> dict[str, bytes]:
    """What a run writes that nothing happens to."""
    explain(images, images.parent / "whole")
    return outputs(images.parent / "whole")


def explain(images: Path, out: Path, **settings: object) -> Run:
    chosen, _ = config.resolve(SMALL | {"output": str(out)} | settings, {}, None)
    run = Run(job_of(chosen, (str(images),), set()))
    for _ in run.records():
        pass
    return run


def outputs(out: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(out)): path.read_bytes()
        for kind in KINDS
        for path in (out / kind).rglob("*")
        if not path.name.startswith(".camcli-tmp-")
    }


def assert_whole(out: Path, whole: dict[str, bytes]) -> int:
    """Every file is one that an undisturbed run writes; the number of committed inputs."""
    written = outputs(out)
    assert written.items() <= whole.items()
    committed = [json.loads(line) for line in (out / "results.jsonl").read_bytes().splitlines(True)
                 if line.endswith(b"\n")]  # fmt: skip
    for line in committed:
        assert f"json/{line['key']}.json" in written
        assert f"maps/{line['key']}.npz" in written
    return len(committed)


@pytest.mark.parametrize("after", [1, 20])
def test_a_killed_run_leaves_whole_files_and_the_next_completes_them(
    images: Path, whole: dict[str, bytes], tmp_path: Path, after: int
) -> None:
    out = tmp_path / "out"
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    command = [sys.executable, "-m", "camcli", "explain", str(images), "-o", str(out), *flags]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        journal = out / "results.jsonl"
        while not journal.exists() or journal.read_bytes().count(b"\n") < after:
            assert process.poll() is None
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    committed = assert_whole(out, whole)
    assert after <= committed < 60
    assert json.loads((out / "run.json").read_bytes())["status"] == "running"
    (out / "maps" / ".camcli-tmp-1-1").write_bytes(b"half")  # whether or not it was hit just then
    summary = explain(images, out).summary
    assert (summary.already_done, summary.done) == (committed, 60 - committed)
    assert outputs(out) == whole
    assert not list(out.rglob(".camcli-tmp-*"))
    assert json.loads((out / "run.json").read_bytes())["status"] == "done"


@pytest.mark.parametrize("files", [0, 1, 2, 3, 7, 50])
def test_a_full_disk_ends_the_run_and_the_next_completes_it(
    images: Path, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    files: int,
) -> None:  # fmt: skip
    room = itertools.count()
    replace = os.replace

    def until_it_is_full(source: str, target: str) -> None:
        if next(room) >= files:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    monkeypatch.setattr(os, "replace", until_it_is_full)
    with pytest.raises(OutputError, match=r"cannot write to .* \(No space left on device\)"):
        explain(images, tmp_path / "out")
    monkeypatch.undo()
    assert not list((tmp_path / "out").rglob(".camcli-tmp-*"))
    if files:
        assert outputs(tmp_path / "out").items() <= whole.items()
    explain(images, tmp_path / "out")
    assert outputs(tmp_path / "out") == whole


def test_one_output_that_cannot_be_written_is_one_failure(
    images: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    """Something lies where the second picture's map belongs."""
    explain(images, tmp_path / "out", limit="1")
    in_the_way = tmp_path / "out" / "maps" / "00-coffee.jpg.npz"
    (in_the_way / "something").mkdir(parents=True)
    summary = explain(images, tmp_path / "out").summary
    assert (summary.done, summary.failed) == (58, 1)
    shutil.rmtree(in_the_way)
    explain(images, tmp_path / "out", retry_failed="true")
    assert outputs(tmp_path / "out") == whole


def test_every_file_of_an_undisturbed_run_can_be_read(
    images: Path, whole: dict[str, bytes]
) -> None:
    out = images.parent / "whole"
    assert len(whole) == 3 * 60
    for path in (out / "maps").iterdir():
        assert np.load(path, allow_pickle=False)["cams"].shape == (1, 3, 3)
    for path in (out / "overlays").iterdir():
        with Image.open(path) as overlay:
            overlay.load()
