"""`camcli explain --ray`: shards as tasks on a Ray cluster, told of as one run."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from camcli.cli.console import Progress, emit, shown
from camcli.cli.events import Sentences
from camcli.cli.fleet import handed_on, refuse_alone
from camcli.cli.process import interruptible
from camcli.config import Config
from camcli.errors import UsageError
from camcli.shard import Shard

if TYPE_CHECKING:
    from camcli.cluster.tasks import Heard, Order, Tasks
    from camcli.job import Job
    from camcli.run import Run

_ADDRESS = re.compile(r"none|local|auto|[\w.-]+:\d{1,5}|\[[0-9a-fA-F:.]+\]:\d{1,5}", re.ASCII)
# How many sentences about the maps are said; each shard has its own.
_REMARKS = 8
# What tasks need of the driver's environment: settings, and what decides the last bit on a CPU.
_HANDED_ON = ("CAMCLI_", "OMP_NUM_THREADS", "MKL_", "TORCH_HOME", "HF_")


def spelled_out(arguments: Sequence[str]) -> list[str]:
    """`--ray` without an address as `--ray=local`; what follows it is then an input, or an option.

    Typer knows no option whose value may be left out.
    """
    result = list(arguments)
    end = result.index("--") if "--" in result else len(result)
    for place in range(end):
        following = result[place + 1] if place + 1 < end else ""
        if result[place] == "--ray" and not _ADDRESS.fullmatch(following):
            result[place] = "--ray=local"
    return result


def explain_on_ray(job: Job, chosen: Config, teller: Sentences) -> int:
    """Explain in tasks; the worst of their statuses, or the signal's."""
    _refuse(chosen)
    if chosen.dry_run:
        from camcli.cli.explain import list_pending

        list_pending(_runs(job, chosen, teller), chosen.verbose, teller)
        return 0
    from camcli.cluster.joining import connected
    from camcli.cluster.tasks import Tasks
    from camcli.outputs.files import require_room
    from camcli.outputs.ledger import Ledger

    parts = _parts(job, chosen)
    if parts is not None:
        Ledger(job.output, job.shard.split(parts)[0]).check()
    with handed_on(job.inputs) as file, connected(chosen.ray):
        order = _order(job, chosen, parts, None if file is None else file.read_bytes())
        shards = job.shard.split(order.count // job.shard.count)
        if order.count == 1 and not chosen.quiet:
            teller.remark("camcli: one task explains all, as the run is not in shards")
        require_room(job.output)
        return _explain(Tasks(order, shards), chosen, teller)


def _refuse(chosen: Config) -> None:
    if _ADDRESS.fullmatch(chosen.ray) is None:
        raise UsageError(f"--ray must be HOST:PORT, auto, local or none, not '{chosen.ray}'")
    refuse_alone(chosen, "--ray")
    if chosen.device not in ("auto", "cpu", "cuda"):
        raise UsageError(
            f"--device {chosen.device} does not go with --ray, which gives each task a GPU of its "
            "own; give auto, cpu or cuda"
        )


def _parts(job: Job, chosen: Config) -> int | None:
    """How many shards stand in the place of the job's, if that is known already."""
    from camcli.outputs import manifest

    there = next(iter(manifest.shards(job.output)), None)
    if chosen.ray_shards is not None or there is None:
        return chosen.ray_shards
    return max(1, there.count // job.shard.count)


def _runs(job: Job, chosen: Config, teller: Sentences) -> Iterator[Run]:
    """The runs that tasks would do, counted together."""
    from camcli.images.decode import own_pillow
    from camcli.run import Run

    parts = _parts(job, chosen) or 1
    if parts > 1 and "-" in (*job.inputs.roots, *job.inputs.list_files):
        raise UsageError(
            "--dry-run with --ray reads lists once for each shard; save the list of stdin, and "
            "name it with --files-from"
        )
    own_pillow()
    for shard in job.shard.split(parts):
        run = Run(replace(job, shard=shard))
        run.summary = teller.summary
        yield run


def _order(job: Job, chosen: Config, parts: int | None, stdin: bytes | None) -> Order:
    from camcli.cluster.joining import needed
    from camcli.cluster.tasks import SHARDS_PER_WORKER, Order

    need, held = needed(chosen.device, chosen.workers)
    parts = parts or held * SHARDS_PER_WORKER
    environment = {k: v for k, v in os.environ.items() if k.startswith(_HANDED_ON)}
    return Order(
        arguments=tuple(sys.argv[1:]),
        folder=os.getcwd(),
        output=os.path.abspath(job.output),
        count=job.shard.count * parts,
        need=need,
        lock_timeout=chosen.lock_timeout,
        # Threads of all of them on every core would wait for each other.
        environment={"OMP_NUM_THREADS": str(need.cpus)} | environment,
        stdin=stdin,
    )


def _explain(tasks: Tasks, chosen: Config, teller: Sentences) -> int:
    started = time.monotonic()
    with interruptible(lambda _: tasks.tell()) as received, teller.progress() as bar:
        hearing = _Hearing(tasks, chosen, teller, bar)
        tasks.run(hearing.hear)
    for shard, why in tasks.lost.items():
        teller.trouble(shard, f"its task was lost ({why}); the same command goes on from there")
    for shard, status in tasks.ended.items():
        if status < 0:
            said = f"its process was ended by {signal.Signals(-status).name}, again and again"
            teller.trouble(shard, f"{said}; the same command goes on from there")
    teller.summary.seconds = time.monotonic() - started
    remarks = teller.summary.remarks
    if len(remarks) > _REMARKS:
        more = f"{len(remarks) - _REMARKS} more such sentences are in the shards' run files"
        teller.summary.remarks = (*remarks[:_REMARKS], more)
    if received:
        teller.summary.stopped = signal.Signals(received[0]).name
    status = 128 + received[0] if received else tasks.status
    teller.finished(status)
    return status


@dataclass
class _Hearing:
    """What tasks report, told as one run."""

    tasks: Tasks
    chosen: Config
    teller: Sentences
    bar: Progress
    _before: dict[int, int] = field(default_factory=dict)
    """How long each shard's journal was at first."""
    _grown: int = 0
    _failed: set[str] = field(default_factory=set)
    _counts: dict[int, dict[str, int]] = field(default_factory=dict)
    _said: set[str] = field(default_factory=set)

    def hear(self, heard: Heard) -> None:
        """Tell of what has come in."""
        for index, event in heard.events:
            self._event(Shard(index, self.tasks.order.count), event)
        wanted = sys.stdout is not None and not self.teller.summary.stopped
        for record in heard.records if wanted else ():
            if not emit(record):
                self._stop("closed pipe")
                break
        for index, lines in heard.lines.items():
            self._before.setdefault(index, lines)
        grown = sum(heard.lines.values()) - sum(self._before.values())
        fresh, self._grown = grown - self._grown, grown
        self._sum_up()
        if fresh > 0:
            self.teller.advanced(fresh, self.bar)

    def _event(self, shard: Shard, event: dict[str, Any]) -> None:
        match event["event"]:
            case "failed":
                self._fail(event)
            case "explained":
                best = {name: event[name] for name in ("index", "label", "probability")}
                record = event | {"status": "ok", "predictions": [best]}
                self.teller.record(record, Progress(None, plain=False))
            case "finished":
                self._counts[shard.index] = event["counts"]
            case "remark":
                remarks = (*self.teller.summary.remarks, event["message"])
                self.teller.summary.remarks = tuple(dict.fromkeys(remarks))
            case "error" if self._new(message := event["error"]["message"]):
                self.teller.trouble(shard, message)
            case "lost":
                self._remark(f"shard {shard}: its worker was lost; {event['where']} goes on")
            case "crashed":
                self._remark(f"shard {shard}: its process was lost ({event['how']})")
            case "stranded":
                lacking = f"no node of the Ray cluster has {event['need']} any more"
                self.teller.remark(f"camcli: {lacking}; waiting for one")
            case "line" if self._new(event["text"]) and not self.chosen.quiet:
                self.teller.overheard(shard, shown(event["text"]))

    def _fail(self, event: dict[str, Any]) -> None:
        """An input failed; told once, though it was met again where a task was."""
        if event["key"] in self._failed:
            return
        self._failed.add(event["key"])
        self.teller.record(event | {"status": "error"}, Progress(None, plain=False))
        most = self.chosen.max_errors
        if self.chosen.fail_fast:
            self._stop("the first failure (--fail-fast)")
        elif most is not None and len(self._failed) > most:
            self._stop(f"more than {most} failures (--max-errors)")

    def _new(self, text: str) -> bool:
        """Whether this was not said before, of another shard."""
        new = text not in self._said
        self._said.add(text)
        return new

    def _remark(self, text: str) -> None:
        if not self.chosen.quiet:
            self.teller.remark(f"camcli: {shown(text)}")

    def _stop(self, reason: str) -> None:
        summary = self.teller.summary
        summary.stopped = summary.stopped or reason
        self.tasks.tell()

    def _sum_up(self) -> None:
        """What a lost process had done or failed counts as earlier for the one that goes on."""
        summary, failed = self.teller.summary, len(self._failed)
        sums = Counter[str]()
        for counts in self._counts.values():
            sums.update(counts)
        summary.failed = failed
        summary.done = max(0, self._grown - failed)
        summary.found, summary.changed = sums["found"], sums["changed"]
        summary.redrawn = sums["redrawn"]
        summary.ignored = max((c["ignored"] for c in self._counts.values()), default=0)
        summary.already_done = max(0, sums["already_done"] + sums["explained"] - summary.done)
        summary.failed_earlier = max(0, sums["failed_earlier"] + sums["failed"] - failed)
