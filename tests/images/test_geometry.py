"""Where the network's view lies on the picture: torchvision's rule, and the way there and back."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as transforms

from camcli.errors import UsageError
from camcli.images.geometry import Fit, Geometry
from camcli.images.preprocess import Preprocessing, prepare

MEAN, STD = (0.2, 0.4, 0.6), (0.5, 0.5, 0.5)
FITS: tuple[Fit, ...] = ("crop", "squash", "pad")
sides = st.integers(1, 3000)
fits = st.sampled_from(FITS)


def recipe(size: tuple[int, int], resize: int, fit: Fit, interpolation: str) -> Preprocessing:
    return Preprocessing(size, resize, MEAN, STD, interpolation, fit, "a test")


def colourful(size: tuple[int, int], seed: int) -> Image.Image:
    """Colours that change over a few pixels, as in photos."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (max(2, size[1] // 6), max(2, size[0] // 6), 3), np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def torchvision_crop(
    picture: Image.Image, size: int, resize: int, mode: InterpolationMode
) -> np.ndarray:
    """What the `ImageClassification` preset does before it normalises.

    Across, then down, the order of Pillow's own two passes before release 13.
    """
    width, height = picture.size
    if width <= height:
        resized = resize, int(resize * height / width)
    else:
        resized = int(resize * width / height), resize
    across = transforms.resize(picture, [height, resized[0]], mode)
    whole = transforms.resize(across, [resized[1], resized[0]], mode)
    return np.asarray(transforms.center_crop(whole, [size, size]))


@given(sides, sides, st.integers(1, 400), st.integers(1, 400), fits)
def test_a_point_goes_to_the_view_and_back(
    width: int, height: int, across: int, down: int, fit: Fit
) -> None:
    geometry = Geometry.fitted((width, height), (across, down), max(across, down), fit)
    for x, y in ((0.0, 0.0), (width / 3, height / 2), (float(width), float(height))):
        there = geometry.source_to_view(x, y)
        back = geometry.view_to_source(*there)
        assert back == pytest.approx((x, y), rel=1e-9, abs=1e-6)


@given(sides, sides, st.integers(1, 400), st.integers(1, 400), fits)
def test_the_centre_of_the_picture_stays_within_a_pixel_of_the_centre_of_the_view(
    width: int, height: int, across: int, down: int, fit: Fit
) -> None:
    geometry = Geometry.fitted((width, height), (across, down), max(across, down), fit)
    x, y = geometry.source_to_view(width / 2, height / 2)
    assert abs(x - across / 2) <= 0.5 + 1e-6
    assert abs(y - down / 2) <= 0.5 + 1e-6


@given(sides, sides, st.integers(1, 400), fits)
def test_what_was_seen_lies_on_the_picture_and_within_the_view(
    width: int, height: int, side: int, fit: Fit
) -> None:
    geometry = Geometry.fitted((width, height), (side, side), side, fit)
    left, top, right, bottom = geometry.seen
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    x0, y0 = geometry.source_to_view(left, top)
    x1, y1 = geometry.source_to_view(right, bottom)
    assert -1e-6 <= x0 < x1 <= side + 1e-6
    assert -1e-6 <= y0 < y1 <= side + 1e-6
    if fit != "crop":
        assert (left, top, right, bottom) == (0, 0, width, height)


def test_a_crop_view_of_a_640x480_photo_begins_near_source_column_110() -> None:
    geometry = Geometry.fitted((640, 480), (224, 224), 256, "crop")
    # 640x480 -> 341x256; round((341 - 224) / 2) = 58 columns and 16 rows are cut off.
    assert geometry.box == pytest.approx((58 * 640 / 341, 30, 282 * 640 / 341, 450))
    # The centre of the view's first pixel: half a pixel of the view further in.
    assert geometry.view_to_source(0.5, 0.5) == pytest.approx((58.5 * 640 / 341, 16.5 * 480 / 256))


def test_cells_lie_where_the_view_lies() -> None:
    geometry = Geometry((100, 50), (40, 20), (10.0, 5.0, 90.0, 45.0))
    assert geometry.cell_to_source(0, 0, (2, 4)) == (20.0, 15.0)
    assert geometry.cell_to_source(1, 3, (2, 4)) == (80.0, 35.0)


@pytest.mark.parametrize("source", [
    (640, 480), (480, 640), (224, 224), (256, 256), (500, 375), (375, 500), (33, 47), (1, 1),
    (1, 40), (40, 1), (3000, 100), (100, 3000), (257, 256), (1023, 513), (604, 303), (303, 604),
], ids=lambda size: f"{size[0]}x{size[1]}")  # fmt: skip
@pytest.mark.parametrize(
    ("size", "resize", "interpolation"),
    [(224, 256, "bicubic"), (224, 224, "bilinear"), (299, 342, "bicubic"), (64, 73, "bilinear")],
)
def test_the_view_has_the_pixels_of_torchvisions_preset(
    source: tuple[int, int], size: int, resize: int, interpolation: str
) -> None:
    picture = colourful(source, seed=source[0])
    view, _ = prepare(picture, recipe((size, size), resize, "crop", interpolation))
    wanted = torchvision_crop(picture, size, resize, InterpolationMode(interpolation))
    difference = np.abs(view.astype(int) - wanted)
    assert view.shape == (size, size, 3)
    # Pillow takes the box as float32: a value on .5 may round the other way in either pass.
    assert difference.max() <= 2
    assert (difference > 0).mean() < 0.005


def test_the_view_is_the_preset_itself_where_pillow_goes_across_first() -> None:
    """The order of the passes is not this test's: torchvision decides alone."""
    picture = colourful((375, 500), seed=3)
    view, _ = prepare(picture, recipe((224, 224), 256, "crop", "bicubic"))
    whole = transforms.resize(picture, [256], InterpolationMode.BICUBIC)
    wanted = np.asarray(transforms.center_crop(whole, [224, 224]))
    assert np.abs(view.astype(int) - wanted).max() <= 1


def test_squash_is_a_resize_of_the_whole_picture() -> None:
    picture = colourful((90, 60), seed=1)
    view, geometry = prepare(picture, recipe((48, 32), 1, "squash", "bilinear"))
    assert geometry.box == (0, 0, 90, 60)
    np.testing.assert_array_equal(view, picture.resize((48, 32), Image.Resampling.BILINEAR))


@pytest.mark.parametrize("source", [(90, 60), (60, 90), (7, 200), (300, 300), (10, 6)])
def test_pad_fits_the_whole_picture_inside_the_mean_colour(source: tuple[int, int]) -> None:
    picture = Image.new("RGB", source, (255, 0, 0))
    view, geometry = prepare(picture, recipe((64, 48), 1, "pad", "bilinear"))
    scale = min(64 / source[0], 48 / source[1])
    width, height = max(1, round(source[0] * scale)), max(1, round(source[1] * scale))
    red = (view == (255, 0, 0)).all(axis=2)
    assert red.sum() == width * height
    assert (view[~red] == np.round(np.array(MEAN) * 255)).all()
    rows, columns = np.flatnonzero(red.any(axis=1)), np.flatnonzero(red.any(axis=0))
    top, left = rows[0], columns[0]
    assert abs(top - (48 - height) / 2) <= 0.5
    assert abs(left - (64 - width) / 2) <= 0.5
    assert geometry.source_to_view(0, 0) == pytest.approx((left, top))
    assert geometry.source_to_view(*source) == pytest.approx((columns[-1] + 1, rows[-1] + 1))


def test_a_crop_larger_than_the_resized_picture_is_refused() -> None:
    with pytest.raises(UsageError, match="--resize 200 is smaller than the view 224x224"):
        recipe((224, 224), 200, "crop", "bilinear")


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 40), st.integers(1, 40), st.integers())
def test_on_view_is_bilinear_interpolation_without_aligned_corners(
    rows: int, columns: int, width: int, height: int, seed: int
) -> None:
    cam = np.random.default_rng(abs(seed)).standard_normal((rows, columns)).astype(np.float32)
    geometry = Geometry((7, 5), (width, height), (0.0, 0.0, 7.0, 5.0))
    wanted = torch.nn.functional.interpolate(
        torch.from_numpy(cam)[None, None], size=(height, width), mode="bilinear",
        align_corners=False,
    )[0, 0]  # fmt: skip
    torch.testing.assert_close(
        torch.from_numpy(geometry.on_view(cam)), wanted, rtol=1e-5, atol=1e-5
    )


def on_canvas_slowly(cam: np.ndarray, geometry: Geometry, canvas: tuple[int, int]) -> np.ndarray:
    """Pixel by pixel: its centre in the source, in the box, in cells; then four neighbours."""
    rows, columns = cam.shape
    left, top, right, bottom = geometry.box
    out = np.zeros((canvas[1], canvas[0]))
    for j in range(canvas[1]):
        for i in range(canvas[0]):
            x = (i + 0.5) * geometry.source[0] / canvas[0]
            y = (j + 0.5) * geometry.source[1] / canvas[1]
            if not (left <= x <= right and top <= y <= bottom):
                continue
            u = min(max((x - left) / (right - left) * columns - 0.5, 0), columns - 1)
            v = min(max((y - top) / (bottom - top) * rows - 0.5, 0), rows - 1)
            u0, v0 = math.floor(u), math.floor(v)
            u1, v1 = min(u0 + 1, columns - 1), min(v0 + 1, rows - 1)
            upper = cam[v0, u0] * (1 - (u - u0)) + cam[v0, u1] * (u - u0)
            lower = cam[v1, u0] * (1 - (u - u0)) + cam[v1, u1] * (u - u0)
            out[j, i] = upper * (1 - (v - v0)) + lower * (v - v0)
    return out


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize(
    ("source", "canvas"), [((64, 48), (64, 48)), ((200, 90), (50, 23)), ((31, 77), (31, 77))]
)
def test_on_canvas_agrees_with_a_slow_replica(
    fit: Fit, source: tuple[int, int], canvas: tuple[int, int]
) -> None:
    cam = np.random.default_rng(5).standard_normal((4, 6)).astype(np.float32)
    geometry = Geometry.fitted(source, (48, 32), 48, fit)
    drawn = geometry.on_canvas(cam, canvas)
    np.testing.assert_allclose(drawn, on_canvas_slowly(cam, geometry, canvas), atol=1e-4)
    unseen = drawn == 0
    assert unseen.any() == (fit == "crop")


def test_a_map_drawn_at_the_views_own_pixels_is_the_map_on_the_view() -> None:
    cam = np.random.default_rng(6).standard_normal((3, 5)).astype(np.float32)
    geometry = Geometry((40, 30), (40, 30), (0.0, 0.0, 40.0, 30.0))
    np.testing.assert_allclose(geometry.on_canvas(cam, (40, 30)), geometry.on_view(cam), atol=1e-6)
