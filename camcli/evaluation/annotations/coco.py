"""Annotations as COCO JSON: boxes, polygons, and masks in run-length code."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from camcli.evaluation.annotations import raster
from camcli.evaluation.annotations.page import Marked, Page, number, size_of
from camcli.evaluation.annotations.raster import Mask, Size


def pages(path: Path) -> list[Page]:
    """The pictures of a COCO file, those without objects too. Raises OSError and ValueError.

    A picture's objects are checked when it is read, so that one damaged object costs one picture.
    """
    content = json.loads(path.read_bytes())
    names = {_id(entry): str(entry["name"]) for entry in _entries(content, "categories")}
    objects: dict[int | str, list[dict[str, Any]]] = {
        _id(entry): [] for entry in _entries(content, "images")
    }
    for entry in _entries(content, "annotations"):
        image, category = entry.get("image_id"), entry.get("category_id")
        if not isinstance(image, int | str) or image not in objects:
            raise ValueError(f"an annotation is of image {image!r:.40}, which is not listed")
        if not isinstance(category, int | str) or category not in names:
            raise ValueError(f"an annotation is of category {category!r:.40}, which is not listed")
        objects[image].append(entry)
    return [
        Page(
            str(image["file_name"]),
            partial(_read, image, objects[_id(image)], names),
            frozenset(names[entry["category_id"]] for entry in objects[_id(image)]),
        )
        for image in content["images"]
    ]


def _entries(content: Any, what: str) -> list[dict[str, Any]]:
    entries = content.get(what) if isinstance(content, dict) else None
    needed = {"images": "file_name", "categories": "name", "annotations": "image_id"}[what]
    if not isinstance(entries, list) or not all(
        isinstance(entry, dict) and needed in entry for entry in entries
    ):
        raise ValueError(f"it has no list '{what}' of objects with '{needed}'")
    return entries


def _id(entry: dict[str, Any]) -> int | str:
    found = entry.get("id")
    if not isinstance(found, int | str):
        raise ValueError(f"an entry's id is {found!r:.40}")
    return found


def _read(
    image: dict[str, Any], entries: list[dict[str, Any]], names: dict[int | str, str]
) -> tuple[Size | None, list[Marked]]:
    marked = [Marked(names[entry["category_id"]], partial(_mask, entry)) for entry in entries]
    return size_of(image.get("width"), image.get("height")), marked


def _mask(entry: dict[str, Any], size: Size) -> Mask:
    shape = entry.get("segmentation")
    try:
        if isinstance(shape, dict):
            return _run_lengths(shape, size)
        if isinstance(shape, list) and shape:
            rings = [raster.polygon(_ring(ring), size) for ring in shape]
            return np.asarray(np.logical_or.reduce(rings), np.bool_)
        left, top, width, height = (number(value) for value in _listed(entry.get("bbox"), 4))
        return raster.box(left, top, left + width, top + height, size)
    except ValueError as error:
        raise ValueError(f"annotation {entry.get('id')!r:.40}: {error}") from error


def _run_lengths(shape: dict[str, Any], size: Size) -> Mask:
    height, width = (number(value) for value in _listed(shape.get("size"), 2))
    if (width, height) != size:
        raise ValueError(
            f"its mask is {width:g}x{height:g} pixels, the picture {size[0]}x{size[1]}"
        )
    counts = shape.get("counts")
    if isinstance(counts, str):
        return raster.run_lengths(raster.decompressed(counts), size)
    if not isinstance(counts, list) or not all(type(count) is int for count in counts):
        raise ValueError("its run lengths are neither text nor a list of numbers")
    return raster.run_lengths(counts, size)


def _ring(values: Any) -> list[tuple[float, float]]:
    if not isinstance(values, list) or len(values) < 6 or len(values) % 2:
        raise ValueError("a polygon needs three points or more, x and y of each")
    flat = [number(value) for value in values]
    return list(zip(flat[0::2], flat[1::2], strict=True))


def _listed(values: Any, count: int) -> Sequence[Any]:
    if not isinstance(values, list) or len(values) != count:
        raise ValueError(f"neither a segmentation nor {count} numbers but {values!r:.40}")
    return values
