"""Where the time of a run goes, measured from outside: no part of the run knows of the clock."""

from __future__ import annotations

import dataclasses
import resource
import statistics
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

import numpy as np

from camcli.images.geometry import Geometry
from camcli.job import Job, Json
from camcli.outputs.sink import Sink, Written
from camcli.pipeline import Explainer
from camcli.records import Decoded, Explanation, Failure, FileFacts, ImageRef
from camcli.run import Run

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from camcli.engine import Engine
    from camcli.models.loaded import Edits, Network

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class BatchTimes:
    """Milliseconds a picture of one batch; the ratio is the median of those within a round."""

    plain: float
    explaining: float
    ratio: float


@dataclass(frozen=True)
class FolderTimes:
    """Seconds of a run from its first picture on: of the model's thread, then of the workers'."""

    pictures: int
    seconds: float
    forward: float
    maps: float
    wait: float
    record: float
    workers: int
    decode: float
    render: float
    write: float


class Clock:
    """Seconds by stage, from any thread."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self._lock = threading.Lock()

    def add(self, stage: str, seconds: float) -> None:
        """More of a stage."""
        with self._lock:
            self.seconds[stage] += seconds  # type: ignore[assignment]  # of floats

    def timed(self, stage: str, work: Callable[P, T]) -> Callable[P, T]:
        """The same work, on the clock."""

        def run(*args: P.args, **kwargs: P.kwargs) -> T:
            started = perf_counter()
            try:
                return work(*args, **kwargs)
            finally:
                self.add(stage, perf_counter() - started)

        return run

    def steps(self, stage: str, items: Iterable[T]) -> Iterator[T]:
        """The same items; what it takes to come to each is on the clock."""
        step = self.timed(stage, iter(items).__next__)
        while True:
            try:
                item = step()
            except StopIteration:
                return
            yield item


class TimedRun(Run):
    """A run that tells where its time went."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.engine: Engine | None = None
        """Once it is open."""
        self._clock = Clock()

    @property
    def times(self) -> FolderTimes:
        """How long it took, stage by stage."""
        spent = self._clock.seconds
        return FolderTimes(
            pictures=self.summary.done,
            seconds=spent["flow"] + spent["record"],
            forward=spent["forward"],
            maps=spent["maps"],
            wait=spent["flow"] - spent["forward"] - spent["maps"],
            record=spent["record"],
            workers=self.job.workers,
            decode=spent["decode"],
            render=spent["render"],
            write=spent["write"] - spent["render"],
        )

    def _engine(self, before: Json | None) -> Engine:
        self.engine = super()._engine(before)
        return self.engine

    def _written(self, refs: Iterable[ImageRef], engine: Engine, sink: Sink) -> Iterator[Written]:
        draw = self._clock.timed("render", sink.draw)
        return super()._written(refs, engine, dataclasses.replace(sink, draw=draw))

    def flow(
        self,
        engine: Explainer,
        refs: Iterable[ImageRef],
        read: Callable[[ImageRef], Decoded | Failure],
        write: Callable[[Explanation | Failure], Written],
    ) -> Iterator[Written]:
        clock = self._clock
        timed = _TimedEngine(cast("Engine", engine), clock)
        read, write = clock.timed("decode", read), clock.timed("write", write)
        for written in clock.steps("flow", super().flow(timed, refs, read, write)):
            left = perf_counter()
            yield written
            clock.add("record", perf_counter() - left)


class _TimedEngine:
    """An engine whose time is split where its network has first answered."""

    def __init__(self, engine: Engine, clock: Clock) -> None:
        self._engine, self._clock = engine, clock
        model = engine.model
        self._network = _Marked(model.network, model.device)
        engine.model = dataclasses.replace(model, network=cast("Network", self._network))

    @property
    def batch_size(self) -> int:
        return self._engine.batch_size

    def prepared(self) -> AbstractContextManager[None]:
        return self._engine.prepared()

    def explain(self, pictures: Sequence[Decoded]) -> list[Explanation | Failure]:
        started, self._network.answered = perf_counter(), None
        found = self._engine.explain(pictures)
        ended = perf_counter()
        answered = self._network.answered or ended
        self._clock.add("forward", answered - started)
        self._clock.add("maps", ended - answered)
        return found


class _Marked:
    """A network that remembers when it had first answered."""

    def __init__(self, network: Network, device: torch.device) -> None:
        self._network, self._device = network, device
        self.answered: float | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._network, name)

    def run(self, x: Tensor, edits: Edits) -> Tensor:
        logits = self._network.run(x, edits)
        if self.answered is None:
            finish(self._device)
            self.answered = perf_counter()
        return logits


def finish(device: torch.device) -> None:
    """Wait until a GPU has done what it was given."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def batch_times(engine: Engine, rounds: int) -> BatchTimes:
    """A plain forward pass of one batch and explaining it, by turns, warmed up."""
    import torch

    model, batch = engine.model, noise(engine.model.preprocessing.size, engine.batch_size)

    def forward() -> None:
        with torch.inference_mode():
            model.logits(model.inputs([picture.view for picture in batch])).argmax(dim=1)
        finish(model.device)

    with engine.prepared():
        times = [(seconds(forward), seconds(lambda: engine.explain(batch)))
                 for _ in range(rounds + 1)][1:]  # fmt: skip
    plain, explaining = (statistics.median(column) for column in zip(*times, strict=True))
    ratio = statistics.median(one / other for other, one in times)
    return BatchTimes(1000 * plain / len(batch), 1000 * explaining / len(batch), ratio)


def noise(size: tuple[int, int], count: int) -> list[Decoded]:
    """Pictures of noise, already at the size (width, height) of the view."""
    views = np.random.default_rng(0).integers(0, 256, (count, size[1], size[0], 3), np.uint8)
    geometry = Geometry(size, size, (0.0, 0.0, float(size[0]), float(size[1])))
    return [
        Decoded(ImageRef(str(n), str(n)), FileFacts(0, 0), 1, geometry, view, None)
        for n, view in enumerate(views)
    ]


def seconds(work: Callable[[], object]) -> float:
    """How long it takes."""
    started = perf_counter()
    work()
    return perf_counter() - started


def peak_memory() -> int:
    """The most memory in bytes that this process has held so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def peak_device_memory(device: torch.device) -> int | None:
    """The most of a GPU's memory in bytes that its tensors have taken so far."""
    import torch

    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
