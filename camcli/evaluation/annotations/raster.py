"""Boxes, polygons and run-length codes -> masks (height, width). Raises ValueError.

Coordinates are continuous, with pixel i covering [i, i + 1): a pixel belongs to a shape that holds
its centre.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]
Size = tuple[int, int]
"""(width, height)"""
_MOST_GROUPS = 12  # of five bits: more than any picture's pixels need


def box(left: float, top: float, right: float, bottom: float, size: Size) -> Mask:
    """A rectangle, cut off at the picture's edges."""
    width, height = size
    mask = np.zeros((height, width), np.bool_)
    x0, x1 = (_first_centre(x, width) for x in (left, right))
    y0, y1 = (_first_centre(y, height) for y in (top, bottom))
    mask[y0:y1, x0:x1] = True
    return mask


def polygon(points: Sequence[tuple[float, float]], size: Size) -> Mask:
    """A closed ring of (x, y), filled by the even-odd rule."""
    width, height = size
    crossings = np.zeros((height, width + 1), np.int32)
    for ends in pairwise([*points, points[0]]):
        (x0, y0), (x1, y1) = sorted(ends, key=lambda point: point[1])
        first, last = _first_centre(y0, height), _first_centre(y1, height)
        if first < last:
            rows = np.arange(first, last)
            at = x0 + (rows + 0.5 - y0) * ((x1 - x0) / (y1 - y0))
            columns = np.clip(np.ceil(at - 0.5), 0, width).astype(np.intp)
            crossings[rows, columns] += 1  # an edge crosses a row once
    return (crossings[:, :width].cumsum(axis=1) % 2).astype(np.bool_)


def run_lengths(counts: Sequence[int], size: Size) -> Mask:
    """Lengths of runs of 0 and 1 in turn, down the columns (COCO's uncompressed code)."""
    width, height = size
    if any(count < 0 for count in counts) or sum(counts) != width * height:
        raise ValueError(f"its run lengths do not add up to {width}x{height} pixels")
    values = np.arange(len(counts)) % 2 == 1
    return np.repeat(values, counts).reshape(width, height).T


def decompressed(text: str) -> list[int]:
    """COCO's compressed code -> run lengths.

    Characters from `0` on hold six bits: five of the value, the lowest first, and whether more
    follow; the last group's highest bit is the sign. From the fourth length on, the difference from
    the length two before it is stored.
    """
    counts: list[int] = []
    value = groups = 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64 or groups >= _MOST_GROUPS:
            raise ValueError("its run lengths are damaged")
        value |= (code & 31) << (5 * groups)
        groups += 1
        if code & 32:
            continue
        if code & 16:
            value -= 1 << (5 * groups)
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = groups = 0
    if groups:
        raise ValueError("its run lengths break off")
    return counts


def _first_centre(position: float, pixels: int) -> int:
    """The first pixel whose centre is not before a position."""
    return min(max(math.ceil(position - 0.5), 0), pixels)
