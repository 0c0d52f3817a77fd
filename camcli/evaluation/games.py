"""What is explained once the pictures are measured: mosaics of them, and a network that forgets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from camcli.engine import Engine
from camcli.evaluation.answers import Answers
from camcli.evaluation.measuring import Measurements
from camcli.evaluation.mosaic import (
    CONFIDENT,
    Candidate,
    Mosaic,
    canvas_of,
    laid_out,
    mosaics,
    quarter_mask,
)
from camcli.evaluation.randomisation import Sanity, sanity
from camcli.evaluation.subject import Mask
from camcli.records import Decoded, Explanation, Target
from camcli.registry import Metric

_MOST_MOSAICS = 50
_MOST_KEPT = 512
_SANITY_PICTURES = 8


class Games:
    """Keeps the pictures that are played with, some hundreds of views at most, and plays.

    `metric` is that of the grid pointing game, where it is asked for.
    """

    def __init__(self, metric: Metric | None, check: bool, seed: int) -> None:
        self.metric, self.check, self.seed = metric, check, seed
        self.grid: Measurements | None = None
        """The values of each mosaic; None where there was none."""
        self.sanity: list[Sanity] = []
        self.remarks: list[str] = []
        self._candidates: dict[str, tuple[Candidate, Decoded]] = {}
        self._first: list[Decoded] = []
        self._seen = 0

    def add(self, explanation: Explanation) -> None:
        """Keep the picture, if a game needs it."""
        self._seen += 1
        if self.check and len(self._first) < _SANITY_PICTURES:
            self._first.append(explanation.image)
        best = next(iter(explanation.predictions), None)
        if self.metric is None or best is None or best.probability < CONFIDENT:
            return
        if len(self._candidates) < _MOST_KEPT:
            own = Candidate(explanation.ref, best.index, best.probability)
            self._candidates[own.ref.key] = own, explanation.image

    def play(self, engine: Engine) -> None:
        """Every game that was asked for, with the methods and layers of an engine."""
        if self.metric is not None:
            self._play_grid(engine, self.metric)
        if self.check and self._first:
            self.sanity = sanity(engine, self._first, self.seed)

    def _play_grid(self, engine: Engine, metric: Metric) -> None:
        made = mosaics((own for own, _ in self._candidates.values()), _MOST_MOSAICS, self.seed)
        if not made:
            classes = len({own.index for own, _ in self._candidates.values()})
            self.remarks.append(
                f"{metric.name} has no value: of {self._seen:,} pictures, "
                f"{len(self._candidates):,} of {classes:,} classes are predicted with "
                f"{CONFIDENT:.0%} or more, and a mosaic needs four classes."
            )
            return
        model = canvas_of(engine.model)
        larger = model is not engine.model
        by_key = {mosaic.ref.key: mosaic for mosaic in made}
        again = Engine(
            model,
            methods=[method.name for method in engine.methods],
            layers=[layer.name for layer in engine.layers],
            batch_size=max(1, engine.batch_size // (4 if larger else 1)),
            smooth=engine.smooth,
        )
        again.choose = lambda ref, _: tuple(Target(q.index) for q in by_key[ref.key].quarters)

        def marks(image: Decoded, index: int | None) -> Mask | None:
            return quarter_mask(by_key[image.ref.key], image.geometry.source, index)

        answers, limits = Answers(again.model, again.batch_size), {metric.name: None}
        self.grid = Measurements(answers, again, [metric], limits, {}, self.seed, marks)
        with again.prepared():
            for outcome in self._explained(again, made):
                self.grid.add(outcome)
        width, height = model.preprocessing.size
        count = f"{len(made):,} mosaic{'s' if len(made) > 1 else ''}"
        kind = "views" if larger else "shrunk views, for it takes no larger pictures"
        self.remarks.append(
            f"{metric.name}: {count} of {width}x{height} pixels, made of {kind}, "
            f"from {len(self._candidates):,} confidently predicted pictures."
        )

    def _explained(self, engine: Engine, made: Sequence[Mosaic]) -> Iterator[Explanation]:
        size, at_once = engine.model.preprocessing.size, engine.batch_size
        for start in range(0, len(made), at_once):
            pictures = [
                laid_out(one, [self._candidates[q.ref.key][1].view for q in one.quarters], size)
                for one in made[start : start + at_once]
            ]
            found = engine.explain(pictures)
            yield from (outcome for outcome in found if isinstance(outcome, Explanation))
