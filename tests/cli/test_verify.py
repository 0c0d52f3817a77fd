"""`camcli verify`: whatever happened to a run's outputs is found, and made good where it can be."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from camcli import config
from camcli.cli.explain import job_of
from camcli.outputs.checks import Checks
from camcli.outputs.files import locked
from camcli.run import Run
from camcli.shard import WHOLE, Shard
from tests.written import journalled, outputs

SMALL = {"model": "squeezenet1_1", "weights": "none", "size": "64", "batch_size": "2",
         "method": ["hirescam,gradcam"]}  # fmt: skip
FOLDERS = {"json": "json", "npz": "maps", "overlay": "overlays"}


def explain(images: Path, out: Path, shard: Shard = WHOLE, **settings: object) -> Run:
    chosen, origins = config.resolve(SMALL | {"output": str(out)} | settings, {}, None)
    asked = {name for name, origin in origins.items() if origin != "default"}
    run = Run(job_of(chosen, (str(images),), asked, shard))
    for _ in run.records():
        pass
    return run


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty pictures of one size, in a folder, and one file that is none."""
    folder = tmp_path_factory.mktemp("verify") / "images"
    (folder / "a.b").mkdir(parents=True)
    for number in range(20):
        noise = np.random.default_rng(number).integers(0, 256, (12, 16, 3), np.uint8)
        name = f"a.b/{number:02}.é.png" if number % 2 else f"{number:02}.png"
        Image.fromarray(noise).save(folder / name)
    (folder / "none.png").write_bytes(b"no picture")
    return folder


@pytest.fixture(scope="module")
def undisturbed(images: Path) -> Path:
    explain(images, images.parent / "undisturbed")
    return images.parent / "undisturbed"


@pytest.fixture
def out(undisturbed: Path, tmp_path: Path) -> Path:
    return shutil.copytree(undisturbed, tmp_path / "out")


def found(stdout: str) -> set[str]:
    """The paths of the faults."""
    return {line.split(": ")[0] for line in stdout.splitlines()}


def test_an_undisturbed_run_has_no_fault(out: Path, cli: Callable) -> None:
    before = outputs(out)
    for options in ([], ["--deep"], ["--deep", "--fix"]):
        done = cli("verify", out, *options)
        assert (done.status, done.stdout) == (0, "")
        assert done.stderr == f"camcli: 20 explained, no fault, 1 failed: {out}\n"
    assert outputs(out) == before


def truncated(path: Path, other: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def emptied(path: Path, other: Path) -> None:
    path.write_bytes(b"")


def flipped(path: Path, other: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def replaced(path: Path, other: Path) -> None:
    shutil.copy(other, path)


def deleted(path: Path, other: Path) -> None:
    path.unlink()


DAMAGES = (truncated, emptied, flipped, replaced, deleted)


def test_every_kind_of_damage_to_every_kind_of_file_is_found_and_made_good(
    images: Path, undisturbed: Path, out: Path, cli: Callable
) -> None:
    last = {kind: sorted((undisturbed / kind).rglob("18*"))[0] for kind in FOLDERS.values()}
    damaged, quiet = {}, set()
    for number in range(15):
        kind, damage = list(FOLDERS.values())[number // 5], DAMAGES[number % 5]
        path = sorted((out / kind).rglob(f"{number:02}*"))[0]
        damage(path, last[kind])
        name = path.relative_to(out).as_posix()
        damaged[name] = number
        if kind == "overlays" and damage in (flipped, replaced):
            quiet.add(name)
    shallow = cli("verify", out)
    assert (shallow.status, found(shallow.stdout)) == (3, damaged.keys() - quiet)
    deep = cli("verify", out, "--deep")
    assert (deep.status, found(deep.stdout)) == (3, damaged.keys())
    assert "20 explained, 15 faults, 1 failed" in deep.stderr
    assert "--fix, and the same camcli explain again" in deep.stderr
    assert found(cli("verify", out, "--deep", "--fix").stdout) == damaged.keys()
    after = cli("verify", out, "--deep")
    assert (after.status, after.stdout) == (0, "")
    assert "5 explained, no fault, 1 failed, 15 to be explained again" in after.stderr
    summary = explain(images, out).summary
    assert (summary.done, summary.already_done, summary.failed_earlier) == (15, 5, 1)
    assert outputs(out) == outputs(undisturbed)
    assert cli("verify", out, "--deep").stdout == ""


@pytest.mark.parametrize("kind", FOLDERS.values())
def test_no_flipped_bit_goes_unseen(out: Path, kind: str) -> None:
    path = sorted((out / kind).rglob("00*"))[0]
    (line,) = (line for line in journalled(out / "results.jsonl") if line["key"] == "00.png")
    hashes = frozenset([line["config_hash"]])
    checks = Checks(out, frozenset(["json", "npz", "overlay"]), hashes, deep=True)
    assert [*checks.findings(line)] == []
    whole = path.read_bytes()
    generator = np.random.default_rng(0)
    for place, bit in zip(
        generator.integers(len(whole), size=80), [1, 4, 16, 64] * 20, strict=True
    ):
        content = bytearray(whole)
        content[place] ^= bit
        path.write_bytes(content)
        try:
            same = kind == "json" and json.loads(content) == json.loads(whole)
        except ValueError:
            same = False
        assert ([*checks.findings(line)] == []) == same, (place, bit)


def test_what_no_journal_line_owns_is_found_and_removed_and_nothing_else_is_touched(
    images: Path, undisturbed: Path, out: Path, cli: Callable
) -> None:
    overlay = sorted((out / "overlays").rglob("00*"))[0].name.removeprefix("00.png.")
    extra = {
        "json/new.png.json": b"{}",
        "json/a.b/new.png.json": b"",
        "maps/new.png.npz": b"x",
        "maps/none.png.npz": b"the maps of what is no picture any more",
        f"overlays/new.png.{overlay}": b"x",
        "overlays/00.png.hirescam.7_another_class.jpg": b"x",
        "overlays/none.png.gradcam.7.jpg": b"x",
        "maps/a.b/.camcli-tmp-7-7": b"half",
        ".camcli-tmp-7-8": b"half",
    }
    foreign = {
        "notes.txt": b"mine", "json/notes.txt": b"mine", "maps/new.npy": b"mine",
        "overlays/holiday.jpg": b"mine", "overlays/00.png.jpg": b"mine", "more/a.npz": b"mine",
        "results.csv": b"mine",
    }  # fmt: skip
    for name, content in (extra | foreign).items():
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_bytes(content)
    for options in ([], ["--fix"]):
        done = cli("verify", out, *options)
        assert (done.status, found(done.stdout)) == (3, extra.keys())
        assert "4 not camcli's" in done.stderr
    assert [name for name in extra if (out / name).exists()] == []
    assert {name: (out / name).read_bytes() for name in foreign} == foreign
    done = cli("verify", out, "--deep", "--verbose")
    assert done.status == 0
    inside = {name for name in foreign if name.split("/")[0] in FOLDERS.values()}
    assert found(done.stdout) == inside
    for name in inside:
        (out / name).unlink()
    assert outputs(out) == outputs(undisturbed)


def test_sources_that_changed_or_went_are_remarks(
    images: Path, tmp_path: Path, cli: Callable
) -> None:
    here = shutil.copytree(images, tmp_path / "images")
    explain(here, tmp_path / "out")
    (here / "00.png").write_bytes((here / "02.png").read_bytes())
    (here / "04.png").unlink()
    assert "with a source" not in cli("verify", tmp_path / "out").stderr
    done = cli("verify", tmp_path / "out", "--deep", "--fix")
    assert (done.status, done.stdout) == (0, "")
    assert "1 with a source that has changed, 1 with a source out of reach" in done.stderr
    told = [json.loads(line) for line in
            cli("verify", tmp_path / "out", "--deep", "--json").stdout.splitlines()]  # fmt: skip
    assert [(line["kind"], line["key"], line["fault"]) for line in told] == [
        ("changed", "00.png", False), ("gone", "04.png", False)]  # fmt: skip
    summary = explain(here, tmp_path / "out").summary
    assert (summary.done, summary.already_done) == (1, 18)
    assert (tmp_path / "out" / "maps" / "04.png.npz").exists()


def test_findings_are_told_to_machines_and_names_do_no_harm(out: Path, cli: Callable) -> None:
    (out / "json" / "\x1b[31m.json").write_bytes(b"")
    assert cli("verify", out).stdout == "json/\\x1b[31m.json: no line of the journal owns it\n"
    (line,) = cli("verify", out, "--json", "--quiet").stdout.splitlines()
    assert json.loads(line) == {
        "kind": "extra", "key": None, "path": "json/\x1b[31m.json",
        "message": "no line of the journal owns it", "fault": True,
    }  # fmt: skip


@pytest.mark.parametrize("kinds", ["json", "npz", "overlay", "npz,overlay", "json,npz"])
def test_what_a_run_did_not_write_is_not_missed(
    images: Path, tmp_path: Path, kinds: str, cli: Callable
) -> None:
    explain(images, tmp_path / "out", write=[kinds])
    done = cli("verify", tmp_path / "out", "--deep")
    assert (done.status, done.stdout) == (0, "")
    kind = kinds.split(",", maxsplit=1)[0]
    sorted((tmp_path / "out" / FOLDERS[kind]).rglob("02*"))[0].write_bytes(b"")
    status = cli("verify", tmp_path / "out").status
    assert status == (0 if kind == "overlay" else 3)  # no record says which overlays there are


def test_overlays_drawn_again_are_whole_and_an_old_run_has_no_crcs(
    out: Path, undisturbed: Path, cli: Callable
) -> None:
    cli("render", out, "--colormap", "viridis", "--overlay-format", "png", "-q")
    assert outputs(out).keys() != outputs(undisturbed).keys()
    assert cli("verify", out, "--deep").stdout == ""
    lines = journalled(out / "results.jsonl")
    for line in lines:
        line.pop("npz_crc32", None)
        line.pop("record_crc32", None)
        path = out / "json" / f"{line['key']}.json"
        record = json.loads(path.read_bytes())
        for entry in record.get("explanations", ()):
            del entry["overlay_crc32"]
        path.write_text(json.dumps(record))
    (out / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert cli("verify", out, "--deep").stdout == ""
    shutil.copy(out / "maps" / "02.png.npz", out / "maps" / "00.png.npz")
    done = cli("verify", out, "--deep")
    assert done.stdout == "maps/00.png.npz: the min of map 0 is not the record's\n"


def test_a_journal_that_was_cut_and_filled_with_zeros_costs_no_whole_line(
    images: Path, undisturbed: Path, out: Path, cli: Callable
) -> None:
    path = out / "results.jsonl"
    path.write_bytes(path.read_bytes()[:-40] + bytes(5000))
    done = cli("verify", out, "--fix")
    assert done.status == 3
    assert len(found(done.stdout)) in (1, 4)  # the outputs of the last input: a failure, or maps
    assert explain(images, out).summary.already_done >= 19
    assert outputs(out) == outputs(undisturbed)
    assert cli("verify", out, "--deep").stdout == ""


def test_run_json_is_checked_too(out: Path, cli: Callable) -> None:
    content = json.loads((out / "run.json").read_bytes())
    content["identity"]["target"] = "top:3"
    (out / "run.json").write_text(json.dumps(content))
    done = cli("verify", out)
    assert done.stdout.startswith("run.json: identity does not agree with config_hash; start over")
    del content["write"]
    (out / "run.json").write_text(json.dumps(content))
    done = cli("verify", out)
    assert (done.status, done.stdout) == (1, "")
    assert "run.json' is damaged" in done.stderr


@pytest.mark.parametrize("key", ["../outside", "/outside", "a//b", "", "."])
def test_a_key_that_leads_out_of_the_directory_is_a_fault_and_nothing_else(
    out: Path, key: str, cli: Callable
) -> None:
    (out.parent / "outside.npz").write_bytes(b"mine")
    (out.parent / "outside.json").write_bytes(b"mine")
    line = {"key": key, "status": "error", "sha256": "0" * 64, "config_hash": "x"}
    with open(out / "results.jsonl", "a") as file:
        file.write(json.dumps(line) + "\n")
    done = cli("verify", out, "--fix")
    assert (done.status, found(done.stdout)) == (3, {"results.jsonl"})
    assert (out.parent / "outside.npz").read_bytes() == b"mine"
    assert cli("verify", out).status == 0


def test_a_directory_that_is_no_run_is_one_sentence(tmp_path: Path, cli: Callable) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        done = cli("verify", folder)
        assert (done.status, done.stdout) == (2, "")
        assert done.stderr == (
            f"camcli: '{folder}' holds no camcli run; give the -o of an explain run\n"
        )
    assert os.listdir(tmp_path) == []


def test_a_run_in_progress_is_left_alone(out: Path, cli: Callable) -> None:
    with open(out / ".camcli.lock", "wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert cli("verify", out).status == 75


def test_a_killed_run_is_said_to_be_one(out: Path, cli: Callable) -> None:
    content = json.loads((out / "run.json").read_bytes())
    (out / "run.json").write_text(json.dumps(content | {"status": "running"}))
    assert "the run was not finished" in cli("verify", out).stderr


@pytest.fixture(scope="module")
def in_shards(images: Path) -> Path:
    for shard in WHOLE.split(2):
        explain(images, images.parent / "in-shards", shard)
    return images.parent / "in-shards"


@pytest.fixture
def shards(in_shards: Path, tmp_path: Path) -> Path:
    return shutil.copytree(in_shards, tmp_path / "shards")


def test_all_shards_are_checked_and_each_is_mended_by_its_own_journal(
    images: Path, shards: Path, cli: Callable
) -> None:
    before = outputs(shards)
    done = cli("verify", shards, "--deep")
    assert (done.status, done.stdout) == (0, "")
    assert done.stderr == f"camcli: 20 explained, no fault, 1 failed: {shards}\n"
    journals = [shards / shard.journal for shard in WHOLE.split(2)]
    sizes = [path.stat().st_size for path in journals]
    for shard in WHOLE.split(2):
        hurt = next(name for name in sorted(before)
                    if name.startswith("maps/") and shard.holds(name[5:-4]))  # fmt: skip
        (shards / hurt).write_bytes(b"")
        (shards / "maps" / f"extra-{shard.index}.npz").touch()
        done = cli("verify", shards, "--fix")
        assert found(done.stdout) == {hurt, f"maps/extra-{shard.index}.npz"}
        grown = [path.stat().st_size > size for path, size in zip(journals, sizes, strict=True)]
        assert grown == [shard.index == number for number in range(2)]
        assert explain(images, shards, shard).summary.done == 1
        sizes = [path.stat().st_size for path in journals]
    assert outputs(shards) == before
    cli("merge", shards, "-q")
    done = cli("verify", shards, "--deep")
    assert done.stderr == f"camcli: 20 explained, no fault, 1 failed: {shards}\n"


def test_what_a_shard_wrote_whose_run_file_is_gone_is_not_removed(
    shards: Path, cli: Callable
) -> None:
    before = outputs(shards)
    (shards / Shard(1, 2).run_file).unlink()
    done = cli("verify", shards, "--fix")
    assert (done.status, done.stdout) == (0, "")
    assert "the run was not finished" in done.stderr
    assert outputs(shards) == before


def test_a_shards_run_file_is_checked_too(shards: Path, cli: Callable) -> None:
    path = shards / Shard(1, 2).run_file
    content = json.loads(path.read_bytes())
    path.write_text(json.dumps(content | {"config_hash": "x"}))
    first, *others = cli("verify", shards).stdout.splitlines()
    assert first == (
        "run-001-of-002.json: identity does not agree with config_hash; "
        "start over in another directory"
    )
    assert others  # the records of that shard, and of no other
    assert all(Shard(1, 2).holds(found(line).pop()[5:-5]) for line in others)


def test_a_shard_in_progress_is_left_alone(shards: Path, cli: Callable) -> None:
    with locked(shards, 0, Shard(1, 2)):
        assert cli("verify", shards).status == 75
