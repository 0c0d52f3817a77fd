"""What a file may hold: every mode comes out right or as a failure that says why."""

from __future__ import annotations

import io
import os
import signal
import struct
import subprocess
import sys
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageFile

from camcli.images.decode import DecodeSettings, decode, from_picture, own_pillow
from camcli.images.preprocess import Preprocessing
from camcli.records import Decoded, Failure, ImageRef

SIZE = (40, 30)
# As small a preparation as there is, so that `canvas` shows the decoded picture itself.
PREPARE = Preprocessing((8, 8), 8, (0.5,) * 3, (0.5,) * 3, "bilinear", "squash", "a test")
SETTINGS = DecodeSettings(PREPARE, 1024, 10_000)


def decoded(path: Path) -> np.ndarray:
    outcome = decode(ImageRef(str(path), path.name), SETTINGS)
    assert isinstance(outcome, Decoded), outcome
    assert outcome.canvas is not None
    assert outcome.canvas.mode == "RGB"
    return np.asarray(outcome.canvas)


def failed(path: Path, settings: DecodeSettings = SETTINGS) -> Failure:
    outcome = decode(ImageRef(str(path), path.name), settings)
    assert isinstance(outcome, Failure), outcome
    return outcome


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


def bytes_of(picture: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind)
    return buffer.getvalue()


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))


@pytest.mark.parametrize(
    ("name", "content", "stage", "said"),
    [
        ("cut.jpg", bytes_of(NOISE, "jpeg")[:2000], "decode", "truncated"),
        ("cut.png", bytes_of(NOISE, "png")[:2000], "decode", "truncated"),
        ("notes.jpg", b"# notes\nnot a picture\n", "decode", "not a picture"),
        ("empty.jpg", b"", "read", "the file is empty"),
    ],
)
def test_a_file_that_holds_no_whole_picture_is_a_final_failure(
    tmp_path: Path, name: str, content: bytes, stage: str, said: str
) -> None:
    (tmp_path / name).write_bytes(content)
    outcome = failed(tmp_path / name)
    assert said in outcome.message
    assert (outcome.stage, outcome.transient) == (stage, False)


def test_a_named_pipe_is_refused_without_waiting_for_a_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    before = signal.signal(signal.SIGALRM, lambda *_: pytest.fail("waited for a writer"))
    signal.alarm(10)
    try:
        assert failed(tmp_path / "pipe.jpg").message == "not a regular file"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def lowest_free_descriptor() -> int:
    descriptor = os.dup(2)
    os.close(descriptor)
    return descriptor


def test_a_folder_with_a_pictures_name_is_refused_and_closed(tmp_path: Path) -> None:
    (tmp_path / "folder.jpg").mkdir()
    before = lowest_free_descriptor()
    assert failed(tmp_path / "folder.jpg").message == "not a regular file"
    assert lowest_free_descriptor() == before


def test_a_link_to_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    outcome = failed(tmp_path / "loop.jpg")
    assert outcome.message == "Too many levels of symbolic links"
    assert not outcome.transient


def test_a_file_that_has_gone_is_a_failure(tmp_path: Path) -> None:
    outcome = failed(tmp_path / "gone.jpg")
    assert (outcome.type, outcome.message) == ("FileNotFoundError", "No such file or directory")


def huge_png(width: int, height: int) -> bytes:
    """A file of less than a kilobyte whose header declares any size."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(bytes(100)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + chunk(b"IEND", b"")


def test_the_pixel_limit_is_checked_before_anything_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(self: ImageFile.ImageFile) -> None:
        raise AssertionError("decoded before the limit was checked")

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    own_pillow()
    (tmp_path / "bomb.png").write_bytes(huge_png(60_000, 60_000))
    assert failed(tmp_path / "bomb.png").message == "60000x60000 is more than --max-pixels 10000"


def test_a_library_user_keeps_pillows_own_limit(tmp_path: Path) -> None:
    (tmp_path / "bomb.png").write_bytes(huge_png(60_000, 60_000))
    generous = DecodeSettings(PREPARE, None, 10**12)
    assert failed(tmp_path / "bomb.png", generous).type == "DecompressionBombError"


def test_the_pixel_limit_is_inclusive(tmp_path: Path) -> None:
    Image.new("RGB", (100, 100)).save(tmp_path / "limit.png")
    Image.new("RGB", (101, 100)).save(tmp_path / "above.png")
    assert decoded(tmp_path / "limit.png").shape == (100, 100, 3)
    assert "more than --max-pixels" in failed(tmp_path / "above.png").message


def test_a_file_without_permission_is_tried_again_by_the_next_run(tmp_path: Path) -> None:
    NOISE.save(tmp_path / "secret.jpg")
    (tmp_path / "secret.jpg").chmod(0)
    tmp_path.chmod(0o755)
    program = """if True:
        import os
        from camcli.images.decode import DecodeSettings, decode
        from camcli.images.preprocess import Preprocessing
        from camcli.records import ImageRef
        half = (0.5, 0.5, 0.5)
        recipe = Preprocessing((8, 8), 8, half, half, "bilinear", "squash", "a test")
        if os.getuid() == 0:  # root may read everything
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        outcome = decode(ImageRef("secret.jpg", "secret.jpg"), DecodeSettings(recipe, None, 10**6))
        print(outcome.stage, outcome.transient, outcome.message)
    """
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == "read True Permission denied\n"


@pytest.mark.parametrize(
    ("error", "transient", "message"),
    [
        (RuntimeError("the codec gave up"), False, "the codec gave up"),
        (KeyError("tile"), False, "'tile'"),
        (AssertionError(), False, "AssertionError"),
        (MemoryError(), True, "not enough memory"),
        (OSError(5, "Input/output error"), True, "Input/output error"),
        (RecursionError("too deep"), False, "too deep"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_whatever_a_decoder_raises_is_a_failure(
    monkeypatch: pytest.MonkeyPatch,
    picture: Callable[..., Path],
    error: Exception,
    transient: bool,
    message: str,
) -> None:
    path = picture("a.png")

    def broken(*args: object) -> None:
        raise error

    monkeypatch.setattr(Image, "open", broken)
    outcome = failed(path)
    assert (outcome.type, outcome.message) == (type(error).__name__, message)
    assert (outcome.stage, outcome.transient) == ("decode", transient)
    assert outcome.facts is not None
    assert outcome.facts.size == path.stat().st_size


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
