"""Decoding for tests: the picture itself, or the failure."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from camcli.images.decode import DecodeSettings, decode
from camcli.images.preprocess import Preprocessing
from camcli.records import Decoded, Failure, ImageRef

SIZE = (40, 30)
# As small a preparation as there is, so that `canvas` shows the decoded picture itself.
PREPARE = Preprocessing((8, 8), 8, (0.5,) * 3, (0.5,) * 3, "bilinear", "squash", "a test")
SETTINGS = DecodeSettings(PREPARE, 1024, 10_000)


def decoded(path: Path) -> np.ndarray:
    outcome = decode(ImageRef(str(path), path.name), SETTINGS)
    assert isinstance(outcome, Decoded), outcome
    assert outcome.canvas is not None
    assert outcome.canvas.mode == "RGB"
    return np.asarray(outcome.canvas)


def failed(path: Path, settings: DecodeSettings = SETTINGS) -> Failure:
    outcome = decode(ImageRef(str(path), path.name), settings)
    assert isinstance(outcome, Failure), outcome
    return outcome
