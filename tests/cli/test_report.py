"""`camcli report`: what the command says, and what it leaves in the directory."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from camcli.cli import report as command
from camcli.images.discover import Inputs, Walk
from camcli.report import building
from camcli.shard import Shard
from tests.report.reading import read
from tests.report.synthetic import LABELS, write_run

SAMPLES = Path(__file__).parents[2] / "samples"
SMALL = ["--model", "squeezenet1_1", "--weights", "none", "--size", "64", "--batch-size", "2"]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return write_run(tmp_path / "out", 20, tmp_path / "in", failing=10)


def files(out: Path) -> set[str]:
    report = out / "report"
    return {path.relative_to(report).as_posix() for path in report.rglob("*") if path.is_file()}


def test_a_report_says_what_it_holds_and_where_it_is(out: Path, cli: Callable) -> None:
    done = cli("report", out)
    assert done == (0, "", f"camcli: 20 pictures, 2 failed: {out}/report/index.html\n")
    assert cli("report", out, "-q") == (0, "", "")


def test_a_real_run_has_a_report(tmp_path: Path, cli: Callable) -> None:
    arguments = ["-m", "hirescam,layercam", "--target", "top:2", "--labels", "imagenet1k", *SMALL]
    assert cli("explain", SAMPLES, "-o", tmp_path / "out", *arguments).status == 0
    assert cli("report", tmp_path / "out").status == 0
    page = read(tmp_path / "out")
    assert page.run["pictures"] == 5
    assert {len(row[6]) for row in page.rows} == {4}
    assert len(page.run["labels"]) == 1000
    assert page.run["compared"]
    verified = cli("verify", tmp_path / "out", "--deep", "--verbose")
    assert verified.status == 0
    assert "not camcli's" not in verified.stderr
    assert "no fault" in verified.stderr


def test_no_file_of_a_report_counts_as_a_picture(out: Path, cli: Callable) -> None:
    def found(root: Path) -> set[str]:
        return {ref.path for ref in Walk(Inputs((str(root),))).refs()}

    photos = set(os.listdir(out.parent / "in"))
    shutil.copytree(out.parent / "in", out, dirs_exist_ok=True)  # pictures beside their outputs
    before = found(out.parent), found(out)
    assert {Path(path).name for path in before[1]} == photos
    for options in ([], ["--self-contained"]):
        assert cli("report", out, *options).status == 0
        assert (found(out.parent), found(out)) == before


def test_a_new_report_takes_the_place_of_the_old_one(out: Path, cli: Callable) -> None:
    cli("report", out)
    first = files(out)
    cli("report", out)
    assert {name.replace("-again/", "/") for name in files(out)} == first
    assert read(out).run["pictures"] == 20
    write_run(out, 30, out.parent / "in", failing=0)
    (out / "report" / "notes.txt").write_text("mine")
    cli("report", out)
    second = files(out)
    assert len({name.split("/")[0] for name in second if name.startswith("data-")}) == 1
    assert first & second == {"index.html", ".camcli.lock"}
    assert "notes.txt" in second
    assert read(out).run["pictures"] == 30
    cli("report", out, "--self-contained")
    assert files(out) == {"index.html", "notes.txt", ".camcli.lock"}


def test_a_report_that_breaks_off_leaves_the_earlier_one(
    out: Path, cli: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    cli("report", out)
    before = {name: (out / "report" / name).read_bytes() for name in files(out)}

    def broken(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(building, "_known", broken)
    with pytest.raises(KeyboardInterrupt):
        building.build(out)
    assert {name: (out / "report" / name).read_bytes() for name in files(out)} == before


def test_a_full_disk_is_one_sentence_and_leaves_the_earlier_report(
    out: Path, cli: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    cli("report", out)
    before = files(out)

    def full(self: object, name: str) -> Path:
        if name.startswith("part-"):
            return Path("/dev/full")
        return out / "report" / "x"

    monkeypatch.setattr("camcli.report.blocks.Blocks._path", full)
    done = cli("report", out)
    assert done.status == 1
    assert done.stderr.startswith("camcli: cannot write to ")
    assert "No space left on device" in done.stderr
    (out / "report" / "x").unlink(missing_ok=True)
    assert files(out) == before


def test_shards_are_read_like_a_whole_run(tmp_path: Path, cli: Callable) -> None:
    whole = write_run(tmp_path / "whole", 20, tmp_path / "in", failing=10)
    parts = tmp_path / "parts"
    for index in range(2):
        write_run(parts, 20, tmp_path / "in", Shard(index, 2), failing=10)
    for out in (whole, parts):
        assert cli("report", out).status == 0
    assert not read(parts).run["unfinished"]
    assert sorted(read(parts).keys) == sorted(read(whole).keys)
    assert read(parts).run["failed"] == read(whole).run["failed"] == 2


def test_what_is_not_finished_is_reported_as_far_as_it_is(out: Path, cli: Callable) -> None:
    sentence = "camcli: the run is not finished; the report shows what is committed so far\n"
    for status in ("running", "stopped"):
        write_run(out, 20, out.parent / "in", status=status)
        done = cli("report", out)
        assert done.status == 0
        assert done.stderr.endswith(sentence)
        assert read(out).run["unfinished"]
    parts = write_run(out.parent / "parts", 20, out.parent / "in", Shard(1, 3))
    assert cli("report", parts).stderr.endswith(sentence)
    assert read(parts).run["missing"] == 2


def test_a_run_may_be_reported_while_it_writes(out: Path, cli: Callable) -> None:
    from camcli.outputs.files import locked

    with locked(out, 0.0):
        assert cli("report", out).status == 0
    with locked(out / "report", 0.0):
        assert cli("report", out).status == 75


def test_a_directory_that_is_no_run_is_one_sentence(tmp_path: Path, cli: Callable) -> None:
    done = cli("report", tmp_path)
    assert done == (
        2,
        "",
        f"camcli: '{tmp_path}' holds no camcli run; give the -o of an explain run\n",
    )
    assert list(tmp_path.iterdir()) == []


def test_a_run_without_records_says_what_is_missing(out: Path, cli: Callable) -> None:
    write_run(out, 3, out.parent / "in", write=["npz", "overlay"])
    done = cli("report", out)
    assert done.status == 2
    assert done.stderr.endswith("was written with --write npz,overlay; a report needs json\n")


def test_a_run_without_maps_has_a_report_without_drawing(out: Path, cli: Callable) -> None:
    write_run(out, 20, out.parent / "in", write=["json", "overlay"])
    shutil.rmtree(out / "maps")
    assert cli("report", out).status == 0
    page = read(out)
    assert not page.run["mapped"]
    assert page.maps == []
    assert page.run["failed"] == 0


def test_the_page_of_somebody_else_is_not_replaced(out: Path, cli: Callable) -> None:
    (out / "report").mkdir()
    (out / "report" / "index.html").write_text("<p>mine</p>")
    done = cli("report", out)
    assert done.status == 1
    assert done.stderr == (
        f"camcli: '{out}/report/index.html' is not camcli's; move it out of the way\n"
    )
    assert (out / "report" / "index.html").read_text() == "<p>mine</p>"


def test_a_damaged_picture_is_shown_as_failed(out: Path, cli: Callable) -> None:
    (out / "json" / "000003.jpg.json").write_text("{")
    (out / "maps" / "000004.jpg.npz").unlink()
    done = cli("report", out)
    assert done.status == 0
    assert done.stderr.startswith("camcli: the outputs of 2 pictures cannot be read and are shown ")
    page = read(out)
    assert page.run["failed"] == 4
    assert page.failures[page.keys.index("000003.jpg")][0] == "JSONDecodeError"
    assert page.failures[page.keys.index("000004.jpg")][0] == "FileNotFoundError"


def test_more_pictures_than_a_file_can_hold_are_refused(
    out: Path, cli: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    cli("report", out)
    before = files(out)
    monkeypatch.setattr(building, "EMBEDDED", 19)
    done = cli("report", out, "--self-contained")
    assert done.status == 2
    assert done.stderr == (
        f"camcli: '{out}' holds more than 19 pictures, the most that one file can embed; make the "
        "report without --self-contained\n"
    )
    assert files(out) == before
    assert "2,000" in command.command.__annotations__["embed"].__metadata__[0].help


def given(out: Path) -> dict[str, int]:
    page = read(out)
    return dict(zip(page.keys, page.column("given"), strict=True))


def test_a_table_tells_right_from_wrong(out: Path, cli: Callable) -> None:
    table = out.parent / "in" / "labels.csv"
    table.write_text("path,label\n000000.jpg,espresso\n000001.jpg,1\n")
    assert cli("report", out, "--truth", f"csv:{table}").status == 0
    assert read(out).run["truth"] == f"csv:{table}"
    found = given(out)
    assert (found["000000.jpg"], found["000001.jpg"]) == (3, 1)
    assert {found[key] for key in found if key > "000001.jpg"} == {-1}


def test_folders_tell_right_from_wrong(tmp_path: Path, cli: Callable) -> None:
    out = write_run(tmp_path / "out", 3, tmp_path / "tabby", failing=0)
    assert cli("report", out, "--truth", "folder").status == 0
    assert set(given(out).values()) == {LABELS.index("tabby")}


def test_a_run_that_explained_given_classes_knows_them(out: Path, cli: Callable) -> None:
    write_run(out, 20, out.parent / "in", failing=0, request={"target": "folder"})
    cli("report", out)
    assert read(out).run["truth"] == "folder"
    assert list(given(out).values()) == [0, 1, 2, 3] * 5
    write_run(out, 20, out.parent / "in", failing=0)
    cli("report", out)
    assert read(out).run["truth"] is None


@pytest.mark.parametrize(
    ("truth", "sentence"),
    [
        ("labels", "--truth must be folder, label or csv:FILE, not 'labels'"),
        ("csv:none.csv", "--truth csv:none.csv cannot be read: "),
    ],
)
def test_a_wrong_truth_is_one_sentence(out: Path, cli: Callable, truth: str, sentence: str) -> None:
    done = cli("report", out, "--truth", truth)
    assert (done.status, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith(f"camcli: {sentence}")
    assert not (out / "report" / "index.html").exists()


def test_a_report_needs_no_torch(out: Path) -> None:
    program = (
        "import sys; from camcli.cli.app import main\n"
        "try: main()\n"
        "finally: print('torch' in sys.modules)"
    )
    labels = out.parent / "in" / "labels.csv"
    labels.write_text("path,label\n000000.jpg,espresso\n")
    done = subprocess.run(
        [sys.executable, "-c", program, "report", str(out), "--truth", f"csv:{labels}"],
        capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, b"False\n"), done.stderr


def test_the_record_of_the_run_is_not_changed(out: Path, cli: Callable) -> None:
    before = json.loads((out / "run.json").read_bytes())
    cli("report", out)
    assert json.loads((out / "run.json").read_bytes()) == before
