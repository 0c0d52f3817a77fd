"""Maps as the heatmaps of a FiftyOne dataset, and their hot boxes as its detections.

The directory is what `fiftyone.Dataset.from_dir` reads as `fiftyone.types.FiftyOneDataset`:
metadata.json, samples.json, and a folder below `fields` for each field of heatmaps. Without a
`version` in metadata.json FiftyOne infers the fields from the samples, whatever its own version.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import camcli
from camcli.errors import OutputError
from camcli.export.leftovers import BEFORE, held, sweep_directories
from camcli.export.reading import Reading, relative
from camcli.images.geometry import Geometry
from camcli.outputs.arrays import Maps
from camcli.outputs.files import writing
from camcli.outputs.record import Record
from camcli.outputs.results import Result
from camcli.shard import WHOLE

Json = dict[str, Any]
_LEVELS = 255


def write(run: Reading, folder: Path, base: Path, advance: Callable[[], None]) -> None:
    """The dataset directory, whole or not at all; `filepath` is as seen from `base`.

    Failed pictures are no samples. Heatmaps are 8-bit PNGs of the whole upright picture, 255 at
    the map's maximum (`max` has its value), 0 where the map is negative or the network saw nothing.
    """
    with _replaced(folder) as made, open(made / "samples.json", "wb") as file:
        separator = b'{"samples": ['
        convert = _Converter(base, made, Path(os.path.realpath(folder)), run.layered)
        for sample in filter(None, run.converted(convert)):
            file.write(separator + b"\n" + json.dumps(sample, ensure_ascii=True).encode())
            separator = b","
            advance()
        file.write(b"\n]}\n" if separator == b"," else separator + b"]}\n")
        about = {"camcli_version": camcli.__version__, "model": run.model}
        metadata = {"media_type": "image", "info": about}
        (made / "metadata.json").write_text(json.dumps(metadata, indent=1), encoding="ascii")


@contextmanager
def _replaced(folder: Path) -> Iterator[Path]:
    """A new directory to fill, which takes the place of an earlier export when the block ends."""
    if folder.exists() and not _ours(folder):
        raise OutputError(f"'{folder}' is no FiftyOne export of camcli's; choose another with -o")
    sweep_directories(folder)
    beside = folder.with_name(f"{WHOLE.temporary}{os.getpid()}-{folder.name}")
    before = folder.with_name(f"{beside.name}{BEFORE}")
    try:
        with writing(folder.parent):
            beside.mkdir(parents=True)
        with writing(folder.parent), held(beside):
            yield beside
            if folder.exists():
                folder.rename(before)
            beside.rename(folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
        shutil.rmtree(before, ignore_errors=True)


def _ours(folder: Path) -> bool:
    try:
        content = json.loads((folder / "metadata.json").read_bytes())
        return "camcli_version" in content["info"]
    except (OSError, ValueError, KeyError, TypeError):
        return False


@dataclass(frozen=True)
class _Converter:
    base: Path
    made: Path
    folder: Path
    layered: bool

    def __call__(self, result: Result) -> Json | None:
        """The sample of one picture; its heatmaps are written on the way."""
        if not result.explained:
            return None
        record = result.record()
        maps, geometry = result.maps()
        best = record["predictions"][0]
        sample: Json = {
            "filepath": relative(result.source, self.base),
            "tags": [],
            "_media_type": "image",
            "metadata": {
                "_cls": "ImageMetadata",
                "width": record["width"],
                "height": record["height"],
            },
            "key": result.key,
            "predicted": {
                "_cls": "Classification",
                "label": best["label"],
                "confidence": best["probability"],
            },
        }
        for entry, cam in zip(record["explanations"], maps, strict=True):
            name = self._field(entry, sample)
            sample[name] = self._heatmap(entry, cam, geometry, f"fields/{name}/{result.key}.png")
            sample[f"{name}_box"] = _detections(entry, geometry)
        return sample

    def _field(self, entry: Record, taken: Json) -> str:
        """`hirescam`, with the layer where a run has several, and the rank of a further target."""
        parts = [entry["method"], *([entry["layer"]] if self.layered else [])]
        name = re.sub(r"\W+", "_", "_".join(parts), flags=re.ASCII)
        ranks = (f"{name}_{rank}" for rank in range(2, len(taken) + 3))
        return name if name not in taken else next(rank for rank in ranks if rank not in taken)

    def _heatmap(self, entry: Record, cam: Maps, geometry: Geometry, name: str) -> Json:
        path = self.made / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(heat(cam, geometry)).save(path)
        return {
            "_cls": "Heatmap",
            "map_path": relative(self.folder / name, self.base),
            "range": [0, _LEVELS],
            **{field: entry[field] for field in ("method", "layer", "score", "faithful")},
            "label": entry["target"]["label"],
            "max": entry["cam"]["max"],
            "status": entry["cam"]["status"],
        }


def heat(cam: Maps, geometry: Geometry) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """The levels of the whole upright picture, about as many pixels as the network saw of it."""
    left, top, right, bottom = geometry.box
    scale = min(1.0, max(geometry.view[0] / (right - left), geometry.view[1] / (bottom - top)))
    width, height = (max(1, round(side * scale)) for side in geometry.source)
    shown = np.maximum(np.nan_to_num(cam, nan=0.0, posinf=0.0, neginf=0.0), 0)
    top_value = float(shown.max()) or 1.0
    levels = geometry.on_canvas(shown, (width, height)) / top_value * _LEVELS
    drawn: np.ndarray[tuple[int, ...], np.dtype[np.uint8]] = np.clip(
        levels + 0.5, 0, _LEVELS
    ).astype(np.uint8)
    return drawn


def _detections(entry: Record, geometry: Geometry) -> Json:
    """The hot box in shares of the picture's sides, as FiftyOne has boxes."""
    found = []
    if entry["hot_box"] is not None:
        left, top, right, bottom = entry["hot_box"]
        width, height = geometry.source
        shares = [left / width, top / height, (right - left) / width, (bottom - top) / height]
        found = [{"_cls": "Detection", "label": entry["target"]["label"], "bounding_box": shares}]
    return {"_cls": "Detections", "detections": found}
