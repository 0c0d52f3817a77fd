"""How well maps point at marked objects, in pixels of the upright source picture.

A map is rectified, and interpolated from its grid to the source as an overlay is. What the network
never saw, cropped away before it, cannot be pointed at: masks are cut to what it saw, and a map
whose object lies wholly outside is not measured. A map without positive values points nowhere: it
misses, and none of its energy is on the object.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from camcli.images.geometry import Geometry
from camcli.images.region import peak

Mask = npt.NDArray[np.bool_]
Maps = npt.NDArray[np.float32]
Values = npt.NDArray[np.float64]
TOLERANCE = 15.0
"""Pixels by which a peak may miss the object (Zhang 2016, section 4.1)."""
THRESHOLDS = 100
"""Shares of a map's maximum that are tried: 1/100, 2/100, ... 99/100."""


def seen_mask(mask: Mask, geometry: Geometry) -> Mask | None:
    """The part of a mask whose pixels' centres the network saw; None where there is none."""
    left, top, right, bottom = geometry.seen
    x0, x1 = math.ceil(left - 0.5), math.floor(right - 0.5) + 1
    y0, y1 = math.ceil(top - 0.5), math.floor(bottom - 0.5) + 1
    kept = np.zeros_like(mask)
    kept[y0:y1, x0:x1] = mask[y0:y1, x0:x1]
    return kept if kept.any() else None


def hits(cam: Maps, geometry: Geometry, mask: Mask, tolerance: float = TOLERANCE) -> bool:
    """The pointing game: whether the centre of the hottest cell lies on the object, or at most
    `tolerance` source pixels from the centre of one of its pixels (Zhang 2016, arXiv 1608.00507).

    (h, w), (height, width) -> a bool. A constant map has no hottest place, and misses.
    """
    low, high = float(cam.min()), float(cam.max())
    if not 0 < high < math.inf or low == high:
        return False
    x, y = peak(cam, geometry)
    row, column = math.floor(y), math.floor(x)
    inside = 0 <= row < mask.shape[0] and 0 <= column < mask.shape[1]  # and not on padding
    if inside and mask[row, column]:
        return True
    reach = math.ceil(tolerance) + 1
    y0, y1 = max(0, row - reach), max(0, row + reach + 1)
    x0, x1 = max(0, column - reach), max(0, column + reach + 1)
    rows, columns = np.nonzero(mask[y0:y1, x0:x1])
    distances = np.hypot(columns + x0 + 0.5 - x, rows + y0 + 0.5 - y)
    return bool((distances <= tolerance).any())


def energy(cam: Maps, geometry: Geometry, mask: Mask) -> float:
    """The energy-based pointing game: sum of relu(map) on the object / its whole sum, from 0 to 1
    (Wang 2020, arXiv 1910.01279, section 4.3).
    """
    heat = geometry.on_canvas(np.maximum(cam, 0), geometry.source)
    whole = float(heat.sum(dtype=np.float64))
    return float(heat[mask].sum(dtype=np.float64)) / whole if 0 < whole < math.inf else 0.0


def overlaps(cam: Maps, geometry: Geometry, mask: Mask) -> Maps:
    """The IoU of {relu(map) >= t max} and the object for t = 1/100 ... 99/100, (99,)."""
    heat = geometry.on_canvas(np.maximum(cam, 0), geometry.source)
    highest = float(heat.max())
    if not 0 < highest < math.inf:
        return np.zeros(THRESHOLDS - 1, np.float32)
    level = (heat.astype(np.float64) * (THRESHOLDS / highest)).astype(np.intp)
    hot = _from_level(level.ravel())
    both = _from_level(level[mask])
    return np.asarray(both / (hot + np.count_nonzero(mask) - both), np.float32)


def held_out(keys: Sequence[str], seed: int = 0) -> list[bool]:
    """Which pictures the threshold is not chosen on: about half, by a digest of key and seed."""
    return [
        hashlib.sha256(f"{seed}:{key}".encode("utf-8", "surrogateescape")).digest()[0] % 2 == 1
        for key in keys
    ]


def held_out_iou(
    keys: Sequence[str], curves: Values, seed: int = 0
) -> tuple[Values, list[float | None]]:
    """Weakly supervised segmentation (Draelos & Carin 2020, arXiv 2011.08891, the third
    experiment): for each row, the threshold with the highest mean IoU over one half of the
    pictures, as a share of each map's maximum, and each picture's IoU at it in the other half.

    `curves` are what `overlaps` gives, (pictures, rows, 99), NaN where there is none; the values
    are (pictures, rows), NaN in the half that the threshold was chosen on. Rows without a picture
    in it have neither.
    """
    held = np.array(held_out(keys, seed), np.bool_)
    found = np.full(curves.shape[:2], np.nan)
    thresholds: list[float | None] = []
    for row in range(curves.shape[1]):
        chosen_on = curves[~held & ~np.isnan(curves[:, row, 0]), row]
        best = int(chosen_on.mean(axis=0).argmax()) if len(chosen_on) else None
        thresholds.append(None if best is None else (best + 1) / THRESHOLDS)
        if best is not None:
            found[held, row] = curves[held, row, best]
    return found, thresholds


def _from_level(levels: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """How many pixels have level 1 or more, 2 or more, ... 99 or more."""
    counts = np.bincount(levels, minlength=THRESHOLDS + 1)
    return counts[::-1].cumsum()[::-1][1:THRESHOLDS]
