"""A batch of decoded pictures -> their explanations. No threads, no disk."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from torch import Tensor

from camcli.cam import methods as _registered  # noqa: F401 (by being imported)
from camcli.cam import smoothing, targets
from camcli.cam.capture import LayerCapture
from camcli.cam.layers import Layer
from camcli.cam.targets import Choose, NoTargetError
from camcli.cam.worth import COMPLETE, Probe, Worth, measured
from camcli.errors import ModelError, UsageError
from camcli.images.decode import failure
from camcli.memory import fitting, unless_it_runs_out
from camcli.models.inspection import (
    chosen_layers,
    input_layer,
    largest_map,
    layers_of,
    probe,
    settled,
    stages,
    synthetic_pictures,
)
from camcli.models.loaded import LoadedModel, recording
from camcli.models.passes import Pass
from camcli.models.transfer import to_host, wait
from camcli.records import Cam, Decoded, Explanation, Failure, Prediction, Smoothing, Target
from camcli.registry import Method, find_methods

_PREDICTIONS = 5


@dataclass(frozen=True)
class _Maps:
    """One method on one layer for one target of every picture, (N, h, w) and (N,)."""

    method: Method
    layer: str
    cam: Tensor
    score: Tensor
    worth: Worth


class Engine:
    """A model, ready to explain batches with fixed methods, layers and targets.

    Every batch is padded to `batch_size`, so that a map has the same bits whatever its
    neighbours; None takes what memory allows, and where that runs out it is halved. Raises
    UsageError for a method, layer or class that does not exist, or that the model cannot serve.
    """

    @recording()
    def __init__(
        self,
        model: LoadedModel,
        *,
        methods: Sequence[str] = ("hirescam",),
        layers: Sequence[str] = ("auto",),
        target: str = "predicted",
        batch_size: int | None = 16,
        smooth: Sequence[str] = (),
    ) -> None:
        self.model = replace(model, precision="fp32")
        self.methods = find_methods(methods)
        self.smooth: tuple[Smoothing, ...] = smoothing.wanted(smooth)
        smoothing.check(self.methods, self.smooth)
        self.choose: Choose = targets.parse_target(target, model.classes)
        self.layers = chosen_layers(self.model, layers)
        self._stages = self._several() if self._scoped("layers") else []
        self.model = model = settled(model, [*self.layers, *self._stages])
        self._input = input_layer(model)
        probed = list(self.layers)
        if any(method.units == "score" for method in self._scoped("network")):
            probed.append(self._input)
        self.probes: dict[Layer, Probe] = {layer: probe(model, layer) for layer in probed}
        self._try_out()
        self.batch_size = batch_size or self._fitting()

    def prepared(self) -> AbstractContextManager[None]:
        """The model's state while batches are explained; restored afterwards."""
        return self.model.network.prepared()

    def explain(self, pictures: Sequence[Decoded]) -> list[Explanation | Failure]:
        """Pictures -> one Explanation or Failure each, in order; a ModelError without memory."""
        found: list[Explanation | Failure] = []
        while len(found) < len(pictures):
            batch = pictures[len(found) : len(found) + self.batch_size]
            explained = unless_it_runs_out(partial(self._explained, batch))
            if explained is None and self.batch_size == 1:
                raise ModelError(
                    f"{self.model.name} needs more memory for one picture than "
                    f"{self.model.device} has free; free some, or give a smaller --size"
                )
            found += explained or []
            self.batch_size //= 1 if explained else 2
        return found

    @recording()
    def maps(
        self, view: Tensor, seeds: Sequence[int], rows: Sequence[Sequence[Target]]
    ) -> list[dict[tuple[str, str], Tensor]]:
        """The maps of a normalised batch (N, 3, H, W) for rows of one target a picture: for each
        row (N, h, w) by method and layer. `seeds` has one number a picture, for what is random.
        """
        return [
            {(maps.method.name, maps.layer): maps.cam for maps in row}
            for row in self._maps(self._pass(view, seeds), rows)
        ]

    @recording()
    def _explained(self, pictures: Sequence[Decoded]) -> list[Explanation | Failure]:
        blank = np.zeros_like(pictures[0].view)
        padding = [blank] * (self.batch_size - len(pictures))
        view = self.model.inputs([*(picture.view for picture in pictures), *padding])
        shallow = self._pass(view, [_seed(picture) for picture in pictures])
        predictions = self._predictions(shallow.logits.detach(), len(pictures))
        chosen = [
            self._targets(picture, ranked)
            for picture, (ranked, _) in zip(pictures, predictions, strict=True)
        ]
        rounds = max((len(t) for t in chosen if not isinstance(t, Failure)), default=0)
        rows = []
        for k in range(rounds):
            row = [t[k] if not isinstance(t, Failure) and k < len(t) else Target(None)
                   for t in chosen]  # fmt: skip
            rows.append(row + [Target(None)] * len(padding))
        maps = self._maps(shallow, rows) if rows else []
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

    def _fitting(self) -> int:
        def explain(count: int) -> None:
            view = synthetic_pictures(self.model).repeat(count // 2, 1, 1, 1)
            with self.prepared():
                self._maps(self._pass(view, range(count)), [[Target(0)] * count])

        return fitting(self.model.device, explain, largest_map(self.model))

    def _scoped(self, scope: str) -> list[Method]:
        return [method for method in self.methods if method.scope == scope]

    def _several(self) -> list[Layer]:
        """The layers of methods that fuse several: those asked for, or one of every size."""
        if len(self.layers) > 1:
            return self.layers
        last = self.layers[0]
        found = stages(self.model, layers_of(self.model), last)
        if len(found) < 2:
            raise UsageError(
                f"{self._scoped('layers')[0].name} fuses several layers, and {self.model.name} has "
                f"maps of one size only up to '{last.name}'; name layers with --layer"
            )
        return found

    def _try_out(self) -> None:
        """What a method cannot be used on is said before any picture is read."""
        # Any layer serves a gradient; further forward passes do too, and cost too much to try.
        served = {"forwards"} if self.smooth else {"forwards", "gradient"}
        cheap = [method for method in self.methods if method.needs not in served]
        if not cheap:
            return
        with self.prepared():
            trial = self._pass(synthetic_pictures(self.model), [0, 1])
            best = trial.logits.argmax(dim=1).tolist()
            self._row([Target(index) for index in best], trial, self._deep(trial), cheap)

    def _pass(self, view: Tensor, seeds: Sequence[int]) -> Pass:
        return Pass(self.model, view, list(dict.fromkeys([*self.layers, *self._stages])), seeds)

    def _deep(self, shallow: Pass) -> Pass | None:
        """The pass for methods of the whole network, recorded from the input on."""
        if not self._scoped("network"):
            return None
        return Pass(self.model, shallow.view, [self._input], shallow.seeds)

    def _predictions(
        self, logits: Tensor, count: int
    ) -> list[tuple[list[int], tuple[Prediction, ...]]]:
        """Each picture's classes from the most to the least likely, and the first few in full."""
        order = logits.argsort(dim=1, descending=True, stable=True)[:count]
        best = order[:, :_PREDICTIONS]
        figures = logits, self.model.probabilities(logits)
        first = [to_host(figure[:count].gather(1, best)) for figure in figures]
        ranks = to_host(order)
        wait(self.model.device)
        label = self.model.classes.label
        return [
            (ranked, tuple(Prediction(i, label(i), logit, probability)
                           for i, logit, probability in zip(ranked, *few, strict=False)))
            for ranked, *few in zip(ranks.tolist(), *(f.tolist() for f in first), strict=True)
        ]  # fmt: skip

    def _targets(self, picture: Decoded, ranked: list[int]) -> tuple[Target, ...] | Failure:
        try:
            return self.choose(picture.ref, ranked)
        except NoTargetError as error:
            return failure(picture.ref, picture.facts, error, "target")

    def _maps(self, shallow: Pass, rows: Sequence[Sequence[Target]]) -> list[list[_Maps]]:
        """The maps of every row of targets, averaged over the smoothing's changed views."""
        deep = self._deep(shallow)
        shallow.expect(rows)
        maps = [self._row(row, shallow, deep, self.methods) for row in rows]
        sums = [[m.cam for m in row] for row in maps]
        count = 1
        for view, undo in smoothing.variants(shallow.view, self.smooth):
            count += 1
            changed = self._pass(view, shallow.seeds)
            for k, row in enumerate(rows):
                again = self._row(row, changed, None, self.methods)
                sums[k] = [cam + undo(m.cam) for cam, m in zip(sums[k], again, strict=True)]
        found = [
            [_on_host(replace(m, cam=cam / count)) for m, cam in zip(row, cams, strict=True)]
            for row, cams in zip(maps, sums, strict=True)
        ]
        wait(self.model.device)
        return found

    def _row(
        self, row: Sequence[Target], shallow: Pass, deep: Pass | None, methods: Sequence[Method]
    ) -> list[_Maps]:
        """One backward pass through the head, and every method's map on every layer."""
        captures = shallow.captures(row)
        if deep is not None:
            captures |= deep.captures(row)
        return [
            *(
                self._map(method, layer.name, captures[layer], layer)
                for layer in self.layers
                for method in methods
                if method.scope == "layer"
            ),
            *(
                self._map(method, "+".join(stage.name for stage in self._stages),
                          [captures[stage] for stage in self._stages], None)
                for method in methods
                if method.scope == "layers"
            ),
            *(
                self._map(method, self._input.name, captures[self._input], self._input)
                for method in methods
                if method.scope == "network"
            ),
        ]  # fmt: skip

    def _map(
        self,
        method: Method,
        name: str,
        capture: LayerCapture | list[LayerCapture],
        layer: Layer | None,
    ) -> _Maps:
        cam = smoothing.cam_of(method, capture, self.smooth)
        one = capture[0] if isinstance(capture, list) else capture
        worth = Worth()
        if method.units == "score" and not self.smooth and layer is not None:
            known, row = self.probes[layer], one.further.targets
            logits = known.baseline
            baseline = None if logits is None else targets.score(logits.expand(len(row), -1), row)
            worth = measured(cam, one, known, baseline, one.product.sum(dim=1))
        return _Maps(method, name, cam, one.further.score, worth)

    def _cam(self, maps: _Maps, n: int, target: Target) -> Cam:
        cam, worth = maps.cam[n].numpy().copy(), maps.worth
        score = float(maps.score[n])
        completeness, location = _at(worth.completeness, n), _at(worth.location, n)
        return Cam(
            method=maps.method.name,
            layer=maps.layer,
            target=target,
            label=self.model.classes.name(target),
            score=score,
            cam=cam,
            remainder=None if worth.outside is None else score - float(cam.sum(dtype=np.float64)),
            outside_grid=_at(worth.outside, n),
            baseline=_at(worth.baseline, n),
            completeness_error=completeness,
            location_error=location,
            faithful=completeness is not None
            and completeness <= COMPLETE
            and location is not None
            and location <= COMPLETE,
            smoothing=self.smooth,
        )


def _on_host(maps: _Maps) -> _Maps:
    worth = Worth(*(None if v is None else to_host(v) for v in vars(maps.worth).values()))
    return replace(maps, cam=to_host(maps.cam), score=to_host(maps.score), worth=worth)


def _seed(picture: Decoded) -> int:
    return int(picture.facts.sha256[:15] or "0", 16)


def _at(values: Tensor | None, n: int) -> float | None:
    return None if values is None else float(values[n])
