"""Outputs in tars: the bytes of files, as WebDataset has them, and the same whatever happened."""

from __future__ import annotations

import errno
import io
import itertools
import json
import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from camcli import config
from camcli.cli.explain import job_of
from camcli.errors import OutputError, UsageError
from camcli.outputs import journal, manifest
from camcli.outputs.audit import Audit
from camcli.outputs.files import atomic
from camcli.outputs.journal import Journal
from camcli.outputs.merging import merge
from camcli.outputs.redraw import Redraw
from camcli.outputs.render import Style
from camcli.outputs.results import results
from camcli.outputs.stored import member, samples
from camcli.outputs.tars import Tar, whole
from camcli.run import Run
from camcli.shard import WHOLE, Shard
from tests.written import journalled, outputs, unpacked

SMALL = {"model": "squeezenet1_1", "weights": "none", "size": "64", "batch_size": "2",
         "isolate": False, "method": ["hirescam,gradcam"]}  # fmt: skip
TARS = {"sink": "tar", "shard_size": "4"}
LONG = "ein-sehr-langer-Name-" * 7
NAMES = ("a.png", "a.jpg", "a.b.png", "a%2Epng.png", "é.ü.png", "dir.d/a.png", "dir.d/b.c.png",
         f"dir.d/{LONG}.png", "z.PNG")  # fmt: skip


def draw(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), np.uint8)
    Image.fromarray(noise).save(path)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine pictures whose names are hard to tell apart, and a file that is none."""
    folder = tmp_path_factory.mktemp("tars") / "images"
    for seed, name in enumerate(NAMES):
        draw(folder / name, seed)
    (folder / "none.png").write_bytes(b"no picture")
    return folder


def a_run(images: Path, out: Path, shard: Shard = WHOLE, **settings: object) -> Run:
    chosen, origins = config.resolve(SMALL | {"output": str(out)} | settings, {}, None)
    asked = {name for name, origin in origins.items() if origin != "default"}
    return Run(job_of(chosen, (str(images),), asked, shard))


def explain(images: Path, out: Path, shard: Shard = WHOLE, **settings: object) -> Run:
    run = a_run(images, out, shard, **settings)
    for _ in run.records():
        pass
    return run


@pytest.fixture(scope="module")
def files(images: Path) -> dict[str, bytes]:
    """What a run writes into files."""
    explain(images, images.parent / "files")
    return outputs(images.parent / "files")


@pytest.fixture(scope="module")
def tarred(images: Path) -> Path:
    """The same run into tars."""
    explain(images, images.parent / "tarred", **TARS)
    return images.parent / "tarred"


def faults(out: Path) -> list[object]:
    return [*Audit(out, deep=True).findings()]


@pytest.mark.parametrize("workers", ["1", "3"])
def test_members_have_the_bytes_of_files_whatever_the_number_of_workers(
    images: Path, files: dict[str, bytes], tarred: Path, tmp_path: Path, workers: str
) -> None:
    explain(images, tmp_path / "out", workers=workers, **TARS)
    assert len(files) == 4 * len(NAMES) + 1
    assert unpacked(tmp_path / "out") == files
    assert outputs(tmp_path / "out") == outputs(tarred)
    assert sorted(outputs(tarred)) == [f"tars/00000{number}.tar" for number in range(3)]
    assert json.loads((tarred / "run.json").read_bytes())["sink"] == "tar"


def test_a_tar_holds_so_many_inputs_and_nothing_of_when_or_by_whom(tarred: Path) -> None:
    held = []
    for path in sorted((tarred / "tars").iterdir()):
        with tarfile.open(path) as tar:
            held.append(len(samples(str(path))))
            about = {(i.uid, i.gid, i.uname, i.gname, i.mode, i.mtime) for i in tar.getmembers()}
        assert about == {(0, 0, "", "", 0o644, 315532800)}
    assert held == [4, 4, 2]


def grouped(path: Path) -> Iterator[dict[str, object]]:
    """As WebDataset groups: what is in front of a name's first dot, of members that follow each
    other; the rest, in small letters, is the field.
    """
    sample: dict[str, object] = {}
    with tarfile.open(path, "r|") as tar:
        for info in tar:
            key, field = re.fullmatch(r"((?:.*/|)[^.]+)[.]([^/]*)", info.name).groups()
            if key != sample.get("key"):
                if sample:
                    yield sample
                sample = {"key": key}
            assert field.lower() not in sample
            sample[field.lower()] = tar.extractfile(info).read()
    yield sample


def test_webdataset_has_one_sample_for_each_picture(tarred: Path) -> None:
    found = [sample for path in sorted((tarred / "tars").iterdir()) for sample in grouped(path)]
    assert len({sample["key"] for sample in found}) == len(found) == len(NAMES) + 1
    for sample in found:
        record = json.loads(sample["json"])
        fields = sample.keys() - {"key", "json", "npz"}
        if record["status"] == "error":
            assert (record["key"], fields, "npz" in sample) == ("none.png", set(), False)
            continue
        key, names = record["key"], [entry["overlay"] for entry in record["explanations"]]
        assert fields == {name.removeprefix(f"overlays/{key}.") for name in names}
        assert np.load(io.BytesIO(sample["npz"]))["method"].tolist() == ["hirescam", "gradcam"]


@given(st.lists(st.text("a.%2E/", min_size=1).filter(lambda k: "//" not in k), unique=True))
def test_no_two_keys_share_a_sample(keys: list[str]) -> None:
    names = [member(key, f"json/{key}.json") for key in keys]
    stems = [name.rpartition("/")[2].partition(".")[0] for name in names]
    assert all(name.endswith(stem + ".json") for name, stem in zip(names, stems, strict=True))
    assert len(set(names)) == len(names)


def test_gnu_tar_unpacks_it_without_a_word(tarred: Path, tmp_path: Path) -> None:
    if shutil.which("tar") is None:
        pytest.skip("no tar")
    tar = sorted((tarred / "tars").iterdir())[1]
    done = subprocess.run(["tar", "-xf", tar, "-C", tmp_path], capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"", b"")
    assert (tmp_path / "dir.d" / "b%2Ec%2Epng.json").exists()


def test_a_result_reads_its_record_and_maps_from_a_tar(images: Path, tarred: Path) -> None:
    found = [*results(tarred, manifest.require_all(tarred))]
    assert sorted(result.key for result in found if result.explained) == sorted(NAMES)
    for result in found:
        record = result.record()
        assert record["key"] == result.key
        if result.explained:
            (maps, geometry), again = result.maps(), result.maps_of(record)
            assert geometry.source == (16, 12)
            assert [cam.max() for cam in maps] == [cam.max() for cam in again]
            assert np.isclose(maps[0].max(), record["explanations"][0]["cam"]["max"])


def test_a_picture_that_changes_is_in_a_later_tar_and_its_last_line_counts(
    images: Path, tarred: Path, tmp_path: Path
) -> None:
    here = shutil.copytree(images, tmp_path / "images")
    explain(here, tmp_path / "out", **TARS)
    before = outputs(tmp_path / "out")
    draw(here / "a.b.png", seed=99)
    explain(here, tmp_path / "out", **TARS)
    explain(here, tmp_path / "files")
    assert before.items() < outputs(tmp_path / "out").items()
    assert journalled(tmp_path / "out" / "results.jsonl")[-1]["tar"] == "000003.tar"
    assert unpacked(tmp_path / "out") == outputs(tmp_path / "files")
    (remark,) = faults(tmp_path / "out")
    assert (remark.kind, remark.key) == ("superseded", "a.b.png")
    assert remark.path == "tars/000000.tar/a%2Eb%2Epng"


@pytest.mark.parametrize("sinks", [("files", "tar"), ("tar", "files")])
def test_another_sink_for_a_run_is_refused(
    images: Path, tmp_path: Path, sinks: tuple[str, str]
) -> None:
    before, after = sinks
    explain(images, tmp_path / "out", limit="2", sink=before)
    kept = outputs(tmp_path / "out")
    sentence = f"holds a run with --sink {before}; go on with that, or choose another .* -o"
    for shard in (WHOLE, Shard(0, 2)):
        with pytest.raises(UsageError, match=sentence):
            explain(images, tmp_path / "out", shard, sink=after)
    assert outputs(tmp_path / "out") == kept
    explain(images, tmp_path / "out", sink=after, overwrite="true")
    assert {name.partition("/")[0] for name in kept}.isdisjoint(os.listdir(tmp_path / "out"))


def test_somebody_elses_tars_are_neither_removed_nor_written_to(
    images: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "out" / "tars" / "000000.tar"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    with pytest.raises(OutputError, match="tars' is not camcli's; choose another directory"):
        explain(images, tmp_path / "out", limit="1", **TARS)
    explain(images, tmp_path / "out", limit="1")
    explain(images, tmp_path / "out", limit="1", overwrite="true")
    with pytest.raises(OutputError, match="tars' is not camcli's; choose another directory"):
        explain(images, tmp_path / "out", overwrite="true", **TARS)
    assert mine.read_bytes() == b"mine"


def test_the_size_of_tars_without_tars_is_refused(images: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--shard-size is the size of tars; give --sink tar too"):
        explain(images, tmp_path / "out", shard_size="7")
    with pytest.raises(UsageError, match="--shard-size must be at least 1, not 0"):
        explain(images, tmp_path / "out", sink="tar", shard_size="0")


def test_shards_have_tars_of_their_own_and_merge_into_one_run(
    images: Path, files: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    for shard in WHOLE.split(2):
        explain(images, out, shard, sink="tar", shard_size="3")
    tars = outputs(out)
    assert {name[-15:] for name in tars} == {"-000-of-002.tar", "-001-of-002.tar"}
    assert unpacked(out) == files
    assert faults(out) == []
    merge(out)
    assert outputs(out) == tars
    assert unpacked(out) == files
    assert faults(out) == []
    order = [line["tar"] for line in journalled(out / "results.jsonl")]
    assert [tar for n, tar in enumerate(order) if order.index(tar) == n] == sorted(
        set(order), key=lambda tar: (tar[7:], tar)
    )
    draw(images / "new.png", 50)
    try:
        explain(images, out, **TARS)
    finally:
        (images / "new.png").unlink()
    assert set(outputs(out)) == {*tars, "tars/000000.tar"}


def test_a_run_that_ends_early_commits_what_is_whole(images: Path, tmp_path: Path) -> None:
    records = a_run(images, tmp_path / "out", sink="tar").records()
    taken = [next(records)["key"] for _ in range(5)]
    with pytest.raises(KeyboardInterrupt):
        records.throw(KeyboardInterrupt())
    assert [line["key"] for line in journalled(tmp_path / "out" / "results.jsonl")] == taken
    assert faults(tmp_path / "out") == []


def test_no_line_is_written_before_its_tar_is_durable(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    acts: list[str] = []
    replace, fsync, append = os.replace, os.fsync, Journal.append

    def synced(descriptor: int) -> None:
        name = os.readlink(f"/proc/self/fd/{descriptor}")
        acts.append("sync tar" if "/tars/" in name else f"sync {os.path.basename(name)}")
        fsync(descriptor)

    def replaced(source: str, target: Path) -> None:
        acts.append(f"place {target.name}")
        replace(source, target)

    def appended(book: Journal, *lines: dict[str, object]) -> None:
        acts.append(f"lines of {', '.join(sorted({str(line['tar']) for line in lines}))}")
        append(book, *lines)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    monkeypatch.setattr(Journal, "append", appended)
    explain(images, tmp_path / "out", **TARS)
    for number in range(3):
        place = acts.index(f"place 00000{number}.tar")
        assert acts[place - 1 : place + 3] == [
            "sync tar", f"place 00000{number}.tar", "sync tars", f"lines of 00000{number}.tar",
        ]  # fmt: skip


def test_a_tar_that_was_not_committed_is_written_again(
    images: Path, tarred: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append, calls = Journal.append, itertools.count()

    def fails_once(book: Journal, *lines: dict[str, object]) -> None:
        if next(calls) == 1:
            raise OutputError("full")
        append(book, *lines)

    monkeypatch.setattr(Journal, "append", fails_once)
    with pytest.raises(OutputError, match="full"):
        explain(images, tmp_path / "out", **TARS)
    assert {line["tar"] for line in journalled(tmp_path / "out" / "results.jsonl")} == {
        "000000.tar"
    }
    assert [(f.kind, f.path) for f in faults(tmp_path / "out")] == [("extra", "tars/000001.tar")]
    assert not list(tmp_path.rglob(".camcli-tmp-*"))
    explain(images, tmp_path / "out", **TARS)
    assert outputs(tmp_path / "out") == outputs(tarred)
    assert faults(tmp_path / "out") == []


def test_drawing_again_that_is_broken_off_leaves_every_tar_whole(
    tarred: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    style = Style(colormap="viridis", overlay_format="webp")
    for directory in ("whole", "out"):
        shutil.copytree(tarred, tmp_path / directory)
    out, replace, calls = tmp_path / "out", os.replace, itertools.count()

    def fails(source: str, target: Path) -> None:
        if target.suffix == ".tar" and next(calls) == 1:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        replace(source, target)

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(OutputError):
        [*Redraw(out, style, "image", 10**8).pictures()]
    monkeypatch.undo()
    assert faults(out) == []
    before, after = outputs(tarred), outputs(out)
    assert [name for name in sorted(before) if before[name] != after[name]] == ["tars/000000.tar"]
    for directory in ("whole", "out"):
        redraw = Redraw(tmp_path / directory, style, "image", 10**8)
        assert len([*redraw.pictures()]) == len(NAMES)
        redraw.finish()
    assert outputs(out) == outputs(tmp_path / "whole") != before
    assert faults(out) == []


def test_lines_that_name_tars_are_read_without_parsing_all_of_them(
    tarred: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = journalled(tarred / "results.jsonl")
    monkeypatch.setattr(journal, "_parsed", None)
    book = Journal(tarred)
    assert len(book) == len(lines)
    assert book.tars == {line["tar"] for line in lines}


@pytest.mark.parametrize("fails_after", range(6))
def test_a_tar_has_room_for_its_end_where_the_next_picture_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_after: int
) -> None:
    """However far a write has come, of however many."""
    room, write = [1024 * (3 + 2 * fails_after)], os.write

    def limited(descriptor: int, content: memoryview) -> int:
        at = os.lseek(descriptor, 0, os.SEEK_CUR)
        if at >= room[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, content[: min(700, room[0] - at)])

    monkeypatch.setattr(os, "write", limited)
    added = 0
    with whole(tmp_path / "a.tar") as tar:
        while True:
            try:
                tar.add({f"{added}.json": bytes([added]) * 900, f"{added}.npz": b"z" * 600})
            except OSError:
                break
            added += 1
    with tarfile.open(tmp_path / "a.tar") as written:
        assert len(written.getnames()) == 2 * added
    assert os.listdir(tmp_path) == ["a.tar"]
    assert (tmp_path / "a.tar").read_bytes().endswith(bytes(1024))


def test_a_tar_whose_writing_fails_leaves_no_trace(tmp_path: Path) -> None:
    def fails() -> None:
        with whole(tmp_path / "a.tar") as tar:
            tar.add({"a.json": b"{}"})
            raise OutputError("full")

    with pytest.raises(OutputError):
        fails()
    assert os.listdir(tmp_path) == []


def test_a_tar_is_whole_after_every_picture(tmp_path: Path) -> None:
    with atomic(tmp_path / "a.tar") as file:
        tar = Tar(file.fileno())
        for number in range(3):
            tar.add({f"{number}.json": b"{}" * number})
            with open(file.name, "rb") as copy, tarfile.open(fileobj=copy) as sofar:
                assert len(sofar.getnames()) == number + 1
