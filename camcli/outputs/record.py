"""The JSON record of one input (`schema.json` beside this file describes it)."""

from __future__ import annotations

import base64
import json
import math
import os
from collections.abc import Sequence
from typing import Any

from camcli.images.region import hot_region, peak
from camcli.outputs.arrays import SCHEMA_VERSION, array_keys
from camcli.outputs.files import crc32
from camcli.records import Cam, Explanation, Failure, ImageRef

Record = dict[str, Any]


def record(
    outcome: Explanation | Failure,
    config_hash: str = "",
    overlays: Sequence[tuple[str, str] | None] = (),
) -> Record:
    """The record of an explanation or a failure, ready for JSON.

    `overlays` are the overlay files of the maps, relative to the output directory, and their CRCs.
    """
    if isinstance(outcome, Failure):
        return {
            **_common(outcome.ref, "error"),
            "sha256": (outcome.facts.sha256 or None) if outcome.facts else None,
            "error": {
                "type": outcome.type,
                "message": outcome.message,
                "stage": outcome.stage,
                "transient": outcome.transient,
            },
            "config_hash": config_hash,
        }
    image, geometry = outcome.image, outcome.image.geometry
    drawn = overlays or [None] * len(outcome.cams)
    return {
        **_common(outcome.ref, "ok"),
        "sha256": image.facts.sha256,
        "width": geometry.source[0],
        "height": geometry.source[1],
        "exif_orientation": image.exif_orientation,
        "view": {"size": list(geometry.view), "crop_box": list(geometry.box)},
        "model": outcome.model,
        "predictions": [
            {
                "index": p.index,
                "label": p.label,
                "logit": _finite(p.logit),
                "probability": _finite(p.probability),
            }
            for p in outcome.predictions
        ],
        "explanations": [
            _explanation(outcome, cam, key, overlay)
            for cam, key, overlay in zip(outcome.cams, array_keys(outcome.cams), drawn, strict=True)
        ],
        "config_hash": config_hash,
    }


def encoded(made: Record) -> bytes:
    """The record as a file."""
    return json.dumps(made, indent=1, ensure_ascii=True).encode() + b"\n"


def record_crc32(made: Record) -> str:
    """The CRC of what a record says, but for its overlays, which may be drawn again."""
    kept = {name: value for name, value in made.items() if name != "explanations"}
    kept["explanations"] = [
        {name: value for name, value in entry.items() if not name.startswith("overlay")}
        for entry in made.get("explanations", ())
    ]
    return crc32(json.dumps(kept, sort_keys=True).encode())


def _common(ref: ImageRef, status: str) -> Record:
    raw = os.fsencode(ref.path)
    text = raw.decode("utf-8", "replace")
    undecodable = os.fsencode(text) != raw
    return {
        "schema_version": SCHEMA_VERSION,
        "status": status,
        "path": text,
        "key": ref.key,
        **({"path_b64": base64.b64encode(raw).decode()} if undecodable else {}),
    }


def _explanation(
    explanation: Explanation, cam: Cam, key: tuple[str, int], overlay: tuple[str, str] | None
) -> Record:
    geometry, status = explanation.image.geometry, cam.status
    shown = status == "ok"
    region = hot_region(cam.cam, geometry) if shown else None
    return {
        "method": cam.method,
        "layer": cam.layer,
        "target": {"index": cam.target.index, "against": cam.target.against, "label": cam.label},
        "score": _finite(cam.score),
        "cam": {
            "npz_key": key[0],
            "npz_row": key[1],
            "shape": list(cam.cam.shape),
            "min": _finite(float(cam.cam.min())),
            "max": _finite(float(cam.cam.max())),
            "sum": _finite(float(cam.cam.sum(dtype="float64"))),
            "status": status,
        },
        "remainder": _finite(cam.remainder),
        "outside_grid": _finite(cam.outside_grid),
        "baseline": _finite(cam.baseline),
        "completeness_error": _finite(cam.completeness_error),
        "location_error": _finite(cam.location_error),
        "faithful": cam.faithful,
        "smoothing": list(cam.smoothing),
        "peak_xy": list(peak(cam.cam, geometry)) if shown else None,
        "hot_box": list(region.box) if region and region.box else None,
        "hot_fraction": region.fraction if region else None,
        "overlay": overlay and overlay[0],
        "overlay_crc32": overlay and overlay[1],
    }


def _finite(value: float | None) -> float | None:
    """JSON has no NaN and no infinity."""
    return value if value is not None and math.isfinite(value) else None
