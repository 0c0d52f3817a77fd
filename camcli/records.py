"""The frozen records that flow from a path on disk to an overlay."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from PIL.Image import Image

    from camcli.images.geometry import Geometry

Stage = Literal["read", "decode", "target", "explain", "write"]
Score = Literal["exact", "first_order", "scale_invariant", "bypassed"]
Precision = Literal["fp32", "bf16", "fp16"]
Smoothing = Literal["flip", "scale", "eigen"]
CamStatus = Literal["ok", "all_negative", "constant", "nonfinite"]


@dataclass(frozen=True)
class ModelRequest:
    """Which model, in the user's words."""

    name: str
    weights: str = "DEFAULT"
    labels: str | None = None
    device: str = "auto"
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    """Overrides of the fields of Preprocessing."""
    arch: str | None = None
    """The architecture of a file that holds weights only."""
    trust: bool = False
    """Whether opening the file may run code that it holds."""
    output: str | int | None = None
    """Where the logits are in what the model returns: a key, an attribute or a place."""
    activation: Literal["auto", "softmax", "sigmoid"] = "auto"
    precision: Precision = "fp32"
    """That of the operators in front of the layer."""


CLASS_FIELDS = ("class_index", "index", "class", "label", "target", "cls")
"""What files that name the class of a picture call it."""


class ImageRef(NamedTuple):
    """One input, named but not opened. `key` names its outputs, `path` is as given or found."""

    path: str
    key: str
    label: str | None = None
    """The class that lies beside it in an archive."""


@dataclass(frozen=True)
class FileFacts:
    """What identifies the bytes that were read."""

    size: int
    mtime_ns: int
    sha256: str = ""


@dataclass(frozen=True)
class Decoded:
    """One picture, upright, as the network sees it and as the overlay is drawn on."""

    ref: ImageRef
    facts: FileFacts
    exif_orientation: int
    geometry: Geometry
    view: npt.NDArray[np.uint8]
    """The network's view, (H, W, 3), RGB, not normalised."""
    canvas: Image | None
    """The upright picture reduced to the overlay's size; None where no overlay is wanted."""

    @property
    def nbytes(self) -> int:
        """Bytes held while this picture is in flight."""
        pixels = self.canvas.width * self.canvas.height if self.canvas else 0
        return self.view.nbytes + 3 * pixels


@dataclass(frozen=True)
class Failure:
    """A picture that could not be explained: a value, not an exception."""

    ref: ImageRef
    facts: FileFacts | None
    type: str
    message: str
    stage: Stage
    transient: bool = False
    """True where trying again later may help (an I/O error, no permission, no memory)."""

    @property
    def nbytes(self) -> int:
        return 0


@dataclass(frozen=True)
class Prediction:
    index: int
    label: str
    logit: float
    probability: float


@dataclass(frozen=True)
class Target:
    """The score to explain: logit[index] - logit[against]; a missing term is zero."""

    index: int | None
    against: int | None = None


@dataclass(frozen=True)
class Cam:
    """One map, and what it is worth."""

    method: str
    layer: str
    target: Target
    label: str
    score: float
    cam: npt.NDArray[np.float32]
    """The raw signed map, (h, w), on the layer's grid."""
    remainder: float | None
    """score - sum of the map; None for maps that are not in score units."""
    outside_grid: float | None
    """The share of the score's first-order sum that lies on class and register tokens."""
    baseline: float | None
    """The target's score with the layer's activation set to zero; None where it has no meaning."""
    completeness_error: float | None
    location_error: float | None
    faithful: bool
    smoothing: tuple[Smoothing, ...] = ()
    """What was averaged over; a smoothed map guarantees nothing."""

    @property
    def status(self) -> CamStatus:
        """Whether the map shows anything: a constant or negative map has no hottest place."""
        low, high = float(self.cam.min()), float(self.cam.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            return "nonfinite"
        if high == low:
            return "constant"
        return "all_negative" if high <= 0 else "ok"


@dataclass(frozen=True)
class Explanation:
    """Everything known about one picture; what the sink writes and the API yields."""

    image: Decoded
    model: str
    predictions: tuple[Prediction, ...]
    cams: tuple[Cam, ...]

    @property
    def ref(self) -> ImageRef:
        return self.image.ref

    @property
    def nbytes(self) -> int:
        return self.image.nbytes + sum(cam.cam.nbytes for cam in self.cams)
