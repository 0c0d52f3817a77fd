"""Explanations made by hand, for tests of what is written."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from camcli.images.geometry import Geometry
from camcli.records import (
    Cam,
    Decoded,
    Explanation,
    Failure,
    FileFacts,
    ImageRef,
    Prediction,
    Target,
)

FACTS = FileFacts(1234, 5678, "0" * 63 + "f")
# The middle 80x60 of a 120x60 photo, seen through a 64x48 view.
CROPPED = Geometry((120, 60), (64, 48), (20.0, 0.0, 100.0, 60.0))


def gray(size: tuple[int, int] = (120, 60), seed: int = 0) -> Image.Image:
    """A gray photo: whatever is coloured on an overlay was put there."""
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0]), np.uint8)
    return Image.fromarray(values).convert("RGB")


def a_map(shape: tuple[int, int] = (3, 4), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def a_cam(cam: np.ndarray, **fields: object) -> Cam:
    """A map and what is known of it; `fields` replace the ordinary values."""
    known: dict[str, object] = {
        "method": "hirescam", "layer": "features", "target": Target(1), "label": "tabby",
        "score": 9.5, "cam": cam, "remainder": 0.25, "outside_grid": 0.0, "baseline": 0.25,
        "completeness_error": 1e-7, "location_error": 0.0, "faithful": True,
    }  # fmt: skip
    return Cam(**known | fields)


def explanation(
    cams: Sequence[Cam], path: str = "cats/a.jpg", key: str = "cats/a.jpg",
    geometry: Geometry = CROPPED,
) -> Explanation:  # fmt: skip
    """What the engine yields for one picture."""
    image = Decoded(
        ref=ImageRef(path, key),
        facts=FACTS,
        exif_orientation=6,
        geometry=geometry,
        view=np.zeros((geometry.view[1], geometry.view[0], 3), np.uint8),
        canvas=gray(geometry.source),
    )
    predictions = (Prediction(1, "tabby", 9.5, 0.9), Prediction(0, "tiger cat", 1.5, 0.1))
    return Explanation(image, "small", predictions, tuple(cams))


def a_failure(path: str = "cats/b.jpg", key: str = "cats/b.jpg", **fields: object) -> Failure:
    known: dict[str, object] = {
        "facts": FACTS, "type": "OSError", "message": "image file is truncated",
        "stage": "decode", "transient": False,
    }  # fmt: skip
    return Failure(ImageRef(path, key), **known | fields)
