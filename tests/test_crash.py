"""Runs that are killed and disks that are full: no half file, and the same bytes in the end."""

from __future__ import annotations

import ctypes
import errno
import itertools
import json
import multiprocessing
import os
import random
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from camcli import config
from camcli.cli.explain import job_of
from camcli.errors import OutputError
from camcli.outputs import commits, journal
from camcli.outputs.audit import Audit
from camcli.outputs.commits import Disk
from camcli.run import Run
from tests import written
from tests.killed import started
from tests.written import journalled

SAMPLES = Path(__file__).parent.parent / "samples"
SMALL = {"model": "squeezenet1_1", "weights": "none", "size": "64", "batch_size": "2",
         "isolate": False}  # fmt: skip
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


def a_run(images: Path, out: Path, **settings: object) -> Run:
    chosen, _ = config.resolve(SMALL | {"output": str(out)} | settings, {}, None)
    return Run(job_of(chosen, (str(images),), set()))


def explain(images: Path, out: Path, **settings: object) -> Run:
    run = a_run(images, out, **settings)
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


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small pictures, no two alike, and every tenth none."""
    folder = tmp_path_factory.mktemp("many") / "images"
    folder.mkdir()
    for number in range(240):
        path = folder / f"{number:03}.png"
        if number % 10:
            noise = np.random.default_rng(number).integers(0, 256, (6, 8, 3), np.uint8)
            Image.fromarray(noise).save(path)
        else:
            path.write_bytes(b"no picture")
    return folder


def explaining(images: Path, out: Path, *more: str) -> multiprocessing.Process:
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()
             if name != "isolate"]  # fmt: skip
    return started(["explain", str(images), "-o", str(out), "-q", "-j", "2", *flags, *more], 0.02)


def committed(out: Path) -> list[str]:
    return [line["key"] for line in journalled(out / "results.jsonl")]


def kill_until_done(images: Path, out: Path, kills: int, chance: random.Random, *more: str) -> int:
    """Kill runs at random moments until one has come to its end; how many were killed."""
    killed, before = 0, []
    while True:
        process = explaining(images, out, *more)
        if killed < kills:
            process.join(chance.uniform(0.1, 1.2))
            process.kill()
        process.join()
        now = committed(out)
        assert now[: len(before)] == before  # what was committed stays,
        assert len(now) == len(set(now))  # and is never done again
        lines = journalled(out / "results.jsonl")
        assert all((out / _place(line)).exists() for line in lines)
        before = now
        if process.exitcode != -signal.SIGKILL:
            # Three: some of the inputs failed, in this run or, with status 0, in an earlier one.
            assert process.exitcode in (0, 3)
            return killed
        killed += 1


def _place(line: dict[str, str]) -> str:
    return f"tars/{line['tar']}" if "tar" in line else f"json/{line['key']}.json"


@pytest.mark.parametrize(
    "kills", [pytest.param(2, marks=pytest.mark.slow), pytest.param(100, marks=pytest.mark.soak)]
)
def test_tars_of_runs_that_are_killed_at_any_moment_have_the_same_bytes(
    many: Path, tmp_path: Path, kills: int
) -> None:
    tars = ("--sink=tar", "--shard-size=17")
    explaining(many, tmp_path / "undisturbed", *tars).join()
    whole = written.outputs(tmp_path / "undisturbed")
    assert len(whole) == 15
    assert len(written.unpacked(tmp_path / "undisturbed")) == 3 * 216 + 24
    chance, killed = random.Random(1), 0
    while killed < kills:
        out = tmp_path / f"after {killed}"
        killed += kill_until_done(many, out, kills - killed, chance, *tars)
        assert written.outputs(out) == whole
        assert [*Audit(out, deep=True).findings()] == []
        assert json.loads((out / "run.json").read_bytes())["status"] == "done"


@pytest.mark.parametrize("kills", [5, pytest.param(200, marks=pytest.mark.soak)])
def test_runs_that_are_killed_at_any_moment_come_to_the_same_end(
    many: Path, tmp_path: Path, kills: int
) -> None:
    undisturbed = explaining(many, tmp_path / "undisturbed")
    undisturbed.join()
    whole = outputs(tmp_path / "undisturbed")
    assert len(whole) == 3 * 216 + 24
    chance, killed = random.Random(0), 0
    while killed < kills:
        out = tmp_path / f"after {killed}"
        killed += kill_until_done(many, out, kills - killed, chance)
        assert outputs(out) == whole
        assert not list(out.rglob(".camcli-tmp-*"))
        assert [*Audit(out, deep=True).findings()] == []
        assert json.loads((out / "run.json").read_bytes())["status"] == "done"


def test_what_a_killed_run_was_writing_is_swept_by_the_next(
    images: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run = a_run(images, out)
    for _ in itertools.islice(records := run.records(), 20):
        pass
    records.close()
    content = json.loads((out / "run.json").read_bytes())
    (out / "run.json").write_text(json.dumps(content | {"status": "running"}))
    for place in (out, out / "maps", out / "overlays"):
        (place / ".camcli-tmp-1-1").write_bytes(b"half")
    (out / "maps" / "mine").write_bytes(b"")
    explain(images, out)
    assert not list(out.rglob(".camcli-tmp-*"))
    (out / "maps" / "mine").unlink()
    assert outputs(out) == whole


def test_no_line_is_written_before_its_files_are_durable(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    durable: set[str] = set()
    sync, append = Disk.sync, journal.Journal.append
    points = itertools.count()

    def synced(disk: Disk, names: list[str]) -> None:
        assert all((tmp_path / "out" / name).stat().st_size for name in names)
        sync(disk, names)
        durable.update(names)

    def appended(book: journal.Journal, *lines: dict[str, object]) -> None:
        next(points)
        for line in lines:
            key = line["key"]
            assert {f"json/{key}.json", f"maps/{key}.npz"} <= durable
            assert any(name.startswith(f"overlays/{key}.") for name in durable)
        append(book, *lines)

    monkeypatch.setattr(commits, "FIRST", 0.01)
    monkeypatch.setattr(commits, "LONGEST", 0.01)
    monkeypatch.setattr(Disk, "sync", synced)
    monkeypatch.setattr(journal.Journal, "append", appended)
    explain(images, tmp_path / "out", limit="30")
    assert len(committed(tmp_path / "out")) == 30
    assert next(points) > 2


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_a_disk_that_fails_to_sync_ends_the_run_and_the_next_completes_it(
    images: Path, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    number: int,
) -> None:  # fmt: skip
    def failing(descriptor: int) -> int:
        ctypes.set_errno(number)
        return -1

    monkeypatch.setattr(commits, "_syncfs", lambda: failing)
    with pytest.raises(OutputError, match=os.strerror(number)):
        explain(images, tmp_path / "out")
    assert committed(tmp_path / "out") == []
    assert json.loads((tmp_path / "out" / "run.json").read_bytes())["status"] == "stopped"
    monkeypatch.undo()
    assert explain(images, tmp_path / "out").summary.done == 60
    assert outputs(tmp_path / "out") == whole


def test_a_run_that_ends_in_an_error_commits_what_is_whole(images: Path, tmp_path: Path) -> None:
    records = a_run(images, tmp_path / "out").records()
    taken = [next(records)["key"] for _ in range(9)]
    with pytest.raises(KeyboardInterrupt):
        records.throw(KeyboardInterrupt())
    assert committed(tmp_path / "out") == taken


def test_a_disk_with_no_room_for_one_picture_is_refused_before_anything_is_written(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    explain(images, tmp_path / "out", limit="1")
    before = outputs(tmp_path / "out")
    full = os.statvfs_result((4096, 4096, 10**6, 100, 100, 10**6, 10**6, 10**6, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda path: full)
    sentence = r"out' has 0\.4 MiB left, and a run needs at least 1 MiB; make room, or .* -o"
    with pytest.raises(OutputError, match=sentence):
        explain(images, tmp_path / "out")
    assert outputs(tmp_path / "out") == before
    explain(images, tmp_path / "out", include=["00-chelsea.jpg"])  # nothing to do needs no room


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
