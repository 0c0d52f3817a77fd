"""One run into one output directory: what is left to do, doing it, and how it went."""

from __future__ import annotations

import dataclasses
import itertools
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from camcli.cam.verdict import Verdict
from camcli.images.decode import Decoder, DecodeSettings, decode, picture_of
from camcli.images.discover import Walk
from camcli.images.isolated import decoding
from camcli.job import (
    REASONS,
    Job,
    Json,
    identity_of,
    manifest_of,
    now,
    request_of,
    sink_of,
)
from camcli.outputs import manifest
from camcli.outputs.files import require_room
from camcli.outputs.flight import Flight
from camcli.outputs.journal import Journal
from camcli.outputs.ledger import Ledger
from camcli.outputs.record import Record
from camcli.outputs.redraw import Redraw, Scale, restyled
from camcli.outputs.render import Style
from camcli.outputs.sink import Sink, Written
from camcli.pipeline import Explainer, through, timed
from camcli.records import Decoded, Explanation, Failure, ImageRef

if TYPE_CHECKING:
    from camcli.engine import Engine


@dataclass
class Summary:
    """How a run went, as far as it has come."""

    found: int = 0
    done: int = 0
    failed: int = 0
    already_done: int = 0
    failed_earlier: int = 0
    redrawn: int = 0
    ignored: int = 0
    changed: int = 0  # explained earlier, but by size or time another file now
    seconds: float = 0.0
    stopped: str | None = None
    """Why the run ended before its inputs did."""
    remarks: tuple[str, ...] = ()
    """What was assumed about the model."""
    verdict: list[str] = field(default_factory=list)


class Run:
    """A job over its output directory. Hold the directory's lock while it works."""

    def __init__(self, job: Job, before_model: Callable[[], None] = lambda: None) -> None:
        """`before_model` is called before torch is imported, where a model is opened at all."""
        self.job = job
        self._before_model = before_model
        self._decoder: Decoder = picture_of
        self._ends = ExitStack()
        self.summary = Summary()
        self.model_seconds = 0.0
        """What it took to import torch, open the model and try it out."""
        self.ledger = Ledger(job.output, job.shard, job.sink)
        self._walk = Walk(job.inputs)
        found, shard = self._walk.some(), job.shard
        self._refs = found if shard.count == 1 else (ref for ref in found if shard.holds(ref.key))

    def stop(self, reason: str) -> None:
        """Read no more inputs; what is in flight is finished and recorded."""
        self.summary.stopped = self.summary.stopped or reason

    def pending(self) -> Iterator[tuple[ImageRef, str]]:
        """The inputs still to be explained, and why; all others are counted. Nothing is done."""
        if not self.job.overwrite:
            self.ledger.check()
        before, book = self.ledger.read(), self.ledger.journal()
        if self.job.overwrite:
            refs = itertools.islice(self._refs, self.job.limit)
            yield from ((ref, "--overwrite") for ref in refs)
            return
        if before is not None and self._restyled(before)[1] is not None:
            self.summary.redrawn = book.count("done")
        yield from itertools.islice(self._unfinished(book), self.job.limit)

    def records(self) -> Iterator[Record]:
        """Do what is left, yielding each input's record as it is made; its journal line follows
        within seconds, or with its tar, and before the last record is followed by the end.
        """
        with self._ends:
            yield from self._records()

    def _records(self) -> Iterator[Record]:
        started, ledger = time.monotonic(), self.ledger
        if not self.job.overwrite:
            ledger.check()
        before = ledger.read()
        request = request_of(self.job)
        engine = None
        if before is None or self.job.overwrite:
            engine = self._engine(None)  # what is wrong with the job is said before anything goes
            ledger.make_way()
            before = None
        elif before["request_hash"] != manifest.digest(request):
            engine = self._engine(before)
        if before is not None and before["status"] == "running":  # that run was killed
            ledger.recover(before)
        book = ledger.journal()
        try:
            pending = itertools.islice(self._unfinished(book), self.job.limit)
            first = next(pending, None)
            if before is not None:
                self._redraw_if_restyled(before)
            if self.summary.stopped:
                return
            if first is not None or before is None:  # a shard without inputs starts and ends too
                require_room(self.job.output)
                engine = engine or self._engine(before)
                found = pending if first is None else itertools.chain([first], pending)
                refs = (ref for ref, _ in found)
                yield from self._explain(refs, engine, book, request, before)
            elif before["status"] != "done":
                ledger.write(before | self._end(book))
        finally:
            book.close()
            self.summary.ignored = self._walk.ignored
            self.summary.seconds = time.monotonic() - started

    def _unfinished(self, book: Journal) -> Iterator[tuple[ImageRef, str]]:
        """The inputs that are not done, and why not."""
        summary = self.summary
        for ref in self._refs:
            if summary.stopped:
                return
            summary.found += 1
            state = book.state(ref)
            if state == "done":
                summary.already_done += 1
            elif state == "failed" and not self.job.retry_failed:
                summary.failed_earlier += 1
            else:
                summary.changed += state == "changed"
                yield ref, REASONS[state]

    def _engine(self, before: Json | None) -> Engine:
        """Open the model; its maps must be those that are already in the directory."""
        started = time.monotonic()
        self._before_model()
        from camcli.engine import Engine
        from camcli.models.opening import open_request

        job = self.job
        # Its processes start while the model is loaded.
        decoder = decoding(job.isolate, job.workers, job.decode_timeout)
        self._decoder = self._ends.enter_context(decoder)
        model = open_request(job.model)
        batch_size = job.batch_size
        if before is not None and batch_size in (None, before["request"]["batch_size"]):
            batch_size = before["batch_size"]
        engine = Engine(
            model,
            methods=job.methods,
            layers=job.layers,
            smooth=job.smooth,
            target=job.target,
            batch_size=batch_size,
        )
        self.model_seconds = time.monotonic() - started
        self.summary.remarks = engine.model.remarks
        if before is not None:
            self.ledger.agree(identity_of(job, engine), before)
        return engine

    def _entered(self, engine: Engine, request: Json, before: Json | None) -> Json:
        """The run file, written; a shard's maps are those of the shards that came before it."""
        with self.ledger.entering():
            peer = self.ledger.peer() if before is None else None
            if peer is not None:
                if self.job.batch_size in (None, peer["request"]["batch_size"]):
                    engine.batch_size = peer["batch_size"]
                self.ledger.agree(identity_of(self.job, engine), peer)
            run = manifest_of(self.job, engine, request, identity_of(self.job, engine), before)
            self.ledger.write(run)
        return run

    def _restyled(self, before: Json) -> tuple[Style, Scale | None]:
        job = self.job
        return restyled(job.style, job.restyled if "overlay" in job.write else None, before)

    def _redraw_if_restyled(self, before: Json) -> None:
        style, scale = self._restyled(before)
        self.job = job = dataclasses.replace(self.job, style=style)
        if scale is None:
            return
        redraw = Redraw(job.output, style, scale, job.max_pixels, job.shard)
        for picture in redraw.pictures():
            self.summary.redrawn += not isinstance(picture, Failure)
            if self.summary.stopped:
                return  # the next run draws them all again
        before.update(redraw.finish()[job.shard])

    def _explain(
        self,
        refs: Iterable[ImageRef],
        engine: Engine,
        book: Journal,
        request: Json,
        before: Json | None,
    ) -> Iterator[Record]:
        job = self.job
        run = self._entered(engine, request, before)
        config_hash = run["config_hash"]
        sink = sink_of(job, engine, config_hash)
        verdict = Verdict({layer.name: probe for layer, probe in engine.probes.items()})
        started = time.monotonic()
        try:
            with sink.commits(book) as commits:
                for written, elapsed in timed(self._written(refs, engine, sink)):
                    if engine.batch_size != run["batch_size"]:
                        self._halved(engine, run)
                    commits.add(written.line(config_hash, elapsed), written.files)
                    self._count(written, verdict)
                    yield written.record
        finally:
            self.summary.verdict = verdict.sentences()
            run |= self._end(book) | {"verdict": self.summary.verdict}
            run["timings"] = {
                "model_seconds": round(self.model_seconds, 3),
                "explain_seconds": round(time.monotonic() - started, 3),
            }
            self.ledger.write(run)

    def _end(self, book: Journal) -> Json:
        """How the run ended, for its run file."""
        counts = {k: v for k, v in vars(self.summary).items() if isinstance(v, int)}
        return {
            "status": "stopped" if self.summary.stopped or sys.exc_info()[0] else "done",
            "ended": now(),
            "counts": counts | {"ignored": self._walk.ignored, "journal": len(book)},
        }

    def _halved(self, engine: Engine, run: Json) -> None:
        """Memory ran out: the next run goes on with the smaller batches."""
        sentence = (
            f"memory ran out at {run['batch_size']} pictures at a time; "
            f"from there on it were {engine.batch_size}"
        )
        run["model"]["remarks"] = self.summary.remarks = (*self.summary.remarks, sentence)
        run["batch_size"] = engine.batch_size
        run["identity"] = identity_of(self.job, engine)
        run["earlier_config_hashes"].append(run["config_hash"])
        run["config_hash"] = manifest.digest(run["identity"])
        self.ledger.write(run)

    def _written(self, refs: Iterable[ImageRef], engine: Engine, sink: Sink) -> Iterator[Written]:
        job = self.job
        overlay_size = job.style.overlay_size if "overlay" in job.write else None
        settings = DecodeSettings(engine.model.preprocessing, overlay_size, job.max_pixels)
        read = partial(decode, settings=settings, decoder=self._decoder)
        flow = partial(self.flow, engine, write=sink.write)
        if job.watched:
            return Flight(job.output, job.shard).over(refs, read, flow)
        return flow(refs, read)

    def flow(
        self,
        engine: Explainer,
        refs: Iterable[ImageRef],
        read: Callable[[ImageRef], Decoded | Failure],
        write: Callable[[Explanation | Failure], Written],
    ) -> Iterator[Written]:
        """Every input through the three stages, in order, until the run is stopped."""
        workers, summary = self.job.workers, self.summary
        return through(engine, refs, read, write, workers, lambda: bool(summary.stopped))

    def _count(self, written: Written, verdict: Verdict) -> None:
        summary, job = self.summary, self.job
        if isinstance(written.outcome, Explanation):
            summary.done += 1
            for cam in written.outcome.cams:
                verdict.add(cam)
            return
        summary.failed += 1
        if job.fail_fast:
            self.stop("the first failure (--fail-fast)")
        elif job.max_errors is not None and summary.failed > job.max_errors:
            self.stop(f"more than {job.max_errors} failures (--max-errors)")
