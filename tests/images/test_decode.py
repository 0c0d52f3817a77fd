"""What a file may hold: every mode comes out right or as a failure that says why."""

from __future__ import annotations

import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from camcli.images.decode import decode, from_picture, own_pillow
from camcli.records import Decoded, ImageRef
from tests.images.decoding import SETTINGS, SIZE, decoded, failed


def ramp(high: float, kind: str) -> np.ndarray:
    """From 0 on the left to `high` on the right."""
    return np.tile(np.linspace(0, high, SIZE[0]), (SIZE[1], 1)).astype(kind)


def assert_ramp(pixels: np.ndarray) -> None:
    """Gray from black to white, each column within rounding of the same brightness."""
    wanted = np.linspace(0, 255, SIZE[0])[None, :, None]
    assert pixels.shape == (SIZE[1], SIZE[0], 3)
    assert np.abs(pixels - wanted).max() <= 1


@pytest.mark.parametrize("name", ["deep.png", "deep.tif"])
def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path: Path, name: str) -> None:
    Image.fromarray(ramp(65535, "uint16")).save(tmp_path / name)
    with Image.open(tmp_path / name) as picture:
        assert picture.mode == "I;16"
    assert_ramp(decoded(tmp_path / name))


def test_a_dark_sixteen_bit_picture_stays_dark(tmp_path: Path) -> None:
    Image.fromarray(ramp(1000, "uint16")).save(tmp_path / "dark.png")
    assert decoded(tmp_path / "dark.png").max() == round(1000 / 257)


@pytest.mark.parametrize("high", [1.0, 255.0])
def test_floats_are_read_as_shares_or_as_levels(tmp_path: Path, high: float) -> None:
    Image.fromarray(ramp(high, "float32")).save(tmp_path / "float.tif")
    assert_ramp(decoded(tmp_path / "float.tif"))


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0, 3000, "float32 pixels from 0 to 3000 are no brightness between 0 and 255"),
        (-5, 0.5, "float32 pixels from -5 to 0.5 are no brightness between 0 and 1"),
        (0, np.inf, "float32 pixels from 0 to inf are no brightness"),
        (0, np.nan, "float32 pixels from nan to nan are no brightness"),
    ],
)
def test_values_that_cannot_be_a_brightness_are_refused(
    tmp_path: Path, low: float, high: float, said: str
) -> None:
    values = ramp(0.25, "float32")
    values[0, 0], values[-1, -1] = low, high
    Image.fromarray(values).save(tmp_path / "elevation.tif")
    outcome = failed(tmp_path / "elevation.tif")
    assert outcome.message.startswith(said)
    assert "convert the picture to 8 bits" in outcome.message
    assert (outcome.stage, outcome.transient) == ("decode", False)


def test_a_cmyk_jpeg_has_its_colours(tmp_path: Path) -> None:
    # No cyan, all magenta and yellow, no black: red.
    Image.new("CMYK", SIZE, (0, 255, 255, 0)).save(tmp_path / "ink.jpg", quality=95)
    red, green, blue = decoded(tmp_path / "ink.jpg")[15, 20].astype(int)
    assert red > 240
    assert max(green, blue) < 15


def test_a_lab_tiff_has_its_colours(tmp_path: Path) -> None:
    colours = Image.new("RGB", SIZE, (200, 60, 40))
    to_lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    lab = ImageCms.profileToProfile(colours, *to_lab, outputMode="LAB")
    lab.save(tmp_path / "lab.tif")
    assert np.abs(decoded(tmp_path / "lab.tif")[15, 20].astype(int) - (200, 60, 40)).max() <= 4


def transparent_rgba() -> Image.Image:
    """Opaque red, half-transparent red, and a transparent third whose hidden colour is black."""
    pixels = np.zeros((SIZE[1], SIZE[0], 4), np.uint8)
    pixels[:, :10] = (255, 0, 0, 255)
    pixels[:, 10:20] = (255, 0, 0, 128)
    return Image.fromarray(pixels)


def test_alpha_is_laid_over_white(tmp_path: Path) -> None:
    transparent_rgba().save(tmp_path / "alpha.png")
    pixels = decoded(tmp_path / "alpha.png")
    assert tuple(pixels[0, 5]) == (255, 0, 0)
    assert tuple(pixels[0, 15]) == (255, 127, 127)
    assert tuple(pixels[0, 25]) == (255, 255, 255)


def test_gray_with_alpha_is_laid_over_white(tmp_path: Path) -> None:
    gray = Image.new("LA", SIZE, (0, 0))
    gray.paste((0, 255), (0, 0, 10, 30))
    gray.save(tmp_path / "gray.png")
    pixels = decoded(tmp_path / "gray.png")
    assert tuple(pixels[0, 5]) == (0, 0, 0)
    assert tuple(pixels[0, 25]) == (255, 255, 255)


def test_a_transparent_palette_colour_is_white(tmp_path: Path) -> None:
    picture = Image.new("P", SIZE, 1)
    picture.putpalette([255, 0, 0, 0, 0, 255])
    picture.paste(0, (0, 0, 10, 30))
    picture.save(tmp_path / "palette.png", transparency=bytes([255, 0]))
    pixels = decoded(tmp_path / "palette.png")
    assert tuple(pixels[0, 5]) == (255, 0, 0)
    assert tuple(pixels[0, 25]) == (255, 255, 255)


def test_a_transparent_rgb_colour_is_white(tmp_path: Path) -> None:
    picture = Image.new("RGB", SIZE, (0, 0, 255))
    picture.paste((255, 0, 0), (0, 0, 10, 30))
    picture.save(tmp_path / "keyed.png", transparency=(0, 0, 255))
    pixels = decoded(tmp_path / "keyed.png")
    assert tuple(pixels[0, 5]) == (255, 0, 0)
    assert tuple(pixels[0, 25]) == (255, 255, 255)


@pytest.mark.parametrize(
    ("mode", "name"), [("1", "bits.png"), ("L", "gray.jpg"), ("L", "gray.png"), ("P", "map.gif")]
)
def test_gray_bits_and_palettes_become_rgb(tmp_path: Path, mode: str, name: str) -> None:
    black = Image.new("L", SIZE, 255)
    black.paste(0, (0, 0, 16, 30))
    black.convert(mode).save(tmp_path / name)
    pixels = decoded(tmp_path / name).astype(int)
    assert pixels[:, :8].max() < 10
    assert pixels[:, 24:].min() > 245


@pytest.mark.parametrize("name", ["moving.gif", "moving.webp", "moving.png", "pages.tif"])
def test_of_several_frames_the_first_is_explained(tmp_path: Path, name: str) -> None:
    red, blue = Image.new("RGB", SIZE, (255, 0, 0)), Image.new("RGB", SIZE, (0, 0, 255))
    red.save(tmp_path / name, save_all=True, append_images=[blue])
    with Image.open(tmp_path / name) as picture:
        assert picture.n_frames == 2
    pixel = decoded(tmp_path / name)[15, 20].astype(int)
    assert pixel[0] > 240
    assert pixel[2] < 15


def exif_with_orientation(kind: int, count: int, value: bytes) -> bytes:
    """An EXIF block of one entry, of any type."""
    entry = struct.pack("<HHI", 274, kind, count) + value.ljust(4, b"\0")
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, 1) + entry + bytes(4)


@pytest.mark.parametrize(
    ("exif", "orientation"),
    [
        (exif_with_orientation(3, 1, b"\x06\0"), 6),
        (exif_with_orientation(11, 1, struct.pack("<f", 6)), 6),
        (exif_with_orientation(3, 1, b"\0\0"), 1),
        (exif_with_orientation(3, 1, b"\x09\0"), 1),
        (exif_with_orientation(2, 2, b"6\0"), 1),
        (exif_with_orientation(1, 1, b"\x06"), 1),
        (exif_with_orientation(7, 1, b"\x06"), 1),
        (b"Exif\0\0garbage", 1),
    ],
    ids=["short", "float", "zero", "nine", "text", "byte", "undefined", "garbage"],
)
def test_an_orientation_of_any_type_is_a_number_and_what_was_applied(
    tmp_path: Path, exif: bytes, orientation: int
) -> None:
    Image.new("RGB", SIZE).save(tmp_path / "a.jpg", exif=exif)
    outcome = decode(ImageRef(str(tmp_path / "a.jpg"), "a.jpg"), SETTINGS)
    assert isinstance(outcome, Decoded)
    assert type(outcome.exif_orientation) is int
    assert outcome.exif_orientation == orientation
    assert outcome.geometry.source == (SIZE if orientation == 1 else SIZE[::-1])


def test_remarks_on_metadata_stay_out_of_a_cron_jobs_mail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    twice = exif_with_orientation(3, 2, b"\x06\0\x06\0")
    Image.new("RGB", SIZE).save(tmp_path / "a.jpg", exif=twice)
    with pytest.warns(UserWarning, match="had too many entries"):
        decode(ImageRef(str(tmp_path / "a.jpg"), "a.jpg"), SETTINGS)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        own_pillow()
        decode(ImageRef(str(tmp_path / "a.jpg"), "a.jpg"), SETTINGS)
    assert said == []


def test_a_picture_in_memory_is_decoded_as_its_file_would_be(tmp_path: Path) -> None:
    transparent_rgba().save(tmp_path / "alpha.png")
    from_file = decode(ImageRef(str(tmp_path / "alpha.png"), "a"), SETTINGS)
    in_memory = from_picture(ImageRef("a", "a"), transparent_rgba(), SETTINGS)
    assert isinstance(from_file, Decoded)
    assert isinstance(in_memory, Decoded)
    np.testing.assert_array_equal(from_file.view, in_memory.view)
