"""What the page holds of one picture: figures to sort and filter by, its record, its raw maps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from camcli.images.geometry import Geometry
from camcli.outputs.arrays import Maps
from camcli.outputs.record import Record

_FINEST = 32  # cells a side
_DIGITS = 7  # what a float32 holds
FIELDS = ("method", "layer", "index", "against", "score", "grid", "min", "max", "sum", "status",
          "remainder", "outside_grid", "baseline", "completeness_error", "location_error",
          "faithful", "smoothing", "peak_xy", "hot_box", "hot_fraction", "overlay",
          "held")  # fmt: skip
"""What the page is told of each map, in this order."""


class Figures(NamedTuple):
    """One picture in the columns of the gallery; NaN and -1 stand for what there is not."""

    status: int
    predicted: int = -1
    given: int = -1
    confidence: float = math.nan
    completeness: float = math.nan
    hot: float = math.nan
    disagreement: float = math.nan
    width: int = 0
    height: int = 0


SHOWN, BLANK, FAILED = range(3)
"""The statuses: a first map that shows something, one without a hottest place, no map at all."""


def figures(record: Record, given: int | None, disagreeing: float | None) -> Figures:
    """The figures of an explained picture.

    Completeness is the largest error of its maps; the hot fraction is that of its first map.
    """
    first = record["explanations"][0]
    best = record["predictions"][0]
    errors = [e["completeness_error"] for e in record["explanations"]]
    known = [error for error in errors if error is not None]
    return Figures(
        status=SHOWN if first["cam"]["status"] == "ok" else BLANK,
        predicted=best["index"],
        given=-1 if given is None else given,
        confidence=_or_nan(best["probability"]),
        completeness=max(known, default=math.nan),
        hot=_or_nan(first["hot_fraction"]),
        disagreement=_or_nan(disagreeing),
        width=record["width"],
        height=record["height"],
    )


def disagreement(record: Record, maps: Sequence[Maps]) -> float | None:
    """Mean of 1 - cos(a, b) over the rectified maps a, b of two methods for the same class.

    Maps of different grids are compared on the network's view. Maps with nothing positive do not
    count; None where no two maps are left.
    """
    entries = record["explanations"]
    across, down = record["view"]["size"]
    left, top, right, bottom = record["view"]["crop_box"]
    source = record["width"], record["height"]
    geometry = Geometry(source, (across, down), (left, top, right, bottom))
    targets: dict[tuple[int | None, int | None], list[int]] = {}
    for number, entry in enumerate(entries):
        target = entry["target"]["index"], entry["target"]["against"]
        targets.setdefault(target, []).append(number)
    distances: list[float] = []
    for numbers in targets.values():
        alike = len({maps[n].shape for n in numbers}) == 1
        units = {n: _unit(maps[n] if alike else geometry.on_view(maps[n])) for n in numbers}
        for a, b in combinations(numbers, 2):
            one, two = units[a], units[b]
            if entries[a]["method"] != entries[b]["method"] and one is not None and two is not None:
                distances.append(max(0.0, 1.0 - float(one @ two)))
    return sum(distances) / len(distances) if distances else None


def row(record: Record, key: str, held: Sequence[Maps]) -> list[Any]:
    """The record, without the names of its fields: numbers of seven digits, FIELDS of each map."""
    view = record["view"]
    own = f"overlays/{key}."
    predictions = [
        [p["index"], _rounded(p["logit"]), _rounded(p["probability"])]
        for p in record["predictions"]
    ]
    entries = []
    for number, entry in enumerate(record["explanations"]):
        cam, target, overlay = entry["cam"], entry["target"], entry["overlay"]
        known = entry | cam | target | {
            "grid": cam["shape"],
            "overlay": overlay[len(own):] if overlay and overlay.startswith(own) else None,
            "held": list(held[number].shape) if held else None,
        }  # fmt: skip
        entries.append([_rounded(known[name]) for name in FIELDS])
    return [
        record["path"], record["sha256"], record["exif_orientation"], view["size"],
        view["crop_box"], predictions, entries,
    ]  # fmt: skip


def reduced(cam: Maps) -> Maps:
    """The map as the page holds it: as it is, or where it is finer than 32x32, means of areas."""
    rows, columns = cam.shape
    if max(rows, columns) <= _FINEST:
        return cam
    finite = np.nan_to_num(cam, nan=0.0, posinf=0.0, neginf=0.0)
    size = (min(columns, _FINEST), min(rows, _FINEST))
    return np.asarray(Image.fromarray(finite).resize(size, Image.Resampling.BOX), np.float32)


def _unit(cam: Maps) -> Any:
    positive = np.maximum(np.nan_to_num(cam, nan=0.0, posinf=0.0, neginf=0.0), 0).ravel()
    positive = positive.astype(np.float64)
    length = float(np.linalg.norm(positive))
    return positive / length if length else None


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}")
    return [_rounded(item) for item in value] if isinstance(value, list) else value
