"""Drawing: a raw map laid over the upright source picture, where the network saw it."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from functools import lru_cache
from tempfile import TemporaryFile
from typing import BinaryIO, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from camcli.images.geometry import Geometry
from camcli.outputs import colormaps
from camcli.outputs.files import crc32

Blend = Literal["heat", "flat"]
OverlayFormat = Literal["jpeg", "png", "webp"]
EXTENSION: dict[OverlayFormat, str] = {"jpeg": ".jpg", "png": ".png", "webp": ".webp"}
_DIMMED = [int(level * 0.55) for level in range(256)] * 3
_COARSE = 128 * 128  # cells
_QUALITY = 90
_END_OF_JPEG = b"\xff\xd9"
_MEMORY = hasattr(os, "memfd_create")
_TINY = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class Style:
    """What decides a drawing, and nothing that decides a map.

    `scale` is the value drawn as hottest: a number, or `image` for each map's own maximum (on
    maps of single pixels their 99th percentile).
    """

    colormap: str = "inferno"
    alpha: float = 0.7
    blend: Blend = "heat"
    scale: float | Literal["image"] = "image"
    overlay_size: int = 1024
    overlay_format: OverlayFormat = "jpeg"
    signed: bool = False
    caption: bool = False


def draw(
    cam: npt.NDArray[np.float32],
    geometry: Geometry,
    canvas: Image.Image,
    style: Style,
    caption: str = "",
    dimmed: bool = True,
) -> Image.Image:
    """The overlay of one map on the canvas, the whole upright picture at any size.

    Opacity grows with the heat (`heat`), so that the photo stays readable where nothing is
    claimed, or is the same everywhere (`flat`). What the network did not see is `dimmed`.
    """
    top = hottest(cam, style)
    seen = _seen(canvas, geometry)
    levels = _levels(_shown(cam, style), geometry, canvas.size, top, style.signed)
    colours = Image.fromarray(levels).crop(seen)
    mask = colours.point(_opacity(style.alpha, style.blend, style.signed))
    colours = colours.convert("P")
    colours.putpalette(_palette(style.colormap, style.signed))
    cropped = dimmed and seen != (0, 0, *canvas.size)
    overlay = canvas.point(_DIMMED) if cropped else canvas.copy()
    overlay.paste(Image.composite(colours.convert("RGB"), canvas.crop(seen), mask), seen[:2])
    if style.caption:
        return _with_caption(overlay, caption, top, style)
    return overlay


def save(picture: Image.Image, file: BinaryIO, overlay_format: OverlayFormat) -> str:
    """Encode and write; the CRC of what was written."""
    content = encoded(picture, overlay_format)
    file.write(content)
    return crc32(content)


def encoded(picture: Image.Image, overlay_format: OverlayFormat) -> bytes:
    """The bytes of its file.

    By way of a real file, for which Pillow does not hold the interpreter's lock. One in memory:
    Pillow takes no notice of a write that a disk without room has cut short.
    """
    with os.fdopen(os.memfd_create("overlay"), "w+b") if _MEMORY else TemporaryFile() as file:
        if overlay_format == "png":
            picture.save(file, "png", compress_level=4)
        else:
            picture.save(file, overlay_format, quality=_QUALITY)
        file.seek(0)
        content = file.read()
    if overlay_format == "jpeg" and not content.endswith(_END_OF_JPEG):  # a limit on files' sizes
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    return content


def hottest(cam: npt.NDArray[np.float32], style: Style) -> float:
    """The value that is drawn in the hottest colour."""
    return _hottest(np.abs(_shown(cam, style))) if style.scale == "image" else style.scale


def colour_bar(style: Style, size: tuple[int, int]) -> Image.Image:
    """The colours from the coldest to the hottest."""
    ramp = Image.frombytes("P", (256, 1), bytes(range(256)))
    ramp.putpalette(_palette(style.colormap, style.signed))
    return ramp.convert("RGB").resize(size)


def _shown(cam: npt.NDArray[np.float32], style: Style) -> npt.NDArray[np.float32]:
    finite = np.nan_to_num(cam, nan=0.0, posinf=0.0, neginf=0.0)
    return finite if style.signed else np.maximum(finite, 0)


def _levels(
    shown: npt.NDArray[np.float32],
    geometry: Geometry,
    size: tuple[int, int],
    top: float,
    signed: bool,
) -> npt.NDArray[np.uint8]:
    """Heat as levels 0 to 255, (height, width).

    The map is rectified, then interpolated, as the field does it.
    """
    heat = geometry.on_canvas(shown, size) / max(top, _TINY)
    if signed:
        heat = (heat + 1) / 2
    levels: npt.NDArray[np.uint8] = (np.clip(heat, 0, 1) * 255 + 0.5).astype(np.uint8)
    return levels


def _hottest(heat: npt.NDArray[np.float32]) -> float:
    """A map's own scale: its maximum, or on a map of single pixels, where a few stand out so far
    that nothing else could be seen, its 99th percentile.
    """
    if heat.size > _COARSE:
        return float(np.quantile(heat, 0.99)) or float(heat.max())
    return float(heat.max())


@lru_cache
def _opacity(alpha: float, blend: Blend, signed: bool) -> list[int]:
    """The mask of every level, 0 to 255."""
    levels = np.arange(256) / 255
    strength = np.abs(2 * levels - 1) if signed else levels
    if blend == "flat":
        strength = np.ones(256)
    return [int(v) for v in np.round(255 * alpha * strength)]


@lru_cache
def _palette(colormap: str, signed: bool) -> bytes:
    return (colormaps.diverging() if signed else colormaps.table(colormap)).tobytes()


def _seen(canvas: Image.Image, geometry: Geometry) -> tuple[int, int, int, int]:
    """The box of the canvas that the network saw."""
    left, top, right, bottom = geometry.seen
    across, down = canvas.width / geometry.source[0], canvas.height / geometry.source[1]
    return round(left * across), round(top * down), round(right * across), round(bottom * down)


def _with_caption(overlay: Image.Image, text: str, value: float, style: Style) -> Image.Image:
    """A line of text and a colour bar below the overlay."""
    text = " ".join(text.split())  # Pillow measures one line
    height = max(28, overlay.height // 16)
    font = ImageFont.load_default(size=height * 0.45)
    out = Image.new("RGB", (overlay.width, overlay.height + height), "white")
    out.paste(overlay, (0, 0))
    pen = ImageDraw.Draw(out)
    middle = overlay.height + height // 2
    bar = (max(60, overlay.width // 5), max(6, height // 3))
    top = f"{value:.3g}"
    right = overlay.width - 6 - round(pen.textlength(top, font=font))
    low = f"{-value:.3g}" if style.signed else "0"
    pen.text((right, middle), top, "black", font, anchor="lm")
    out.paste(colour_bar(style, bar), (right - 4 - bar[0], middle - bar[1] // 2))
    pen.text((right - 8 - bar[0], middle), low, "black", font, anchor="rm")
    room = right - 16 - bar[0] - round(pen.textlength(low, font=font))
    while text and pen.textlength(text, font=font) > room - 6:
        text = text[:-2] + "…" if len(text) > 2 else ""
    pen.text((6, middle), text, "black", font, anchor="lm")
    return out
