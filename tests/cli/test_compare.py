"""`camcli compare`: which pages are written, what is refused, and with which status."""

from __future__ import annotations

import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from camcli import pipeline
from camcli.images import decode
from camcli.images.discover import Inputs, Walk
from camcli.outputs import colormaps, grid
from camcli.records import Explanation
from tests.images.decoding import failing_codec

SAMPLES = Path(__file__).parents[2] / "samples"
SMALL = ["--model", "squeezenet1_1", "--weights", "none", "--size", "64", "--overlay-size", "64"]


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> list[Explanation]:
    """The explanations of which pages were drawn."""
    drawn: list[Explanation] = []
    page = grid.page

    def noted(explanation, style):
        drawn.append(explanation)
        return page(explanation, style)

    monkeypatch.setattr(grid, "page", noted)
    return drawn


def written(output: Path) -> list[str]:
    return sorted(str(p.relative_to(output)) for p in output.rglob("*") if not p.is_dir())


def page_in(output: Path) -> Image.Image:
    """The only page that was written."""
    (name,) = written(output)
    return Image.open(output / name)


def test_each_picture_becomes_one_page_under_its_key(
    cli: Callable, tmp_path: Path, picture: Callable[..., Path], pages: list[Explanation]
) -> None:
    picture("in/a.png")
    picture("in/deep/b.jpg", size=(90, 40), seed=1)
    (tmp_path / "in" / "notes.txt").write_text("")
    out = tmp_path / "out"
    done = cli("compare", tmp_path / "in", "-o", out, *SMALL)
    assert done == (0, "", f"camcli: 2 compared: {out}\n")
    assert written(out) == ["a.png.compare.png", "deep/b.jpg.compare.png"]
    for name in written(out):
        with Image.open(out / name) as page:
            assert (page.format, page.mode) == ("PNG", "RGB")
    methods = [cam.method for cam in pages[0].cams]
    assert methods == ["hirescam", "gradcam", "gradcampp", "layercam", "xgradcam", "eigencam"]


def test_the_page_holds_the_map_that_was_computed(
    cli: Callable, tmp_path: Path, picture: Callable[..., Path], pages: list[Explanation]
) -> None:
    """The hottest place of the only map is where the map's maximum is."""
    out, path = tmp_path / "out", picture("a.png", size=(64, 64))
    cli("compare", path, "-o", out, *SMALL, "--fit", "squash", "--alpha", "1", "-m", "layercam",
        "--blend", "flat")  # fmt: skip
    (explanation,) = pages
    cam = explanation.cams[0].cam
    page = np.asarray(page_in(out)).astype(int)
    top = page.shape[0] - 10 - 16 - 64  # below the map: its scale, and the margin
    drawn = page[top : top + 64, 10 : 10 + 64]
    heat = np.abs(drawn - colormaps.table("inferno")[255]).sum(axis=2)
    y, x = np.unravel_index(heat.argmin(), heat.shape)
    assert heat.min() < 20
    assert (y * 3 // 64, x * 3 // 64) == np.unravel_index(cam.argmax(), (3, 3))


def test_classes_are_columns_and_layers_too(
    cli: Callable, tmp_path: Path, picture: Callable[..., Path], pages: list[Explanation]
) -> None:
    arguments = ["compare", picture("a.png"), *SMALL, "-m", "hirescam,gradcam"]
    cli(*arguments, "-o", tmp_path / "classes", "--target", "top:3")
    cli(*arguments, "-o", tmp_path / "layers", "--layer", "auto,features.11", "--smooth", "flip")
    classes, layers = pages
    assert len({cam.target for cam in classes.cams}) == 3
    assert [cam.layer for cam in layers.cams] == ["features"] * 2 + ["features.11"] * 2
    assert layers.cams[0].smoothing == ("flip",)
    assert page_in(tmp_path / "classes").width > page_in(tmp_path / "layers").width


def test_signed_pages_are_blue_where_the_evidence_is_against(cli: Callable, tmp_path: Path) -> None:
    Image.new("RGB", (64, 48), "gray").save(tmp_path / "a.png")
    arguments = ["compare", tmp_path / "a.png", *SMALL, "-m", "hirescam", "--target=-5"]
    blue = colormaps.diverging()[0].astype(int)
    nearest = []
    for flag in ("--signed", "--rectified"):
        cli(*arguments, "-o", tmp_path / flag, flag)
        page = np.asarray(page_in(tmp_path / flag)).astype(int)
        nearest.append(np.abs(page - blue).sum(axis=2).min())
    assert nearest[0] <= 12  # the lower end of the colour bar: a pixel is five levels wide
    assert nearest[1] > 30


def test_a_picture_that_fails_is_one_line_and_the_others_are_drawn(
    cli: Callable, tmp_path: Path, picture: Callable[..., Path]
) -> None:
    picture("in/a.png")
    (tmp_path / "in" / "\x1b[31mb.jpg").write_text("no picture")
    out = tmp_path / "out"
    done = cli("compare", tmp_path / "in", "-o", out, *SMALL, "-m", "hirescam")
    assert done.status == 3
    assert done.stderr == (
        f"camcli: {tmp_path}/in/\\x1b[31mb.jpg: not a picture that can be identified\n"
        f"camcli: 1 compared, 1 failed: {out}\n"
    )
    assert written(out) == ["a.png.compare.png"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-m", "hirescan"], "no method 'hirescan'; did you mean 'hirescam'?"),
        (["--layer", "feature"], "no layer 'feature' in squeezenet1_1; did you mean 'features'?"),
        (["--target", "1000"], "1000"),
        (["--scale", "run"], "--scale must be image or a positive number, not 'run'"),
        (["--overlay-size", "0"], "--overlay-size must be at least 1, not 0"),
    ],
)
def test_a_mistake_is_said_before_any_picture_is_read(
    arguments: list[str],
    message: str,
    cli: Callable,
    tmp_path: Path,
    picture: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(decode, "_read", lambda path: pytest.fail("a picture was read"))
    done = cli("compare", picture("a.png"), "-o", tmp_path / "out", *SMALL, *arguments)
    assert (done.status, done.stdout) == (2, "")
    assert message in done.stderr
    assert not (tmp_path / "out").exists()


def test_no_pictures_and_no_inputs_have_their_own_status(cli: Callable, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    done = cli("compare", tmp_path, "-o", tmp_path / "out", "--model", "no_such_model")
    assert done.status == 4
    assert done.stderr.startswith("camcli: no pictures found (1 other files ignored)")
    assert cli("compare").status == 2
    assert not (tmp_path / "out").exists()


def test_an_output_that_cannot_be_written_to_is_one_sentence(
    cli: Callable, tmp_path: Path, picture: Callable[..., Path]
) -> None:
    (tmp_path / "file").write_text("")
    done = cli("compare", picture("a.png"), "-o", tmp_path / "file" / "out", *SMALL)
    assert done.status == 1
    assert done.stderr == (
        f"camcli: cannot write to '{tmp_path}/file/out' (Not a directory); choose another with -o\n"
    )


def test_pages_are_no_pictures_for_the_next_run(
    cli: Callable, tmp_path: Path, picture: Callable[..., Path]
) -> None:
    folder = picture("in/a.png").parent
    for _ in range(2):
        done = cli("compare", folder, "-o", folder, *SMALL, "-m", "hirescam")
        assert done.stderr == f"camcli: 1 compared: {folder}\n"
    assert written(folder) == ["a.png", "a.png.compare.png"]
    assert [ref.key for ref in Walk(Inputs((str(folder),))).refs()] == ["a.png"]
    assert len(list(Walk(Inputs((str(folder / "a.png.compare.png"),))).refs())) == 1


def test_settings_of_explain_count_and_flags_win(
    cli: Callable,
    tmp_path: Path,
    picture: Callable[..., Path],
    pages: list[Explanation],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CAMCLI_METHOD", "layercam")
    monkeypatch.setenv("CAMCLI_TARGET", "7")
    cli("compare", picture("a.png"), "-o", tmp_path / "out", *SMALL, "--target", "5")
    (cam,) = pages[0].cams
    assert (cam.method, cam.target.index) == ("layercam", 5)


def test_the_help_states_its_own_defaults(cli: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    text = re.sub(r"[\s│]+", " ", cli("compare", "--help").stdout)
    assert "(default: hirescam,gradcam,gradcampp,layercam,xgradcam,eigencam)" in text
    assert "(default: 320)" in text
    assert "(default: camcli-compare)" in text
    explain = re.sub(r"[\s│]+", " ", cli("explain", "--help").stdout)
    assert "(default: hirescam)" in explain
    assert "(default: 1024)" in explain


def test_memory_does_not_grow_with_the_number_of_pictures(
    cli: Callable, tmp_path: Path, picture: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages in flight are bounded: reading waits for drawing."""
    alive, most = set(), 0
    page, read = grid.page, pipeline.explained

    def explained(*arguments):
        nonlocal most
        for outcome in read(*arguments):
            alive.add(outcome.ref.key)
            most = max(most, len(alive))
            yield outcome

    def drawn(explanation, style):
        made = page(explanation, style)
        alive.discard(explanation.ref.key)
        return made

    monkeypatch.setattr(pipeline, "explained", explained)
    monkeypatch.setattr(grid, "page", drawn)
    first = picture("in/00.png")
    for n in range(1, 20):
        shutil.copy(first, tmp_path / "in" / f"{n:02}.png")
    cli("compare", first.parent, "-o", tmp_path / "out", *SMALL, "-m", "hirescam", "-j", "1")
    assert len(written(tmp_path / "out")) == 20
    assert 0 < most <= 4


def test_a_decoder_that_crashes_costs_one_page(
    cli: Callable, tmp_path: Path, picture: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    picture("in/a.png")
    failing_codec(tmp_path / "site", monkeypatch)
    (tmp_path / "in" / "b.png").write_text(f"signal {signal.SIGSEGV:02}")
    picture("in/c.png", seed=1)
    done = cli("compare", tmp_path / "in", "-o", tmp_path / "out", *SMALL)
    assert done.status == 3
    assert f"{tmp_path}/in/b.png: the decoder crashed (SIGSEGV)" in done.stderr
    assert written(tmp_path / "out") == ["a.png.compare.png", "c.png.compare.png"]
