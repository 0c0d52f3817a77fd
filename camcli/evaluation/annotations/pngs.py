"""Annotations as a folder of mask PNGs, one for each picture."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from camcli.evaluation.annotations.page import Marked, Page
from camcli.evaluation.annotations.raster import Mask, Size

_VOID = 255  # in palettes: neither object nor background, by Pascal VOC's convention


def page(path: Path, name: str, by_class: bool, max_pixels: int) -> Page:
    """Every pixel that is not 0 is the object; `by_class`, pixels of one value are one class."""
    return Page(name, partial(_read, path, by_class, max_pixels))


def _read(path: Path, by_class: bool, max_pixels: int) -> tuple[Size, list[Marked]]:
    values = _values(path, max_pixels)
    size = values.shape[1], values.shape[0]
    if not by_class:
        return size, [Marked(None, partial(_mask, values != 0, path))]
    found = [int(value) for value in np.unique(values) if value]
    return size, [Marked(str(value), partial(_mask, values == value, path)) for value in found]


def _values(path: Path, max_pixels: int) -> npt.NDArray[np.int64]:
    """One number a pixel: the palette index, the grey value, or whether any channel is not 0."""
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            if picture.width * picture.height > max_pixels:
                raise ValueError(
                    f"{path.name}: {picture.width}x{picture.height} is more than --max-pixels "
                    f"{max_pixels}"
                )
            palette, values = picture.mode == "P", np.asarray(picture)
    except (UnidentifiedImageError, Image.DecompressionBombError, SyntaxError, EOFError) as error:
        raise ValueError(f"{path.name}: not a PNG that can be read") from error
    if values.ndim == 3:
        colours = values.shape[2] - (values.shape[2] in (2, 4))  # the last one is opacity
        values = np.asarray(values[:, :, :colours].any(axis=2))
    numbers = values.astype(np.int64)
    if palette:
        numbers[numbers == _VOID] = 0
    return numbers


def _mask(mask: Mask, path: Path, size: Size) -> Mask:
    if mask.shape != (size[1], size[0]):
        raise ValueError(f"{path.name}: {mask.shape[1]}x{mask.shape[0]}, not {size[0]}x{size[1]}")
    return mask
