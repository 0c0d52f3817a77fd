"""What maps at the layers of one network are worth, measured on real pictures."""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from camcli.cam.layers import Layer
from camcli.engine import Engine
from camcli.images.decode import DecodeSettings
from camcli.models.inspection import default_layer, explainable, layers_of
from camcli.models.loaded import LoadedModel
from camcli.pipeline import explained
from camcli.records import Cam, Explanation, Failure, ImageRef, Score

METHODS = ("hirescam", "gradcam")
_BATCH = 4  # every layer's activations are held at once


@dataclass(frozen=True)
class Spread:
    """A measurement over the pictures for which it means something."""

    low: float
    median: float
    high: float


@dataclass(frozen=True)
class LayerWorth:
    """What is measured at one layer, each by method; None where it has no meaning there."""

    layer: Layer
    default: bool
    score: Score
    pictures: int
    completeness_error: dict[str, Spread | None]
    ratio: dict[str, Spread | None]
    """Sum of a map / score change: 1 where the map accounts for it."""


@dataclass
class _Values:
    errors: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)

    def add(self, cam: Cam) -> None:
        if cam.completeness_error is None or cam.baseline is None or cam.remainder is None:
            return
        self.errors.append(cam.completeness_error)
        if cam.score != cam.baseline:
            self.ratios.append((cam.score - cam.remainder) / (cam.score - cam.baseline))


def candidates(model: LoadedModel, count: int | None) -> list[Layer]:
    """The default layer and those before it that can be explained; the last `count` of them."""
    layers = layers_of(model)
    before = layers[: layers.index(default_layer(model, layers)) + 1]
    found = explainable(model, before)
    return found if count is None else found[-count:]


class LayerProbe:
    """HiResCAM and Grad-CAM of the predicted class on some layers, all in one run."""

    def __init__(self, model: LoadedModel, layers: Iterable[Layer]) -> None:
        self.layers = list(layers)
        self.engine = Engine(
            model,
            methods=METHODS,
            layers=[layer.name for layer in self.layers],
            batch_size=_BATCH,
        )
        self._values = {(m, layer.name): _Values() for layer in self.layers for m in METHODS}
        self._pictures = 0

    def measure(self, refs: Iterable[ImageRef], max_pixels: int) -> Iterator[Failure | None]:
        """Explain the pictures; a Failure, or None, for each as it is done."""
        settings = DecodeSettings(self.engine.model.preprocessing, None, max_pixels)
        for outcome in explained(self.engine, refs, settings, os.cpu_count() or 1):
            if isinstance(outcome, Explanation):
                self._pictures += 1
                for cam in outcome.cams:
                    self._values[cam.method, cam.layer].add(cam)
                yield None
            else:
                yield outcome

    def records(self) -> list[LayerWorth]:
        """What was measured, in the order of the layers; the last one is the default."""
        return [
            LayerWorth(
                layer,
                layer == self.layers[-1],
                self.engine.probes[layer].score,
                self._pictures,
                {m: _spread(self._values[m, layer.name].errors) for m in METHODS},
                {m: _spread(self._values[m, layer.name].ratios) for m in METHODS},
            )
            for layer in self.layers
        ]


def _spread(values: list[float]) -> Spread | None:
    if not values:
        return None
    return Spread(min(values), statistics.median(values), max(values))
