"""A batch of decoded pictures -> their explanations. No threads, no disk."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from camcli.cam import targets
from camcli.cam.layers import Layer
from camcli.cam.methods import LayerCapture, hirescam
from camcli.cam.targets import Choose, NoTargetError
from camcli.cam.worth import COMPLETE, Probe, completeness_error, location_error
from camcli.images.decode import failure
from camcli.models.inspection import chosen_layers, probe
from camcli.models.loaded import LoadedModel, recording
from camcli.records import Cam, Decoded, Explanation, Failure, Prediction, Target
from camcli.registry import Method, find_method

_PREDICTIONS = 5


@dataclass(frozen=True)
class _Maps:
    """One method on one layer for one target of every picture, on the CPU. All but cam are (N,)."""

    method: Method
    layer: Layer
    cam: Tensor
    score: Tensor
    outside: Tensor
    baseline: Tensor | None
    completeness: Tensor | None
    location: Tensor | None


class Engine:
    """A model, ready to explain batches with fixed methods, layers and targets.

    Every batch is padded to `batch_size`, so that a map has the same bits whatever its
    neighbours. Raises UsageError for a method, layer or class that does not exist.
    """

    @recording()
    def __init__(
        self,
        model: LoadedModel,
        *,
        methods: Sequence[str] = ("hirescam",),
        layers: Sequence[str] = ("auto",),
        target: str = "predicted",
        batch_size: int = 16,
    ) -> None:
        self.model = model
        self.methods = [find_method(name) for name in dict.fromkeys(methods)]
        self.choose: Choose = targets.parse_target(target, model.classes)
        self.layers = chosen_layers(model, layers)
        self.probes: dict[Layer, Probe] = {layer: probe(model, layer) for layer in self.layers}
        self.batch_size = batch_size

    def prepared(self) -> AbstractContextManager[None]:
        """The model's state while batches are explained; restored afterwards."""
        return self.model.network.prepared()

    @recording()
    def explain(self, pictures: Sequence[Decoded]) -> list[Explanation | Failure]:
        """Up to `batch_size` pictures -> one Explanation or Failure each, in order."""
        blank = np.zeros_like(pictures[0].view)
        padding = [blank] * (self.batch_size - len(pictures))
        x = self.model.inputs([*(picture.view for picture in pictures), *padding])
        logits, outputs = self.model.capture(x, self.layers)
        predictions = self._predictions(logits.detach(), len(pictures))
        chosen = [
            self._targets(picture, ranked)
            for picture, (ranked, _) in zip(pictures, predictions, strict=True)
        ]
        rounds = max((len(t) for t in chosen if not isinstance(t, Failure)), default=0)
        maps = []
        for k in range(rounds):
            row = [t[k] if not isinstance(t, Failure) and k < len(t) else Target(None)
                   for t in chosen]  # fmt: skip
            row += [Target(None)] * len(padding)
            maps.append(self._maps(logits, outputs, row, last=k == rounds - 1))
        return [
            own
            if isinstance(own, Failure)
            else Explanation(
                picture,
                self.model.name,
                predictions[n][1],
                tuple(self._cam(m, n, target) for k, target in enumerate(own) for m in maps[k]),
            )
            for n, (picture, own) in enumerate(zip(pictures, chosen, strict=True))
        ]

    def _predictions(
        self, logits: Tensor, count: int
    ) -> list[tuple[list[int], tuple[Prediction, ...]]]:
        """Each picture's classes from the most to the least likely, and the first few in full."""
        order = logits.argsort(dim=1, descending=True, stable=True)[:count].cpu()
        probabilities = self.model.probabilities(logits).cpu()
        values = logits.cpu()
        label = self.model.classes.label
        return [
            (
                ranked.tolist(),
                tuple(
                    Prediction(i, label(i), float(values[n, i]), float(probabilities[n, i]))
                    for i in ranked[:_PREDICTIONS].tolist()
                ),
            )
            for n, ranked in enumerate(order)
        ]

    def _targets(self, picture: Decoded, ranked: list[int]) -> tuple[Target, ...] | Failure:
        try:
            return self.choose(picture.ref, ranked)
        except NoTargetError as error:
            return failure(picture.ref, picture.facts, error, "target")

    def _maps(
        self, logits: Tensor, outputs: Sequence[Tensor], row: Sequence[Target], last: bool
    ) -> list[_Maps]:
        """One backward pass through the head, and every method's map on every layer."""
        score = targets.score(logits, row)
        gradients = torch.autograd.grad(score.sum(), outputs, retain_graph=not last)
        score = score.detach()
        return [
            self._map(method, layer, output.detach().float(), gradient.float(), score, row)
            for layer, output, gradient in zip(self.layers, outputs, gradients, strict=True)
            for method in self.methods
        ]

    def _map(
        self,
        method: Method,
        layer: Layer,
        output: Tensor,
        gradient: Tensor,
        score: Tensor,
        row: Sequence[Target],
    ) -> _Maps:
        grid, known = layer.grid, self.probes[layer]
        capture = LayerCapture(grid.maps(output), grid.maps(gradient))
        cam = method.function(capture)
        outside = (grid.outside(output) * grid.outside(gradient)).sum(dim=(1, 2))
        baseline = completeness = location = None
        if method.units == "score" and known.baseline is not None:
            baseline = targets.score(known.baseline.expand(len(row), -1), row)
            mass = (capture.activation * capture.gradient).abs().sum(dim=(1, 2, 3))
            if known.score in ("exact", "first_order"):
                total = cam.sum(dim=(1, 2))
                completeness = completeness_error(score, baseline, total, mass).cpu()
            if known.score == "exact":
                location = location_error(cam, hirescam(capture)).cpu()
            baseline = baseline.cpu()
        return _Maps(
            method, layer, cam.cpu(), score.cpu(), outside.cpu(), baseline, completeness, location
        )

    def _cam(self, maps: _Maps, n: int, target: Target) -> Cam:
        cam = maps.cam[n].numpy().copy()
        in_units = maps.method.units == "score"
        score = float(maps.score[n])
        completeness = _at(maps.completeness, n)
        location = _at(maps.location, n)
        return Cam(
            method=maps.method.name,
            layer=maps.layer.name,
            target=target,
            label=self.model.classes.name(target),
            score=score,
            cam=cam,
            remainder=score - float(cam.sum(dtype=np.float64)) if in_units else None,
            outside_grid=float(maps.outside[n]) if in_units else None,
            baseline=_at(maps.baseline, n),
            completeness_error=completeness,
            location_error=location,
            faithful=completeness is not None
            and completeness <= COMPLETE
            and location is not None
            and location <= COMPLETE,
        )


def _at(values: Tensor | None, n: int) -> float | None:
    return None if values is None else float(values[n])
