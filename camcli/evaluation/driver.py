"""One evaluation, of pictures that are explained for it or of a finished run."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from camcli.engine import Engine
from camcli.errors import NoInputsError
from camcli.evaluation.annotations import Annotations, open_annotations
from camcli.evaluation.answers import Answers
from camcli.evaluation.games import Games
from camcli.evaluation.measuring import Measurements, sampled
from camcli.evaluation.report import names_of
from camcli.evaluation.stored import StoredRun
from camcli.images.decode import DecodeSettings
from camcli.images.discover import Inputs, Walk
from camcli.job import now
from camcli.models.loaded import LoadedModel
from camcli.models.opening import open_request
from camcli.outputs import manifest
from camcli.pipeline import explained
from camcli.records import Explanation, Failure, ModelRequest
from camcli.registry import Metric


@dataclass(frozen=True)
class Plan:
    """What to measure, and how. `limit` None leaves each metric its own number of pictures."""

    metrics: tuple[Metric, ...]
    seed: int
    limit: int | None
    workers: int
    max_pixels: int
    annotations: Path | None = None
    words: Path | None = None
    """What classes of the annotations are called by the model."""
    sanity: bool = False

    @property
    def pictures(self) -> dict[str, int | None]:
        """How many each metric measures; None is all."""
        return {m.name: m.pictures if self.limit is None else self.limit for m in self.metrics}

    @property
    def most(self) -> int | None:
        """How many any of them measures; None is all."""
        limits = [limit for limit in self.pictures.values() if limit is not None]
        return max(limits) if len(limits) == len(self.metrics) else None


class Evaluation:
    """Measures one explanation after the other."""

    def __init__(
        self,
        plan: Plan,
        model: LoadedModel,
        engine: Engine | None,
        batch_size: int,
        explanations: Iterator[Explanation | Failure],
        ranks: Mapping[str, int],
        about: Mapping[str, Any],
        remarks: tuple[str, ...] = (),
        annotations: Annotations | None = None,
    ) -> None:
        self.model = replace(model, precision="fp32")
        self.annotations, self._engine = annotations, engine
        played = [metric for metric in plan.metrics if metric.needs == "mosaics"]
        self.measured = Measurements(
            Answers(self.model, batch_size),
            engine,
            [metric for metric in plan.metrics if metric not in played],
            plan.pictures,
            ranks,
            plan.seed,
            annotations.on if annotations else None,
        )
        self._remarks = (*remarks, *model.remarks)
        self.games = Games(played[0] if played else None, plan.sanity, plan.seed)
        self.failed = 0
        self.stopped = False
        self._explanations, self._about, self._started = explanations, about, now()

    def stop(self) -> None:
        """Measure no more pictures than the one in flight."""
        self.stopped = True

    def pictures(self) -> Iterator[Failure | None]:
        """Measure; a Failure, or None, for each picture as it is done."""
        with self.model.network.prepared():
            for outcome in self._explanations:
                if self.stopped:
                    return
                if isinstance(outcome, Failure):
                    self.failed += 1
                    yield outcome
                else:
                    self.measured.add(outcome)
                    self.games.add(outcome)
                    yield None
            if self._engine is not None:
                self.games.play(self._engine)

    @property
    def remarks(self) -> tuple[str, ...]:
        """What should be known of it, in sentences."""
        marked = self.annotations.remarks if self.annotations else ()
        return (*self._remarks, *marked, *self._same, *self.games.remarks)

    @property
    def _same(self) -> Iterator[str]:
        names = names_of(self.measured.rows)
        for first, others in self.measured.same.items():
            told = ", ".join(names[row] for row in others)
            yield f"The maps of {told} are those of {names[first]} on every picture: measured once."

    def about(self, version: str) -> dict[str, Any]:
        """What is needed to repeat it, for evaluation.json."""
        model = self.model
        return {
            "camcli_version": version,
            "status": "stopped" if self.stopped else "done",
            "argv": sys.argv,
            "started": self._started,
            "ended": now(),
            "counts": {"measured": len(self.measured.keys), "failed": self.failed},
            "model": {
                "name": model.name,
                "weights": model.weights,
                "weights_sha256": model.weights_sha256,
                "activation": model.activation,
            },
            "preprocessing": asdict(model.preprocessing),
            "device": str(model.device),
            "batch_size": self.measured.answers.batch_size,
            "versions": manifest.versions(),
            "annotations": self.annotations.origin if self.annotations else None,
            "sanity": [one.summary for one in self.games.sanity],
            "remarks": self.remarks,
            **self._about,
        }


def of_pictures(
    plan: Plan,
    inputs: Inputs,
    request: ModelRequest,
    *,
    methods: Sequence[str],
    layers: Sequence[str],
    target: str,
    smooth: Sequence[str],
    batch_size: int | None,
) -> Evaluation:
    """Explain the pictures, or a random sample where no metric measures all, and measure."""
    refs, ranks = sampled(Walk(inputs).some(), lambda ref: ref.key, plan.seed, plan.most)
    model = open_request(request)
    annotations = _annotations(plan, [ref.key for ref in refs], model)
    engine = Engine(model, methods=methods, layers=layers, target=target,
                    batch_size=batch_size, smooth=smooth)  # fmt: skip
    settings = DecodeSettings(model.preprocessing, None, plan.max_pixels)
    about = {
        "inputs": [*inputs.roots, *inputs.list_files],
        "methods": [method.name for method in engine.methods],
        "layers": [layer.name for layer in engine.layers],
        "smoothing": list(engine.smooth),
        "target": target,
        "precision": engine.model.precision,
    }
    found = explained(engine, refs, settings, plan.workers)
    return Evaluation(
        plan, model, engine, engine.batch_size, found, ranks, about, annotations=annotations
    )


def of_run(plan: Plan, directory: Path, device: str, trust: bool) -> Evaluation:
    """Measure the maps of a run, or of a random sample of its pictures."""
    run = StoredRun(directory)
    model = run.agreed(open_request(run.request(device, trust)))
    results, ranks = sampled(run.results(), lambda result: result.key, plan.seed, plan.most)
    if not results:
        raise NoInputsError(f"the run in '{directory}' has explained no picture yet")
    settings = DecodeSettings(model.preprocessing, None, plan.max_pixels)
    about = {"run": str(directory), **run.about()}
    found = run.explanations(results, settings, plan.workers)
    annotations = _annotations(plan, [result.key for result in results], model)
    again = plan.sanity or any(m.needs in ("explaining", "mosaics") for m in plan.metrics)
    engine = run.engine(model) if again else None
    remarks: tuple[str, ...] = ()
    if run.in_progress:
        remarks = (
            f"camcli: the run in '{directory}' goes on or was killed: what it has committed so "
            "far was evaluated",
        )
    return Evaluation(
        plan, model, engine, run.batch_size, found, ranks, about, remarks, annotations
    )


def _annotations(plan: Plan, keys: Sequence[str], model: LoadedModel) -> Annotations | None:
    if plan.annotations is None:
        return None
    return open_annotations(plan.annotations, keys, model.classes, plan.words, plan.max_pixels)
