"""Damaged pictures of every format that Pillow writes here: cut short, and with bytes changed."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from tests.images.decoding import png

STEP = 64  # bytes between two cuts
_COARSE = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
_PHOTO = Image.fromarray(_COARSE).resize((48, 40), Image.Resampling.BICUBIC)
_DEEP = Image.fromarray(np.asarray(_PHOTO.convert("L")).astype(np.uint16) * 257)
_MOVING: dict[str, Any] = {
    "save_all": True, "append_images": [_PHOTO.rotate(90 * n) for n in (1, 2)],
}  # fmt: skip
_TURNED = Image.Exif()
_TURNED[0x0112] = 6

# The name ends in the extension: its picture, and what Pillow is told when it is saved.
_KINDS: dict[str, tuple[Image.Image, dict[str, Any]]] = {
    "baseline.jpg": (_PHOTO, {"quality": 90, "subsampling": 0}),
    "subsampled.jpg": (_PHOTO, {"subsampling": 2}),
    "progressive.jpg": (_PHOTO, {"progressive": True}),
    "cmyk.jpg": (_PHOTO.convert("CMYK"), {}),
    "gray.jpg": (_PHOTO.convert("L"), {}),
    "turned.jpg": (_PHOTO, {"exif": _TURNED}),
    "restarting.jpg": (_PHOTO, {"restart_marker_rows": 1}),
    "rgb.png": (_PHOTO, {}),
    "rgba.png": (_PHOTO.convert("RGBA"), {}),
    "gray.png": (_PHOTO.convert("L"), {}),
    "la.png": (_PHOTO.convert("LA"), {}),
    "bits.png": (_PHOTO.convert("1"), {}),
    "deep.png": (_DEEP, {}),
    "palette.png": (_PHOTO.quantize(16), {}),
    "keyed.png": (_PHOTO, {"transparency": (0, 0, 255)}),
    "clear.png": (_PHOTO.quantize(16), {"transparency": bytes(range(0, 256, 16))}),
    "moving.png": (_PHOTO, _MOVING),
    "still.gif": (_PHOTO.quantize(64), {"interlace": True}),
    "moving.gif": (_PHOTO.quantize(64), _MOVING),
    "lossy.webp": (_PHOTO, {}),
    "lossless.webp": (_PHOTO.convert("RGBA"), {"lossless": True}),
    "moving.webp": (_PHOTO, _MOVING),
    **{f"{name}.tif": (_PHOTO, {"compression": name})
       for name in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "zstd", "lzma")},
    "group4.tif": (_PHOTO.convert("1"), {"compression": "group4"}),
    "deep.tif": (_DEEP, {"compression": "tiff_lzw"}),
    "float.tif": (Image.fromarray(np.asarray(_PHOTO.convert("L")) / np.float32(255)), {}),
    "pages.tif": (_PHOTO, _MOVING),
    "rgb.bmp": (_PHOTO, {}),
    "palette.bmp": (_PHOTO.quantize(16), {}),
    "rgb.ppm": (_PHOTO, {}),
    "bits.pbm": (_PHOTO.convert("1"), {}),
    "packed.tga": (_PHOTO, {"compression": "tga_rle"}),
    "boxed.jp2": (_PHOTO, {"quality_layers": [20]}),
    "stream.j2k": (_PHOTO, {"irreversible": True, "quality_layers": [30]}),
    "still.avif": (_PHOTO, {"speed": 10}),
    "moving.avif": (_PHOTO, {"speed": 10, **_MOVING}),
}  # fmt: skip


def whole() -> dict[str, bytes]:
    """One undamaged file of every kind that this Pillow can write."""
    Image.init()
    files = {}
    for name, (picture, options) in _KINDS.items():
        kind = Image.EXTENSION.get("." + name.rsplit(".")[-1])
        file = io.BytesIO()
        try:
            picture.save(file, kind, **options)
        except (OSError, KeyError, ValueError):  # built without that codec
            continue
        files[name] = file.getvalue()
    return files


def interlaced() -> bytes:
    """An interlaced PNG, which Pillow does not write: 8 by 8 gray pixels, each its own value."""
    pixels = np.arange(0, 256, 4, np.uint8).reshape(8, 8)
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2),
              (1, 0, 2, 1)]  # fmt: skip
    rows = b"".join(
        b"\0" + row.tobytes()
        for top, left, down, across in passes
        for row in pixels[top::down, left::across]
    )
    return png(8, 8, 0, True, rows)


def damaged(flips: int = 16) -> Iterator[tuple[str, bytes]]:
    """Every file cut at every 64th byte, and `flips` times with one byte in fifty changed."""
    for number, (name, data) in enumerate((whole() | {"interlaced.png": interlaced()}).items()):
        stem, _, extension = name.rpartition(".")
        for at in range(STEP, len(data), STEP):
            yield f"{stem}-cut-{at:05}.{extension}", data[:at]
        for n in range(flips):
            generator = np.random.default_rng([number, n])
            pixels = np.frombuffer(data, np.uint8).copy()
            # The first ones leave the header whole, so that the decoder itself is reached.
            first = min(200, len(data) // 2) if n % 2 else 0
            count = max(1, (len(data) - first) // 50)
            where = generator.integers(first, len(data), count)
            pixels[where] = generator.integers(0, 256, count, np.uint8)
            yield f"{stem}-flip-{n:02}.{extension}", pixels.tobytes()
