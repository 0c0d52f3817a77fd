"""`camcli render`: the overlays of a run, drawn again from what it wrote and the photos."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

SAMPLES = Path(__file__).parents[2] / "samples"
SMALL = ["--model", "squeezenet1_1", "--weights", "none", "--size", "64", "--batch-size", "2"]
PHOTOS = ["chelsea.jpg", "coffee.jpg", "rocket.jpg"]


@pytest.fixture
def out(tmp_path: Path, cli: Callable) -> Path:
    """A run of two methods over three photos, one of them lying on its side."""
    (tmp_path / "in").mkdir()
    for name in PHOTOS:
        shutil.copy(SAMPLES / name, tmp_path / "in")
    exif = Image.Exif()
    exif[274] = 6
    with Image.open(SAMPLES / "rocket.jpg") as photo:
        photo.save(tmp_path / "in" / "rocket.jpg", exif=exif)
    (tmp_path / "in" / "text.jpg").write_text("no picture")
    methods = ["-m", "hirescam,gradcam"]
    assert cli("explain", tmp_path / "in", "-o", tmp_path / "out", *methods, *SMALL).status == 3
    return tmp_path / "out"


def overlays(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((out / "overlays").iterdir())}


def sizes(out: Path) -> list[tuple[int, int]]:
    return [Image.open(path).size for path in sorted((out / "overlays").iterdir())]


def entries(out: Path) -> list[dict]:
    records = [json.loads(path.read_bytes()) for path in sorted((out / "json").iterdir())]
    return [entry for record in records for entry in record.get("explanations", [])]


def test_what_is_not_given_stays_as_it_was_drawn(out: Path, cli: Callable) -> None:
    before = overlays(out)
    done = cli("render", out)
    assert (done.status, done.stdout) == (0, "")
    assert done.stderr == f"camcli: 3 pictures redrawn: {out}/overlays\n"
    assert overlays(out) == before


@pytest.mark.parametrize("options", [
    ["--colormap", "viridis"], ["--alpha", "0.2"], ["--blend", "flat"], ["--signed"],
    ["--caption"], ["--scale", "0.5"], ["--scale", "run"], ["--overlay-size", "100"],
], ids=" ".join)  # fmt: skip
def test_every_option_changes_the_drawing_and_not_the_maps(
    out: Path, cli: Callable, options: list[str]
) -> None:
    before = overlays(out)
    maps = {path: path.stat().st_mtime_ns for path in (out / "maps").iterdir()}
    assert cli("render", out, *options, "-q") == (0, "", "")
    after = overlays(out)
    assert after.keys() == before.keys()
    assert sum(after[name] != before[name] for name in after) >= 4
    assert {path: path.stat().st_mtime_ns for path in (out / "maps").iterdir()} == maps


def test_options_given_one_after_another_add_up(out: Path, cli: Callable) -> None:
    cli("render", out, "--colormap", "viridis")
    cli("render", out, "--alpha", "1")
    one_by_one = overlays(out)
    cli("render", out, "--colormap", "inferno", "--alpha", "0.7")
    cli("render", out, "--colormap", "viridis", "--alpha", "1")
    assert overlays(out) == one_by_one


def test_signs_and_captions_can_be_taken_back(out: Path, cli: Callable) -> None:
    before = overlays(out)
    cli("render", out, "--signed", "--caption")
    assert overlays(out) != before
    cli("render", out, "--rectified", "--no-caption")
    assert overlays(out) == before


def test_a_caption_adds_to_the_height_and_the_size_limits_the_longest_side(
    out: Path, cli: Callable
) -> None:
    before = sizes(out)
    cli("render", out, "--caption")
    for (width, height), (wide, high) in zip(before, sizes(out), strict=True):
        assert wide == width
        assert high >= height + 28
    cli("render", out, "--no-caption", "--overlay-size", "90")
    assert {max(size) for size in sizes(out)} == {90}
    assert [w > h for w, h in sizes(out)] == [w > h for w, h in before]


def test_another_format_replaces_the_files_and_their_names_in_the_records(
    out: Path, cli: Callable
) -> None:
    cli("render", out, "--overlay-format", "png")
    assert all(name.endswith(".png") for name in overlays(out))
    assert sorted(entry["overlay"] for entry in entries(out)) == [
        f"overlays/{name}" for name in overlays(out)]  # fmt: skip


def test_a_shared_scale_is_the_largest_value_of_each_method_in_the_run(
    out: Path, cli: Callable
) -> None:
    cli("render", out, "--scale", "run")
    shared = overlays(out)
    assert json.loads((out / "run.json").read_bytes())["drawing"]["scale"] == "run"
    for method in ("hirescam", "gradcam"):
        largest = max(e["cam"]["max"] for e in entries(out) if e["method"] == method)
        cli("render", out, "--scale", largest)
        for name, content in overlays(out).items():
            if f".{method}." in name:
                assert content == shared[name]


def test_a_picture_that_is_gone_or_changed_is_not_drawn_on(out: Path, cli: Callable) -> None:
    before = overlays(out)
    photos = out.parent / "in"
    (photos / "coffee.jpg").unlink()
    with Image.open(photos / "chelsea.jpg") as photo:
        flipped = photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT)  # of the same size
    flipped.save(photos / "chelsea.jpg")
    done = cli("render", out, "--colormap", "jet")
    assert done.status == 3
    lines = done.stderr.splitlines()
    assert lines[0].endswith(
        "chelsea.jpg: the picture has changed since it was explained; explain it again"
    )
    assert lines[1].endswith("coffee.jpg: No such file or directory")
    assert lines[2].startswith("camcli: 1 pictures redrawn, 2 failed")
    for name, content in overlays(out).items():
        assert (content == before[name]) == (not name.startswith("rocket"))


def test_a_picture_whose_maps_or_record_are_gone_fails_alone(out: Path, cli: Callable) -> None:
    (out / "maps" / "coffee.jpg.npz").unlink()
    (out / "json" / "chelsea.jpg.json").write_text("{")
    done = cli("render", out, "--scale", "run")
    assert done.status == 3
    assert "1 pictures redrawn, 2 failed" in done.stderr


def test_a_moved_output_directory_is_drawn_where_it_is(out: Path, cli: Callable) -> None:
    moved = out.rename(out.parent / "elsewhere")
    assert cli("render", moved, "--caption").status == 0
    assert not out.exists()


def test_pictures_explained_later_are_drawn_as_the_others_were(out: Path, cli: Callable) -> None:
    cli("render", out, "--caption", "--colormap", "viridis", "--overlay-size", "80")
    shutil.copy(SAMPLES / "helmet.jpg", out.parent / "in")
    done = cli("explain", out.parent / "in", "-o", out, "-m", "hirescam,gradcam", *SMALL)
    assert "1 explained, 1 failed in an earlier run" in done.stderr.replace("3 already done, ", "")
    later = overlays(out)
    cli("render", out)
    assert overlays(out) == later


def test_a_scale_shared_by_the_run_holds_until_the_next_render(out: Path, cli: Callable) -> None:
    cli("render", out, "--scale", "run")
    shared = overlays(out)
    cli("explain", out.parent / "in", "-o", out, "-m", "hirescam,gradcam", *SMALL)
    assert overlays(out) == shared
    cli("render", out)
    assert overlays(out) == shared


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--scale", "0"], "--scale must be image or a positive number, not '0'"),
        (["--scale", "all"], "--scale must be image or a positive number, not 'all'"),
        (["--colormap", "hot"], "--colormap must be one of inferno, viridis, cividis, turbo, jet"),
        (["--alpha", "-1"], "--alpha must be at least 0, not -1.0"),
        (["--overlay-size", "20000"], "--overlay-size must be at most 16383, not 20000"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_value_is_one_sentence_and_draws_nothing(
    out: Path, cli: Callable, options: list[str], sentence: str
) -> None:
    before = overlays(out)
    done = cli("render", out, *options)
    assert (done.status, done.stdout) == (2, "")
    assert done.stderr.startswith(f"camcli: {sentence}")
    assert done.stderr.count("\n") == 1
    assert overlays(out) == before


def test_a_folder_that_holds_no_run_is_a_usage_error(tmp_path: Path, cli: Callable) -> None:
    done = cli("render", tmp_path)
    assert done.status == 2
    assert done.stderr == (
        f"camcli: '{tmp_path}' holds no camcli run; give the -o of an explain run\n"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kinds", ["json", "npz", "overlay"])
def test_a_run_without_maps_or_records_says_what_is_missing(
    tmp_path: Path, cli: Callable, kinds: str
) -> None:
    out = tmp_path / "out"
    cli("explain", SAMPLES / "coffee.jpg", "-o", out, "--write", kinds, *SMALL)
    done = cli("render", out)
    assert done.status == 2
    assert f"was written with --write {kinds}; drawing needs json and npz" in done.stderr


def test_drawing_needs_no_torch(out: Path) -> None:
    program = (
        "import sys; from camcli.cli.app import main\n"
        "try: main()\n"
        "finally: print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "render", str(out), "--caption"],
        capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, b"False\n"), done.stderr


@pytest.mark.slow
def test_an_interrupted_drawing_ends_quietly_and_can_be_repeated(out: Path, cli: Callable) -> None:
    journal = out / "results.jsonl"
    line = next(x for x in journal.read_bytes().splitlines() if b"coffee" in x)
    for n in range(60):  # the same picture under many names, so that drawing takes a while
        for kind, end in (("json", ".json"), ("maps", ".npz")):
            os.link(out / kind / f"coffee.jpg{end}", out / kind / f"{n}.jpg{end}")
        with journal.open("ab") as file:
            file.write(line.replace(b'"coffee.jpg"', b'"%d.jpg"' % n) + b"\n")
    command = [sys.executable, "-m", "camcli", "render", str(out), "--colormap", "jet"]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        while not list((out / "overlays").glob("0.jpg*")):
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Traceback" not in errors
    assert not list(out.rglob(".camcli-tmp-*"))
    assert not list((out / "overlays").glob("59.jpg*"))
    assert cli("render", out, "--colormap", "jet", "-q").status == 0
    assert list((out / "overlays").glob("59.jpg*"))
