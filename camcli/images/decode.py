"""One file on disk -> an upright RGB picture, or a Failure that says why not."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import stat
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from camcli.images import archives
from camcli.images.preprocess import Preprocessing, prepare
from camcli.records import Decoded, Failure, FileFacts, ImageRef, Stage

# The limit is --max-pixels, checked from the header; Pillow's warning would only repeat it.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

# Those whose header tells the size of what is decoded. Never asked: icons, which hold pictures of
# another size than they say, and PostScript, for which Pillow starts Ghostscript.
_COMMON_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "DIB", "PPM")
_OTHER_FORMATS = ("TIFF", "WEBP", "JPEG2000", "AVIF", "PSD", "TGA")
# No mode that Pillow reads takes more for a pixel, and metadata and further frames take some too.
_BYTES_PER_PIXEL, _BYTES_BESIDE = 8, 64 * 2**20
_TILE_WIDTH, _TILE_LENGTH = 322, 323
_LONGEST_REASON = 300
_ORIENTATION = 0x0112
_TRANSIENT = {errno.EIO, errno.EACCES, errno.EPERM, errno.ENOMEM, errno.EMFILE, errno.ENFILE,
              errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN,
              # The pixels did not fit into the memory that they are handed over in.
              errno.EFBIG, errno.ENOSPC}  # fmt: skip


@dataclass(frozen=True)
class DecodeSettings:
    """`overlay_size` is the longest side of the picture kept for drawing; None keeps none."""

    preprocessing: Preprocessing
    overlay_size: int | None
    max_pixels: int


Decoder = Callable[[ImageRef, FileFacts, bytes, DecodeSettings], Decoded | Failure]


class UnfitPictureError(Exception):
    """A readable file whose pixels cannot be shown to the network."""


def own_pillow() -> None:
    """Let --max-pixels alone decide, and keep remarks on metadata out of a cron job's mail.

    For the command line, whose process is its own.
    """
    Image.MAX_IMAGE_PIXELS = None
    warnings.filterwarnings("ignore", module=r"PIL\.")


def picture_of(
    ref: ImageRef, facts: FileFacts, data: bytes, settings: DecodeSettings
) -> Decoded | Failure:
    """Check, decode and prepare the picture in these bytes. Every exception becomes a Failure."""
    try:
        picture, orientation = _open(data, settings.max_pixels)
        return _prepared(ref, facts, picture, orientation, settings)
    except Exception as error:  # a decoder may raise anything
        return failure(ref, facts, error, "decode")


def decode(
    ref: ImageRef, settings: DecodeSettings, decoder: Decoder = picture_of
) -> Decoded | Failure:
    """Read one file and have it decoded, here or elsewhere. Every exception becomes a Failure."""
    try:
        facts, data = _read(ref.path, settings.max_pixels)
    except Exception as error:
        return failure(ref, None, error, "read")
    return decoder(ref, facts, data, settings)


def from_picture(
    ref: ImageRef, picture: Image.Image, settings: DecodeSettings
) -> Decoded | Failure:
    """The same for a picture that is already in memory."""
    try:
        orientation = _orientation(picture)
        facts = FileFacts(0, 0, hashlib.sha256(picture.tobytes()).hexdigest())
        upright = rgb(ImageOps.exif_transpose(picture))
        return _prepared(ref, facts, upright, orientation, settings)
    except Exception as error:
        return failure(ref, None, error, "decode")


def failure(ref: ImageRef, facts: FileFacts | None, error: Exception, stage: Stage) -> Failure:
    """The record of a picture that could not be handled."""
    memory = isinstance(error, MemoryError)
    transient = memory or (isinstance(error, OSError) and error.errno in _TRANSIENT)
    text = "not enough memory" if memory else _reason(error)
    return Failure(ref, facts, type(error).__name__, text, stage, transient)


def reduced(picture: Image.Image, longest: int) -> Image.Image:
    """The picture with its longest side at most `longest`; smaller ones stay as they are."""
    scale = longest / max(picture.size)
    if scale >= 1:
        return picture
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)


def upright(path: str, max_pixels: int, sha256: str) -> Image.Image:
    """The upright RGB picture of a file that has not changed, for drawing; raises what `decode`
    records.
    """
    facts, data = _read(path, max_pixels)
    if facts.sha256 != sha256:
        raise UnfitPictureError("the picture has changed since it was explained; explain it again")
    return _open(data, max_pixels)[0]


def facts_of(path: str) -> FileFacts | None:
    """Size and modification time without opening the file; None where it cannot be asked."""
    try:
        status = archives.status(path)
    except (OSError, ValueError):
        return None
    return FileFacts(status.st_size, status.st_mtime_ns)


def _prepared(
    ref: ImageRef,
    facts: FileFacts,
    picture: Image.Image,
    orientation: int,
    settings: DecodeSettings,
) -> Decoded:
    view, geometry = prepare(picture, settings.preprocessing)
    canvas = reduced(picture, settings.overlay_size) if settings.overlay_size else None
    return Decoded(ref, facts, orientation, geometry, view, canvas)


def _read(path: str, max_pixels: int) -> tuple[FileFacts, bytes]:
    most = _BYTES_BESIDE + _BYTES_PER_PIXEL * max_pixels
    try:
        # O_NONBLOCK so that a FIFO without a writer cannot hang the run before it is refused.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except NotADirectoryError:
        return _read_member(path, most)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise UnfitPictureError("not a regular file")
        if not status.st_size:
            raise UnfitPictureError("the file is empty")
        if path.lower().endswith(archives.EXTENSIONS):
            archives.check(path)
        if status.st_size > most:
            raise UnfitPictureError(
                f"{status.st_size} bytes are more than a picture of --max-pixels {max_pixels} takes"
            )
        with open(descriptor, "rb", closefd=False) as file:
            data = file.read(status.st_size)
        after = os.fstat(descriptor)
    finally:
        os.close(descriptor)  # open() would keep the descriptor of a folder
    read = len(data), status.st_mtime_ns
    if read != (status.st_size, after.st_mtime_ns) or after.st_size != status.st_size:
        raise OSError(errno.ESTALE, "the file changed while it was read")
    return FileFacts(status.st_size, status.st_mtime_ns, hashlib.sha256(data).hexdigest()), data


def _read_member(path: str, most: int) -> tuple[FileFacts, bytes]:
    """The same for a file in an archive; size and time are the archive's."""
    archive = archives.containing(path)
    if archive is None:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    before = os.stat(archive)
    data = archives.read(archive, path[len(archive) + 1 :], most)
    after = os.stat(archive)
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise OSError(errno.ESTALE, "the archive changed while it was read")
    return FileFacts(before.st_size, before.st_mtime_ns, hashlib.sha256(data).hexdigest()), data


def _open(data: bytes, max_pixels: int) -> tuple[Image.Image, int]:
    picture = _identified(data)
    tags = getattr(picture, "tag_v2", {})  # a TIFF's, whose tiles may be larger than itself
    tile = tags.get(_TILE_WIDTH, 1), tags.get(_TILE_LENGTH, 1)
    for width, height in (picture.size, tile):
        if width * height > max_pixels:
            raise UnfitPictureError(f"{width}x{height} is more than --max-pixels {max_pixels}")
    picture.load()
    orientation = _orientation(picture)
    upright = rgb(ImageOps.exif_transpose(picture))
    upright.info = {}  # comments and profiles of the picture are no part of its overlay
    return upright, orientation


def _identified(data: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=_COMMON_FORMATS)
    except UnidentifiedImageError:
        Image.init()  # imports every format there is, once
        here = [name for name in _OTHER_FORMATS if name in Image.OPEN]
        return Image.open(io.BytesIO(data), formats=here)


def _orientation(picture: Image.Image) -> int:
    """The EXIF orientation that was applied; 1 for what is none (0, 9, text, bytes)."""
    value = picture.getexif().get(_ORIENTATION, 1)
    return int(value) if value in range(1, 9) else 1


def rgb(picture: Image.Image) -> Image.Image:
    """8-bit RGB from whatever a file holds; transparency is laid over white.

    Deep grayscale is scaled rather than clipped; values that cannot be a brightness are refused.
    """
    if picture.mode == "RGB" and "transparency" not in picture.info:
        return picture
    if picture.mode.startswith("I;16") or picture.mode in ("I", "F"):
        return _from_deep(np.asarray(picture)).convert("RGB")
    if picture.mode == "LAB":
        profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(picture, *profiles, outputMode="RGB")
        assert converted is not None  # only inPlace=True returns nothing
        return converted
    if picture.has_transparency_data:
        colours = picture.convert("RGBA")
        white = Image.new("RGBA", colours.size, "white")
        return Image.alpha_composite(white, colours).convert("RGB")
    return picture.convert("RGB")


def _from_deep(values: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> Image.Image:
    """16-bit integers by their full range, floats in [0, 1] or [0, 255]."""
    numbers = values.astype(np.float64)
    low, high = float(numbers.min()), float(numbers.max())
    full = 65535.0 if values.dtype.kind in "iu" else (1.0 if high <= 1 else 255.0)
    if not (np.isfinite(low) and low >= 0 and high <= full):
        raise UnfitPictureError(
            f"{values.dtype} pixels from {low:g} to {high:g} are no brightness between "
            f"0 and {full:g}; convert the picture to 8 bits"
        )
    return Image.fromarray(np.round(numbers * (255 / full)).astype(np.uint8))


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not a picture that can be identified"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = " ".join(str(error).split())
    return text[:_LONGEST_REASON] or type(error).__name__
