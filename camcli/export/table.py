"""One row per map, every figure of its record; a picture that failed is one row too."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from camcli.export.reading import Reading, relative
from camcli.outputs import paths
from camcli.outputs.record import Record
from camcli.outputs.results import Result

Row = dict[str, Any]
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def write(run: Reading, file: BinaryIO, base: Path, advance: Callable[[], None]) -> None:
    """A CSV, UTF-8, with `path`, `overlay` and `npz` as seen from `base`.

    A spreadsheet takes text that begins like a formula for one, so such text gets an apostrophe
    in front; numbers stay numbers. Undecodable bytes of names are written as backslash escapes.
    """
    text = io.TextIOWrapper(file, "utf-8", errors="backslashreplace", newline="")
    writer = csv.DictWriter(text, COLUMNS, restval="")
    writer.writeheader()
    for found in run.converted(lambda result: rows(result, base)):
        writer.writerows(found)
        advance()
    text.flush()
    text.detach()


def rows(result: Result, base: Path) -> list[Row]:
    """The rows of one input."""
    record = result.record()
    npz = _place(result, paths.npz_path(result.key).as_posix(), base)
    about = {
        "key": result.key, "path": relative(result.source, base), "status": record["status"],
        "sha256": record["sha256"], "config_hash": record["config_hash"],
    }  # fmt: skip
    if record["status"] == "error":
        error = record["error"]
        about |= {f"error_{name}": error[name] for name in ("type", "message", "stage")}
        return [_cells(about)]
    best = record["predictions"][0]
    left, top, right, bottom = record["view"]["crop_box"]
    about |= {
        **{name: record[name] for name in ("width", "height", "exif_orientation", "model")},
        **{f"predicted_{name}": best[name] for name in _PREDICTION},
        "crop_left": left, "crop_top": top, "crop_right": right, "crop_bottom": bottom,
        "npz": npz,
    }  # fmt: skip
    return [_cells(about | _of_map(entry, result, base)) for entry in record["explanations"]]


def _place(result: Result, name: str, base: Path) -> str:
    """Where an output is; what is in a tar has a path as if that were a folder."""
    return relative(result.directory / result.stored.place(name), base)


def _of_map(entry: Record, result: Result, base: Path) -> Row:
    cam, target = entry["cam"], entry["target"]
    x, y = entry["peak_xy"] or (None, None)
    left, top, right, bottom = entry["hot_box"] or (None,) * 4
    rows, columns = cam["shape"]
    return {
        **{name: entry[name] for name in _FIGURES},
        "target_index": target["index"],
        "target_against": target["against"],
        "target_label": target["label"],
        **{f"cam_{name}": cam[name] for name in ("min", "max", "sum", "status")},
        "cam_rows": rows, "cam_columns": columns,
        "smoothing": "+".join(entry["smoothing"]),
        "peak_x": x, "peak_y": y,
        "hot_left": left, "hot_top": top, "hot_right": right, "hot_bottom": bottom,
        "overlay": _place(result, entry["overlay"], base) if entry["overlay"] else None,
        "npz_key": cam["npz_key"], "npz_row": cam["npz_row"],
    }  # fmt: skip


def _cells(row: Row) -> Row:
    return {name: _cell(value) for name, value in row.items()}


def _cell(value: object) -> object:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return value


_PREDICTION = ("index", "label", "logit", "probability")
_FIGURES = ("method", "layer", "score", "remainder", "outside_grid", "baseline",
            "completeness_error", "location_error", "faithful", "hot_fraction")  # fmt: skip
COLUMNS = (
    "key", "path", "status", "error_type", "error_message", "error_stage",
    "width", "height", "exif_orientation", "model",
    *(f"predicted_{name}" for name in _PREDICTION),
    "method", "layer", "target_index", "target_against", "target_label", "score",
    "cam_min", "cam_max", "cam_sum", "cam_status", "cam_rows", "cam_columns",
    "remainder", "outside_grid", "baseline", "completeness_error", "location_error", "faithful",
    "smoothing", "peak_x", "peak_y", "hot_left", "hot_top", "hot_right", "hot_bottom",
    "hot_fraction", "crop_left", "crop_top", "crop_right", "crop_bottom",
    "overlay", "npz", "npz_key", "npz_row", "sha256", "config_hash",
)  # fmt: skip
