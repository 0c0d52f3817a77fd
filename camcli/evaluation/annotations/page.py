"""What is marked on one picture, before anybody knows its pixels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from camcli.evaluation.annotations.raster import Mask, Size


@dataclass(frozen=True)
class Marked:
    """One object: its class in the words of the annotations, and its mask on a picture of some
    (width, height), which may raise ValueError.
    """

    label: str | None
    """None where the annotations tell objects from background only."""
    draw: Callable[[Size], Mask]


@dataclass(frozen=True)
class Page:
    """The objects on one picture, and the size at which they were marked, where that is known."""

    name: str
    """The picture's, with or without its extension, relative to what its run was started on."""
    read: Callable[[], tuple[Size | None, Sequence[Marked]]]
    """May raise OSError and ValueError."""
    labels: frozenset[str] = frozenset()
    """The classes of its objects, as far as they are known without reading it."""


def number(value: Any) -> float:
    """A finite number; ValueError for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e9:
        raise ValueError(f"{str(value)[:40]!r} is no coordinate")
    return float(value)


def size_of(width: Any, height: Any) -> Size | None:
    """A picture's size; None where none is given."""
    if not width and not height:
        return None
    found = number(width), number(height)
    if min(found) < 1 or any(not math.isclose(v, int(v)) for v in found):
        raise ValueError(f"{width}x{height} is no size of a picture")
    return int(found[0]), int(found[1])
