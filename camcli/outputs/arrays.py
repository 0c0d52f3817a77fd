"""The NPZ of one picture: raw signed maps and what they belong to. No pickle."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from camcli.images.geometry import Geometry
from camcli.records import Cam, Explanation

SCHEMA_VERSION = 1
Maps = npt.NDArray[np.float32]


def array_keys(cams: Sequence[Cam]) -> list[tuple[str, int]]:
    """For each map, the array that holds it and its row there.

    Maps of the first one's shape are in `cams`; every further shape has an array of its own.
    """
    names: dict[tuple[int, ...], str] = {}
    counts: dict[str, int] = {}
    keys = []
    for cam in cams:
        name = names.setdefault(cam.cam.shape, f"cams_{len(names) + 1}" if names else "cams")
        keys.append((name, counts.get(name, 0)))
        counts[name] = counts.get(name, 0) + 1
    return keys


def encode(explanation: Explanation) -> bytes:
    """The bytes of an NPZ file; the same explanation gives the same bytes.

    `method`, `layer`, `target_index`, `target_against`, `score`, `array` and `row` have one entry
    a map, in the order of the JSON record; an absent class is -1.
    """
    cams = explanation.cams
    keys = array_keys(cams)
    stacks: dict[str, list[Maps]] = {}
    for cam, (name, _) in zip(cams, keys, strict=True):
        stacks.setdefault(name, []).append(cam.cam)
    geometry = explanation.image.geometry
    arrays: dict[str, npt.NDArray[np.generic]] = {
        **{name: np.stack(maps) for name, maps in stacks.items()},
        "method": np.array([cam.method for cam in cams]),
        "layer": np.array([cam.layer for cam in cams]),
        "target_index": np.array([_index(cam.target.index) for cam in cams], np.int64),
        "target_against": np.array([_index(cam.target.against) for cam in cams], np.int64),
        "score": np.array([cam.score for cam in cams], np.float64),
        "array": np.array([name for name, _ in keys]),
        "row": np.array([row for _, row in keys], np.int64),
        "image_size": np.array(geometry.source, np.int64),
        "view_size": np.array(geometry.view, np.int64),
        "crop_box": np.array(geometry.box, np.float64),
        "schema_version": np.array(SCHEMA_VERSION, np.int64),
    }
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def read(path: Path | BinaryIO) -> tuple[list[Maps], Geometry]:
    """The maps of an NPZ in the order of its record, and the geometry to draw them by."""
    with np.load(path, allow_pickle=False) as file:
        maps = _maps(file, [str(name) for name in file["array"]], file["row"].tolist())
        width, height = (int(v) for v in file["image_size"])
        across, down = (int(v) for v in file["view_size"])
        left, top, right, bottom = (float(v) for v in file["crop_box"])
    return maps, Geometry((width, height), (across, down), (left, top, right, bottom))


def maps_of(path: Path | BinaryIO, names: Sequence[str], rows: Sequence[int]) -> list[Maps]:
    """The maps in these rows of these arrays, as the record names them, and nothing else."""
    with np.load(path, allow_pickle=False) as file:
        return _maps(file, names, rows)


def _maps(file: Mapping[str, Maps], names: Sequence[str], rows: Sequence[int]) -> list[Maps]:
    stacks = {name: file[name] for name in dict.fromkeys(names)}  # reading one takes a while
    return [stacks[name][row] for name, row in zip(names, rows, strict=True)]


def _index(index: int | None) -> int:
    return -1 if index is None else index
