"""The page of a comparison: what stands where, what is said, and that nothing is cut off."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFont

from camcli.cam import methods as _registered
from camcli.images.geometry import Geometry
from camcli.outputs import colormaps, grid
from camcli.outputs.render import Style
from camcli.records import Cam, Explanation, Target
from tests.outputs.made import CROPPED, a_cam, a_map, explanation, gray

assert _registered.__name__.endswith("methods")
STYLE = Style(alpha=1.0, overlay_size=120)
WHOLE = Geometry((120, 60), (64, 48), (0.0, 0.0, 120.0, 60.0))
HOTTEST = colormaps.table("inferno")[255]


def hot(row: int, column: int) -> np.ndarray:
    cam = np.zeros((3, 4), np.float32)
    cam[row, column] = 2.5
    return cam


def a_page(cams: list[Cam], style: Style = STYLE, geometry: Geometry = WHOLE) -> np.ndarray:
    page = grid.page(explanation(cams, geometry=geometry), style)
    assert page.mode == "RGB"
    return np.asarray(page).astype(int)


def grid_of(methods: list[str], layers: list[str], targets: int = 1) -> list[Cam]:
    """Maps in the engine's order: class by class, layer by layer, method by method."""
    return [
        a_cam(hot(0, 0), method=method, layer=layer, target=Target(k), label=f"class {k}")
        for k in range(targets)
        for layer in layers
        for method in methods
    ]


def places(page: np.ndarray) -> list[tuple[int, int]]:
    """Where the photo is on the page, (y, x), its maps included: gray noise on white paper.

    Left and right edges of runs of at least 100 pixels that are not paper, 60 rows high.
    """
    found = []
    inked = (page.min(axis=2) < 250) | (page.max(axis=2) < 250)
    for y in range(page.shape[0] - 60):
        row = inked[y]
        edges = np.flatnonzero(np.diff(np.concatenate([[0], row.astype(int), [0]])))
        for start, stop in zip(edges[::2], edges[1::2], strict=True):
            if stop - start >= 100 and not any(abs(y - a) < 70 and abs(start - b) < 20
                                               for a, b in found):  # fmt: skip
                found.append((y, int(start)))
    return found


def test_rows_are_methods_and_columns_are_layers() -> None:
    cams = grid_of(["hirescam", "gradcam"], ["early", "middle", "late"])
    photo, *maps = places(a_page(cams))
    assert len(maps) == 6
    rows, columns = sorted({y for y, _ in maps}), sorted({x for _, x in maps})
    assert (len(rows), len(columns)) == (2, 3)
    assert photo[0] < rows[0]


def test_columns_are_classes_where_there_are_several() -> None:
    _, *maps = places(a_page(grid_of(["hirescam", "gradcam", "layercam"], ["late"], targets=2)))
    assert len({y for y, _ in maps}) == 3
    assert len({x for _, x in maps}) == 2


def test_several_classes_and_layers_are_a_column_each() -> None:
    _, *maps = places(a_page(grid_of(["hirescam"], ["early", "late"], targets=3)))
    assert len({y for y, _ in maps}) == 1
    assert len({x for _, x in maps}) == 6


@pytest.mark.parametrize(("count", "shape"), [(1, (1, 1)), (3, (1, 3)), (4, (2, 2)), (6, (2, 3))])
def test_a_single_column_is_wrapped(count: int, shape: tuple[int, int]) -> None:
    names = ["hirescam", "gradcam", "gradcampp", "layercam", "xgradcam", "eigencam"][:count]
    _, *maps = places(a_page(grid_of(names, ["late"])))
    assert (len({y for y, _ in maps}), len({x for _, x in maps})) == shape


def test_the_hottest_cell_is_at_its_place_in_its_own_map() -> None:
    """A map's cell (row, column) of 3x4 lies under the same part of the photo."""
    cams = [
        a_cam(hot(0, 0), method="hirescam", layer="early"),
        a_cam(hot(2, 3), method="gradcam", layer="early"),
        a_cam(hot(1, 1), method="hirescam", layer="late"),
        a_cam(hot(0, 3), method="gradcam", layer="late"),
    ]
    page = a_page(cams)
    _, *maps = places(page)
    rows, columns = sorted({y for y, _ in maps}), sorted({x for _, x in maps})
    for cam, (row, column) in zip(cams, [(0, 0), (1, 0), (0, 1), (1, 1)], strict=True):
        top, left = rows[row], columns[column]
        heat = np.abs(page[top : top + 60, left : left + 120] - HOTTEST).sum(axis=2)
        y, x = np.unravel_index(heat.argmin(), heat.shape)
        assert (int(y * 3 / 60), int(x * 4 / 120)) == np.unravel_index(cam.cam.argmax(), (3, 4))
        assert heat.min() < 80  # no gray is nearer than 91


def test_a_map_of_several_layers_stands_in_the_first_column() -> None:
    fused = a_cam(hot(0, 0), method="layercam_fusion", layer="early+late", target=Target(0))
    cams = [*grid_of(["hirescam"], ["early", "late"]), fused]
    _, *maps = places(a_page(cams))
    assert len(maps) == 3
    last = max(maps)
    assert last[1] == min(x for _, x in maps)


@pytest.mark.parametrize(
    ("cam", "status"),
    [(-np.abs(a_map()), "all_negative"), (np.zeros((3, 4), np.float32), "constant"),
     (np.full((3, 4), np.nan, np.float32), "nonfinite")],
)  # fmt: skip
def test_a_map_that_shows_nothing_says_why(
    cam: np.ndarray, status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = texts(monkeypatch)
    a_page([a_cam(cam), a_cam(hot(0, 0), method="gradcam")])
    assert written.count(status) == 1


def texts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every text that is drawn on pages from here on."""
    from PIL import ImageDraw

    written: list[str] = []
    draw = ImageDraw.ImageDraw.text

    def noted(self, xy, text, *args, **options):
        written.append(text)
        return draw(self, xy, text, *args, **options)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", noted)
    return written


def test_everything_is_labelled(monkeypatch: pytest.MonkeyPatch) -> None:
    written = texts(monkeypatch)
    a_page(grid_of(["hirescam", "gradcampp"], ["late"], targets=2))
    assert written[:6] == [
        "cats/a.jpg", "small", "0.900 tabby", "0.100 tiger cat", "at: late, 3x4",
        "each map has its own scale, below it",
    ]  # fmt: skip
    assert written[6:8] == ["class 0, score 9.5", "class 1, score 9.5"]
    assert [t for t in written[8:] if t not in ("0", "2.5")] == ["HiResCAM", "Grad-CAM++"]
    assert written.count("2.5") == 4


def test_one_class_and_several_layers_are_labelled(monkeypatch: pytest.MonkeyPatch) -> None:
    written = texts(monkeypatch)
    a_page(grid_of(["gradient_x_input", "hirescam"], ["early", "late"]), geometry=CROPPED)
    assert "explained: class 0, score 9.5" in written
    assert "the network did not see what is dimmed" in written
    assert {"early, 3x4", "late, 3x4", "gradient x input"} <= set(written)


def test_the_scale_is_stated_as_it_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    written = texts(monkeypatch)
    a_page([a_cam(hot(0, 0))], replace(STYLE, scale=5.0))
    assert "every map is drawn up to 5" in written
    assert written[-2:] == ["5", "0"]
    a_page([a_cam(-hot(0, 0))], replace(STYLE, signed=True))
    assert "red speaks for the class, blue against it" in written
    assert written[-2:] == ["2.5", "-2.5"]


def test_a_small_photo_is_enlarged_and_fonts_grow_with_the_maps() -> None:
    def height(style: Style) -> int:
        return a_page(grid_of(["hirescam"], ["late"]), style).shape[0]

    assert height(replace(STYLE, overlay_size=480)) > 3 * height(STYLE) / 2
    large = a_page(grid_of(["hirescam"], ["late"]), replace(STYLE, overlay_size=480))
    assert large.shape[1] >= 480 + 26 * 20


@settings(max_examples=25)
@given(st.text(max_size=120), st.tuples(st.integers(1, 90), st.integers(1, 90)),
       st.integers(1, 150), st.booleans())  # fmt: skip
def test_nothing_is_cut_off_whatever_the_names_and_the_photo(
    text: str, size: tuple[int, int], longest: int, signed: bool
) -> None:
    plane = Geometry(size, (64, 48), (0.0, 0.0, float(size[0]), float(size[1])))
    cams = [
        a_cam(a_map(), label=text, layer=layer, method=method, score=-1.2345678e-12)
        for layer in (text, "late")
        for method in ("hirescam", "elementwisegradcam")
    ]
    made = explanation(cams, key=text, geometry=plane)
    image = replace(made.image, canvas=gray(size))
    page = grid.page(
        Explanation(image, text, made.predictions, tuple(cams)),
        Style(overlay_size=longest, signed=signed),
    )
    border = np.asarray(page).astype(int)
    for edge in (border[:3], border[-3:], border[:, :3], border[:, -3:]):
        assert edge.min() == 255


def test_long_text_loses_its_middle() -> None:
    font = ImageFont.load_default(14)
    assert grid.shortened("layer4.1", font, 500) == "layer4.1"
    name = "features.denseblock4.denselayer16.conv2.with.more"
    short = grid.shortened(name, font, 200)
    start, end = short.split("…")
    assert font.getlength(short) <= 200
    assert name.startswith(start)
    assert name.endswith(end)
    assert len(start) >= 5
    assert len(end) >= 5
    assert grid.shortened("anything", font, 2) == ""
    assert grid.shortened("two\nlines \x1b[31m\udcff", font, 500) == "two lines ?[31m?"
    assert grid.shortened("café × 2", font, 500) == "cafe x 2"


def test_the_canvas_of_the_explanation_is_left_alone() -> None:
    made = explanation(grid_of(["hirescam"], ["late"]), geometry=WHOLE)
    assert isinstance(made.image.canvas, Image.Image)
    before = made.image.canvas.tobytes()
    grid.page(made, replace(STYLE, caption=True))
    assert made.image.canvas.tobytes() == before
