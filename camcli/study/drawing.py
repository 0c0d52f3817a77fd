"""The pictures of a study: one style for every side, and nothing beside their pixels."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from camcli.images import decode
from camcli.images.geometry import Geometry
from camcli.outputs import render
from camcli.outputs.arrays import Maps
from camcli.outputs.render import Style
from camcli.study.choosing import Case

_STYLE = Style()
_GRAY = 118


def photo_of(case: Case, size: int, max_pixels: int) -> Image.Image:
    """The upright photo, its longest side at most `size`; raises what a decoder does."""
    first = case.shown[0]
    picture = decode.upright(first.result.source, max_pixels, first.record["sha256"])
    return decode.reduced(picture, size)


def maps_of(case: Case) -> list[tuple[Maps, Geometry]]:
    """The map of every side."""
    found = []
    for shown in case.shown:
        maps, geometry = shown.result.maps()
        found.append((maps[shown.place], geometry))
    return found


def overlay(cam: Maps, geometry: Geometry, photo: Image.Image) -> Image.Image:
    """Heat over the photo. Nothing is dimmed: how much a network saw would tell two apart."""
    return render.draw(cam, geometry, photo, _STYLE, dimmed=False)


def spotlight(cam: Maps, geometry: Geometry, photo: Image.Image) -> Image.Image:
    """The photo where the map is hot, fading into gray where it is not: what is left has to be
    enough to tell the class.
    """
    heat = geometry.on_canvas(np.maximum(cam, 0), photo.size)
    # Its status is ok, so that something is above zero.
    mask = Image.fromarray(np.clip(heat / heat.max() * 255, 0, 255).astype(np.uint8))
    return Image.composite(photo, Image.new("RGB", photo.size, (_GRAY,) * 3), mask)


def alike(one: Image.Image, other: Image.Image) -> bool:
    """Whether nobody could tell two drawings apart."""
    difference = np.asarray(one, np.int16) - np.asarray(other, np.int16)
    return bool(np.abs(difference).max() <= 2)


def data_uri(picture: Image.Image) -> str:
    """A JPEG within the page: the same header for every picture, no metadata."""
    file = io.BytesIO()
    plain = Image.frombytes("RGB", picture.size, picture.tobytes())
    plain.save(file, "jpeg", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
