"""Every command that reads a run, on one in tars: from a tar of pictures, whole and in shards."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.written import journalled, outputs, unpacked

SAMPLES = Path(__file__).parents[2] / "samples"
SMALL = ("--model", "squeezenet1_1", "--weights", "none", "--size", "64", "--batch-size", "2",
         "-m", "hirescam,eigencam", "--no-isolate", "-q")  # fmt: skip
TARS = ("--sink", "tar", "--shard-size", "2")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tar of five photos in two folders, and a file that is none."""
    path = tmp_path_factory.mktemp("tar runs") / "pictures.tar"
    with tarfile.open(path, "w") as tar:
        for number, photo in enumerate(sorted(SAMPLES.glob("*.jpg"))):
            tar.add(photo, f"{'ab'[number % 2]}.d/{photo.name}")
        broken = tarfile.TarInfo("none.jpg")
        broken.size = 10
        tar.addfile(broken, io.BytesIO(b"no picture"))
    return path


@pytest.fixture(scope="module")
def runs(
    pictures: Path, tmp_path_factory: pytest.TempPathFactory, camcli: Callable
) -> dict[str, Path]:
    """The same run into files, into tars, and into tars in two shards."""
    folder = pictures.parent
    for name, options in (("files", ()), ("tar", TARS)):
        camcli("explain", pictures, "-o", folder / name, *SMALL, *options, check=3)
    for shard in ("0/2", "1/2"):
        done = camcli("explain", pictures, "-o", folder / "shards", *SMALL, *TARS, "--shard", shard)
        assert done.returncode in (0, 3)
    return {name: folder / name for name in ("files", "tar", "shards")}


@pytest.fixture(params=["tar", "shards"])
def both(request: pytest.FixtureRequest, runs: dict[str, Path], tmp_path: Path) -> list[Path]:
    """A copy of a run in files, and one of a run in tars."""
    names = ("files", request.param)
    return [shutil.copytree(runs[name], tmp_path / name) for name in names]


def test_a_tar_of_pictures_becomes_tars_of_outputs(runs: dict[str, Path]) -> None:
    for name in ("tar", "shards"):
        assert unpacked(runs[name]) == outputs(runs["files"])
        assert {*os.listdir(runs[name])}.isdisjoint({"json", "maps", "overlays"})


def test_verify_finds_no_fault(both: list[Path], cli: Callable) -> None:
    done = cli("verify", both[1], "--deep", "-v")
    assert (done.status, done.stdout) == (0, "")
    assert done.stderr == f"camcli: 5 explained, no fault, 1 failed: {both[1]}\n"


def test_render_draws_again_what_lies_in_tars(both: list[Path], cli: Callable) -> None:
    journals = [path.read_bytes() for path in sorted(both[1].glob("*.jsonl"))]
    before = unpacked(both[1])
    for style in (["--scale", "run", "--colormap", "viridis"], ["--overlay-format", "png"]):
        for out in both:
            assert cli("render", out, *style, "-q").status == 0
        assert unpacked(both[1]) == outputs(both[0])
    after = unpacked(both[1])
    assert {name: after[name] for name in after if name.startswith("maps/")} == {
        name: before[name] for name in before if name.startswith("maps/")
    }
    assert [path.read_bytes() for path in sorted(both[1].glob("*.jsonl"))] == journals
    assert cli("verify", both[1], "--deep", "-q").status == 0
    assert not list(both[1].rglob(".camcli-tmp-*"))


def test_explain_draws_again_in_another_style(
    pictures: Path, runs: dict[str, Path], tmp_path: Path, cli: Callable
) -> None:
    for name, options in (("files", ()), ("tar", TARS)):
        out = shutil.copytree(runs[name], tmp_path / name)
        coloured = ("--colormap", "viridis", *SMALL, *options)
        assert cli("explain", pictures, "-o", out, *coloured).status == 0
    assert unpacked(tmp_path / "tar") == outputs(tmp_path / "files") != outputs(runs["files"])


def test_the_table_says_where_in_a_tar_maps_are(both: list[Path], cli: Callable) -> None:
    tables = []
    for out in both:
        assert cli("export", out, "--csv", "--coco", "-q", "--relative-to", out).status == 0
        with open(out / "export" / "maps.csv", encoding="utf-8") as file:
            tables.append(sorted(csv.DictReader(file), key=lambda row: (row["key"], row["method"])))
    for file, tarred in zip(*tables, strict=True):
        for name in ("npz", "overlay"):
            if file[name]:
                tar, _, inner = tarred[name].removeprefix("tars/").partition(".tar/")
                with tarfile.open(both[1] / "tars" / f"{tar}.tar") as opened:
                    found = opened.extractfile(inner).read()
                assert found == (both[0] / file[name]).read_bytes()
        places = {"npz", "overlay"}
        assert {n: file[n] for n in file if n not in places} == {
            n: tarred[n] for n in tarred if n not in places
        }
    boxes = [json.loads((out / "export" / "coco.json").read_bytes()) for out in both]
    assert len(boxes[0]["annotations"]) == len(boxes[1]["annotations"]) > 0


def test_reports_studies_and_evaluations_are_those_of_files(
    both: list[Path], cli: Callable, tmp_path: Path
) -> None:
    said, figures, images = [], [], []
    for out in both:
        done = cli("report", out, "--self-contained")
        assert done.status == 0
        said.append(done.stderr.replace(str(out), ""))
        done = cli("evaluate", out, "--metrics", "sparseness", "-q", "-o", out / "evaluation")
        assert done.status == 0, done.stderr
        table = (out / "evaluation" / "evaluation.csv").read_text().splitlines()
        figures.append(sorted(table))
        done = cli("study", "build", out, "--seed", "1", "-o", out / "study")
        assert done.status == 0, done.stderr
        html = (out / "study" / "study.html").read_text(encoding="utf-8")
        images.append(sorted(set(re.findall(r"data:image/jpeg;base64,[^\"]+", html))))
    assert said[0] == said[1]
    assert "be read" not in said[0]
    assert figures[0] == figures[1]
    assert images[0] == images[1] != []


def test_shards_in_tars_become_one_run_that_goes_on(
    pictures: Path, runs: dict[str, Path], tmp_path: Path, cli: Callable
) -> None:
    out = shutil.copytree(runs["shards"], tmp_path / "out")
    before = outputs(out)
    assert cli("merge", out, "-q").status == 0
    assert outputs(out) == before
    assert cli("explain", pictures, "-o", out, *SMALL, *TARS).status == 0
    assert outputs(out) == before
    assert cli("verify", out, "--deep", "-q").status == 0


def cut_off(tar: Path) -> None:
    tar.write_bytes(tar.read_bytes()[:-20_000])


def header_flipped(tar: Path) -> None:
    content = bytearray(tar.read_bytes())
    content[0] ^= 1
    tar.write_bytes(content)


def gone(tar: Path) -> None:
    tar.unlink()


def member_changed(tar: Path, suffix: str) -> None:
    content = bytearray(tar.read_bytes())
    with tarfile.open(tar) as opened:
        info = next(info for info in opened if info.name.endswith(suffix))
    content[info.offset_data + info.size // 2] ^= 1
    tar.write_bytes(content)


def map_changed(tar: Path) -> None:
    member_changed(tar, ".npz")


def overlay_changed(tar: Path) -> None:
    member_changed(tar, ".jpg")


def member_added(tar: Path) -> None:
    with tarfile.open(tar) as opened:
        stem = opened.getnames()[0].removesuffix(".npz")
    with tarfile.open(tar, "a") as opened:
        opened.addfile(tarfile.TarInfo(f"{stem}.hirescam.0_other.jpg"))


@pytest.mark.parametrize(
    ("damage", "marked"),
    [(cut_off, 2), (header_flipped, 2), (gone, 2), (map_changed, 1),
     (overlay_changed, 1), (member_added, 1)],
)  # fmt: skip
def test_whatever_happens_to_a_tar_is_found_and_made_good(
    pictures: Path, runs: dict[str, Path], tmp_path: Path, cli: Callable, camcli: Callable,
    damage: Callable[[Path], None], marked: int,
) -> None:  # fmt: skip
    out = shutil.copytree(runs["tar"], tmp_path / "out")
    damage(out / "tars" / "000001.tar")
    found = cli("verify", out, "--deep")
    assert found.status == 3
    keys = {line.split(": ")[0].split("/")[3].split(".")[0] for line in found.stdout.splitlines()}
    assert len(keys) == marked
    assert all(line.startswith("tars/000001.tar/") for line in found.stdout.splitlines())
    fixed = cli("verify", out, "--deep", "--fix")
    assert (fixed.status, fixed.stdout) == (3, found.stdout)
    assert f"{marked} marked to be explained again" in fixed.stderr
    camcli("explain", pictures, "-o", out, *SMALL, *TARS, check=0)
    assert unpacked(out) == outputs(runs["files"])
    assert cli("verify", out, "--deep").status == 0
    assert cli("verify", out, "--deep", "--fix", "-q").status == 0
    named = {line["tar"] for line in journalled(out / "results.jsonl") if "tar" in line}
    kept = {path.name for path in (out / "tars").iterdir()}
    assert kept == named - ({"000001.tar"} if marked == 2 else set())


def test_what_is_no_tar_of_the_run_is_told_apart(
    runs: dict[str, Path], tmp_path: Path, cli: Callable
) -> None:
    out = shutil.copytree(runs["tar"], tmp_path / "out")
    (out / "tars" / "000009.tar").write_bytes(bytes(1024))
    (out / "tars" / "mine.txt").write_bytes(b"")
    (out / "tars" / ".camcli-tmp-1-1").write_bytes(b"")
    done = cli("verify", out, "--fix", "-v")
    assert done.status == 3
    assert sorted(done.stdout.splitlines()) == [
        "tars/.camcli-tmp-1-1: left by a run that was killed",
        "tars/000009.tar: no line of the journal owns it",
        "tars/mine.txt: it is none of camcli's",
    ]
    assert sorted(os.listdir(out / "tars"))[-1] == "mine.txt"
    assert cli("verify", out).status == 0


@pytest.mark.parametrize(
    "name", ["../../secret.tar", "/etc/passwd", 7, ["000000.tar"], "a\x1b.tar"]
)
def test_a_line_that_names_another_file_reads_nothing_of_it(
    runs: dict[str, Path], tmp_path: Path, cli: Callable, name: object
) -> None:
    out = shutil.copytree(runs["tar"], tmp_path / "out")
    shutil.copy(out / "tars" / "000000.tar", tmp_path / "secret.tar")
    lines = journalled(out / "results.jsonl")
    lines[0]["tar"] = name
    (out / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = cli("verify", out)
    assert done.status == 3
    assert "is no tar of camcli's" in done.stdout
    assert "\x1b" not in done.stdout
    assert cli("report", out, "-q").status in (0, 3)
    assert cli("export", out, "--csv", "-q").status == 3


def test_a_picture_that_is_gone_keeps_what_was_drawn(
    pictures: Path, runs: dict[str, Path], tmp_path: Path, cli: Callable
) -> None:
    out = shutil.copytree(runs["tar"], tmp_path / "out")
    lines = journalled(out / "results.jsonl")
    lines[0]["source"] = str(tmp_path / "gone.jpg")
    (out / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    key, before = lines[0]["key"], unpacked(out)
    done = cli("render", out, "--colormap", "jet")
    assert done.status == 3
    assert "4 pictures redrawn, 1 failed" in done.stderr
    assert f"{out}/tars" in done.stderr
    after = unpacked(out)
    kept = {name for name in after if after[name] == before[name] and "overlays/" in name}
    assert kept == {name for name in before if name.startswith(f"overlays/{key}.")}
    assert cli("verify", out, "-q").status == 0
