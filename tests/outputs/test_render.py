"""What an overlay shows: the photo where nothing is claimed, colour where something is."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from camcli.images.geometry import Geometry
from camcli.outputs import colormaps, render
from camcli.outputs.render import Style
from tests.outputs.made import CROPPED, a_map, gray

HEAT = Style(alpha=1.0)
FLAT = Style(alpha=1.0, blend="flat")
SEEN = np.s_[:, 20:100]
UNSEEN = [np.s_[:, :20], np.s_[:, 100:]]


def drawn(
    cam: np.ndarray, style: Style, geometry: Geometry = CROPPED, **more: object
) -> np.ndarray:
    overlay = render.draw(cam, geometry, gray(geometry.source), style, **more)
    assert overlay.mode == "RGB"
    return np.asarray(overlay).astype(int)


def photo() -> np.ndarray:
    return np.asarray(gray()).astype(int)


def one_hot_cell(row: int, column: int, value: float = 2.5) -> np.ndarray:
    cam = np.zeros((3, 4), np.float32)
    cam[row, column] = value
    return cam


@pytest.mark.parametrize("style", [HEAT, FLAT, replace(HEAT, signed=True)])
def test_what_the_network_did_not_see_is_dimmed_and_never_coloured(style: Style) -> None:
    overlay = drawn(np.ones((3, 4), np.float32), style)
    for part in UNSEEN:
        np.testing.assert_array_equal(overlay[part], (photo()[part] * 0.55).astype(int))


def test_the_photo_is_untouched_where_heat_is_zero() -> None:
    overlay = drawn(one_hot_cell(1, 0), HEAT)
    far = np.s_[:, 60:100]  # two cells away: out of reach of bilinear interpolation
    np.testing.assert_array_equal(overlay[far], photo()[far])
    assert (overlay[:, 20:40] != photo()[:, 20:40]).any()


def test_the_hottest_place_has_the_hottest_colour() -> None:
    cam = one_hot_cell(1, 0)
    overlay = drawn(cam, HEAT, Geometry((4, 3), (4, 3), (0.0, 0.0, 4.0, 3.0)))
    np.testing.assert_array_equal(overlay[1, 0], colormaps.table("inferno")[255])


def test_on_a_map_of_single_pixels_one_that_stands_out_does_not_hide_the_others() -> None:
    view = Geometry((200, 200), (200, 200), (0.0, 0.0, 200.0, 200.0))
    cam = np.zeros((200, 200), np.float32)
    cam[:, :10] = 1.0
    cam[100, 100] = 1000.0
    overlay = drawn(cam, HEAT, view)
    hottest = colormaps.table("inferno")[255]
    np.testing.assert_array_equal(overlay[50, 5], hottest)
    np.testing.assert_array_equal(overlay[100, 100], hottest)
    lone = np.zeros((200, 200), np.float32)
    lone[100, 100] = 1000.0  # fewer than one in a hundred: the maximum after all
    np.testing.assert_array_equal(drawn(lone, HEAT, view)[100, 100], hottest)


def test_opacity_grows_with_the_heat_and_ends_at_alpha() -> None:
    cam = np.array([[0, 1, 2, 4]], np.float32)
    plane = Geometry((4, 1), (4, 1), (0.0, 0.0, 4.0, 1.0))
    black = Image.new("RGB", (4, 1))
    overlay = np.asarray(render.draw(cam, plane, black, Style("viridis", alpha=0.5)))[0]
    for pixel, level in zip(overlay, (0, 64, 128, 255), strict=True):
        wanted = colormaps.table("viridis")[level] * 0.5 * level / 255
        assert np.abs(pixel - wanted).max() <= 1.5


def test_a_flat_blend_is_the_same_everywhere_that_was_seen() -> None:
    overlay = drawn(one_hot_cell(1, 0), Style("viridis", alpha=0.25, blend="flat"))
    cold = 0.75 * photo() + 0.25 * colormaps.table("viridis")[0]
    assert np.abs(overlay - cold)[:, 60:100].max() <= 1


def test_an_alpha_of_zero_is_the_photo() -> None:
    whole = Geometry((120, 60), (64, 48), (0.0, 0.0, 120.0, 60.0))
    np.testing.assert_array_equal(drawn(a_map(), replace(FLAT, alpha=0.0), whole), photo())


@pytest.mark.parametrize(
    "cam",
    [-np.abs(a_map()), np.zeros((3, 4), np.float32), np.full((3, 4), np.nan, np.float32),
     np.full((3, 4), np.inf, np.float32)],
    ids=["negative", "zero", "nan", "infinite"],
)  # fmt: skip
def test_a_map_that_claims_nothing_leaves_the_photo(cam: np.ndarray) -> None:
    np.testing.assert_array_equal(drawn(cam, HEAT)[SEEN], photo()[SEEN])


def test_a_not_a_number_hides_itself_and_not_the_rest() -> None:
    cam = one_hot_cell(1, 0)
    cam[0, 3] = np.nan
    np.testing.assert_array_equal(drawn(cam, HEAT), drawn(one_hot_cell(1, 0), HEAT))


def test_a_flat_positive_map_is_hot_everywhere() -> None:
    overlay = drawn(np.full((3, 4), 1e-6, np.float32), HEAT)
    assert (overlay[SEEN] == colormaps.table("inferno")[255]).all()


def test_negative_evidence_is_rectified_before_it_is_interpolated() -> None:
    """A cold neighbour takes nothing away from a hot cell."""
    cold, zero = one_hot_cell(1, 0), one_hot_cell(1, 0)
    cold[1, 1] = -100.0
    np.testing.assert_array_equal(drawn(cold, HEAT), drawn(zero, HEAT))


def test_a_signed_drawing_is_blue_where_the_evidence_is_against_and_red_where_for() -> None:
    cam = np.array([[4, 0, -4, -2]], np.float32)
    plane = Geometry((4, 1), (4, 1), (0.0, 0.0, 4.0, 1.0))
    black = Image.new("RGB", (4, 1))
    signed = Style(alpha=1.0, signed=True)
    red, zero, blue, pale = np.asarray(render.draw(cam, plane, black, signed))[0].astype(int)
    np.testing.assert_array_equal(red, [0xB2, 0x18, 0x2B])
    np.testing.assert_array_equal(blue, [0x21, 0x66, 0xAC])
    assert zero.max() <= 1
    assert pale[2] > pale[0]


def test_a_shared_scale_makes_maps_comparable() -> None:
    plane = Geometry((4, 3), (4, 3), (0.0, 0.0, 4.0, 3.0))
    table = colormaps.table("inferno")
    shared = replace(FLAT, scale=5.0)
    assert (drawn(one_hot_cell(1, 0, 2.5), shared, plane)[1, 0] == table[128]).all()
    assert (drawn(one_hot_cell(1, 0, 5.0), shared, plane)[1, 0] == table[255]).all()
    assert (drawn(one_hot_cell(1, 0, 9.0), shared, plane)[1, 0] == table[255]).all()


def test_the_canvas_decides_the_size() -> None:
    overlay = render.draw(a_map(), CROPPED, gray().resize((30, 15)), HEAT)
    assert overlay.size == (30, 15)


def test_drawing_is_the_same_at_any_size_but_for_its_resolution() -> None:
    large = drawn(a_map(), FLAT)
    canvas = gray().resize((60, 30))
    small = np.asarray(render.draw(a_map(), CROPPED, canvas, FLAT)).astype(float)
    blocks = large.reshape(30, 2, 60, 2, 3).mean(axis=(1, 3))
    assert np.abs(blocks - small)[:, 12:48].mean() < 3


def test_a_caption_adds_a_line_below_and_leaves_the_overlay_alone() -> None:
    plain, captioned = drawn(a_map(), HEAT), drawn(a_map(), replace(HEAT, caption=True))
    assert captioned.shape == (60 + 28, 120, 3)
    np.testing.assert_array_equal(captioned[:60], plain)
    assert captioned[60:].min() < 100


@settings(max_examples=40)
@example("two\nlines", (300, 40), False)
@given(st.text(max_size=300), st.tuples(st.integers(1, 400), st.integers(1, 40)), st.booleans())
def test_any_caption_fits_any_picture(text: str, size: tuple[int, int], signed: bool) -> None:
    plane = Geometry(size, size, (0.0, 0.0, float(size[0]), float(size[1])))
    style = Style(caption=True, signed=signed)
    overlay = render.draw(a_map(), plane, Image.new("RGB", size), style, text)
    assert overlay.width == size[0]
    assert overlay.height > size[1]


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp"])
def test_overlays_are_saved_in_the_format_that_their_extension_names(kind: str) -> None:
    overlay = render.draw(a_map(), CROPPED, gray(), HEAT)
    buffer = io.BytesIO()
    render.save(overlay, buffer, kind)
    with Image.open(buffer) as read:
        assert read.format == kind.upper()
        assert read.size == overlay.size
        if kind == "png":
            np.testing.assert_array_equal(np.asarray(read), np.asarray(overlay))
    assert kind in Image.registered_extensions()[render.EXTENSION[kind]].lower()
