"""Annotations as Pascal VOC XML: a box for each object, one file for each picture."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from camcli.evaluation.annotations import raster
from camcli.evaluation.annotations.page import Marked, Page, number, size_of
from camcli.evaluation.annotations.raster import Mask, Size

_LARGEST = 16 * 2**20  # bytes


class _WithoutDoctype(ElementTree.TreeBuilder):
    """Entities can only be declared in a document type, which is refused before it is read."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise ValueError("it declares a document type, which annotations have no need of")


def page(path: Path, name: str) -> Page:
    """What one file marks on the picture of that name. Raises OSError and ValueError."""
    with path.open("rb") as file:
        data = file.read(_LARGEST + 1)
    if len(data) > _LARGEST:
        raise ValueError(f"it is larger than {_LARGEST:,} bytes")
    parser = ElementTree.XMLParser(target=_WithoutDoctype())
    try:
        parser.feed(data)
        root = parser.close()
    except (ElementTree.ParseError, LookupError) as error:  # the second: an unknown encoding
        raise ValueError(f"no XML: {error}") from error
    if root.tag != "annotation":
        raise ValueError(f"its root is '{root.tag[:40]}' and not 'annotation'")
    marked = [_marked(element) for element in root.iterfind("object")]
    size = size_of(_figure(root, "size/width"), _figure(root, "size/height"))
    return Page(name, lambda: (size, marked), frozenset(m.label for m in marked if m.label))


def _marked(element: ElementTree.Element) -> Marked:
    name = (element.findtext("name") or "").strip()
    if not name:
        raise ValueError("an object has no name")
    corners = [_figure(element, f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax")]
    left, top, right, bottom = (number(corner) for corner in corners)
    return Marked(name, partial(_box, left, top, right, bottom))


def _box(left: float, top: float, right: float, bottom: float, size: Size) -> Mask:
    """VOC counts pixels from 1 and names the last one inside."""
    return raster.box(left - 1, top - 1, right, bottom, size)


def _figure(element: ElementTree.Element, path: str) -> Any:
    text = element.findtext(path)
    try:
        return None if text is None else float(text)
    except ValueError:
        raise ValueError(f"{path} is {text!r:.40} and no number") from None
