"""Hot regions as COCO annotations: a box, an RLE mask, an area, on the upright source picture."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

import camcli
from camcli.export.reading import Reading, relative
from camcli.images.geometry import Geometry
from camcli.images.region import Bools, hot_mask
from camcli.outputs.arrays import Maps
from camcli.outputs.record import Record
from camcli.outputs.results import Result

Json = dict[str, Any]


def write(
    run: Reading, file: BinaryIO, base: Path, threshold: float, advance: Callable[[], None]
) -> None:
    """COCO JSON, one record after another; `file_name` is as seen from `base`.

    A category is a class and its id the class's index; contrasts come after the last class. Maps
    without a hottest place have no annotation, failed pictures no image: their size is not known.
    """
    categories = Categories(run.labels)
    # Two lists are written at once; the second waits beside the file, not in memory.
    with tempfile.TemporaryFile(dir=Path(file.name).parent) as annotations:
        file.write(b'{"info": ' + _json(_info(threshold)) + b', "licenses": [], "images": [')
        drawn = 0
        pictures = filter(None, run.converted(_Converter(base, threshold)))
        for number, (image, found) in enumerate(pictures, 1):
            file.write((b",\n" if number > 1 else b"\n") + _json({"id": number} | image))
            for target, annotation in found:
                drawn += 1
                ids = {"id": drawn, "image_id": number, "category_id": categories.id(target)}
                annotations.write((b",\n" if drawn > 1 else b"\n") + _json(ids | annotation))
            advance()
        file.write(b'\n], "annotations": [')
        annotations.seek(0)
        shutil.copyfileobj(annotations, file)
    file.write(b'\n], "categories": ' + _json(categories.listed()) + b"}\n")


@dataclass
class Categories:
    """Classes by their index; what is a contrast of two gets the next number after the classes."""

    labels: list[str]
    contrasts: dict[tuple[int | None, int], tuple[int, str]] = field(default_factory=dict)

    def id(self, target: Json) -> int:
        """The id of a record's target."""
        if target["against"] is None:
            return int(target["index"])
        pair = target["index"], target["against"]
        number = len(self.labels) + len(self.contrasts)
        return self.contrasts.setdefault(pair, (number, target["label"]))[0]

    def listed(self) -> list[Json]:
        """Every category there is."""
        named = [*enumerate(self.labels), *self.contrasts.values()]
        return [{"id": number, "name": name, "supercategory": ""} for number, name in named]


@dataclass(frozen=True)
class _Converter:
    base: Path
    threshold: float

    def __call__(self, result: Result) -> tuple[Json, list[tuple[Json, Json]]] | None:
        """The image, and for each hot region its target and the rest of its annotation."""
        if not result.explained:
            return None
        record = result.record()
        maps, geometry = result.maps()
        image = {
            "file_name": relative(result.source, self.base),
            "width": record["width"],
            "height": record["height"],
            "key": result.key,
            "sha256": record["sha256"],
        }
        pairs = zip(record["explanations"], maps, strict=True)
        found = [(entry, self._annotation(entry, cam, geometry)) for entry, cam in pairs]
        return image, [(entry["target"], made) for entry, made in found if made is not None]

    def _annotation(self, entry: Record, cam: Maps, geometry: Geometry) -> Json | None:
        if entry["cam"]["status"] != "ok":
            return None
        mask = hot_mask(cam, geometry, self.threshold)
        if not mask.any():  # nothing but padding is hot, or less than a pixel of the picture
            return None
        return {
            "bbox": box(mask),
            "area": int(mask.sum()),
            "segmentation": {"size": list(mask.shape), "counts": run_lengths(mask)},
            "iscrowd": 0,
            "attributes": {
                name: entry[name]
                for name in ("method", "layer", "score", "faithful", "completeness_error")
            },
        }


def box(mask: Bools) -> list[int]:
    """[x, y, width, height] of a mask that is not empty."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    x, y = int(columns[0]), int(rows[0])
    return [x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y]


def run_lengths(mask: Bools) -> list[int]:
    """COCO's uncompressed RLE: down the columns, how many zeros, then ones, then zeros, ..."""
    line = mask.ravel(order="F")
    turns = np.flatnonzero(line[1:] != line[:-1]) + 1
    lengths = np.diff(np.concatenate(([0], turns, [line.size]))).tolist()
    return [0, *lengths] if line[0] else lengths


def _info(threshold: float) -> Json:
    return {
        "description": "Largest connected region at or above "
        f"{threshold:g} of each class activation map's maximum, in pixels of the upright picture "
        "(EXIF orientation applied).",
        "version": camcli.__version__,
        "threshold": threshold,
    }


def _json(content: object) -> bytes:
    return json.dumps(content, ensure_ascii=True).encode()
