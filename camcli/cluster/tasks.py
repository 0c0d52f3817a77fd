"""Shards of a run as tasks of Ray, into an output directory that all nodes share.

Ray starts a task again whose worker or node is lost; the shard then goes on from its journal, and
waits for its lock where the lost one still holds it. In a task the shard is a process of its own,
so that a crash costs no worker.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from camcli.cluster import launcher, watch
from camcli.cluster.joining import Need, first_line, held
from camcli.cluster.watch import Growth, Said
from camcli.errors import UsageError
from camcli.shard import Shard

SHARDS_PER_WORKER = 4
"""So that none waits long for the others at the end."""
# How often Ray starts a task again, and a task its process.
_RETRIES, _CRASHES = 8, 10
# Seconds within which the locks of a lost node are freed.
_FREED = 60.0
TOLD_TO_END = 143
# Seconds between two looks at the desk, and bytes of records that may lie on it.
_POLL, _MOST_BYTES = 0.3, 64 * 2**20
# Seconds between two looks at the cluster's nodes.
_LOOK = 10.0


@dataclass(frozen=True)
class Order:
    """What every task is told."""

    arguments: tuple[str, ...]
    folder: str
    """Where the arguments' relative paths begin."""
    output: str
    count: int
    need: Need
    lock_timeout: float
    environment: dict[str, str]
    stdin: bytes | None

    def command(self, shard: Shard, again: bool) -> list[str]:
        """What explains a shard, as a process of this one."""
        patience = max(self.lock_timeout, _FREED) if again else self.lock_timeout
        return launcher.command(
            self.arguments,
            (
                "--ray=none",
                f"--device={self.need.device}",
                f"--shard={shard}",
                f"--workers={self.need.cpus}",
                f"--lock-timeout={patience}",
                "--watched",
            ),
        )


@dataclass
class Heard:
    """What the driver has not taken yet, and how far the shards are."""

    events: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    records: list[bytes] = field(default_factory=list)
    lines: dict[int, int] = field(default_factory=dict)
    """How long the journals are."""


class Desk:
    """Where tasks report and are told to end: an actor on the driver's node."""

    def __init__(self) -> None:
        self._heard = Heard()
        self._begun: dict[int, int] = {}
        self._told = False

    def begin(self, index: int, where: str) -> tuple[int, bool]:
        """How often the shard was begun before, and whether it is to end."""
        before = self._begun.get(index, 0)
        self._begun[index] = before + 1
        if before:
            self.note(index, {"event": "lost", "where": where})
        return before, self._told

    def hear(self, index: int, lines: int, events: list[bytes], records: list[bytes]) -> bool:
        """Keep what a shard says; whether it is to end."""
        self._heard.lines[index] = lines
        self._heard.records += records
        for raw in events:
            self.note(index, _event(raw))
        return self._told

    def full(self) -> bool:
        """Whether the driver has to catch up first."""
        return sum(map(len, self._heard.records)) > _MOST_BYTES

    def note(self, index: int, event: dict[str, Any]) -> None:
        """Keep an event of a shard."""
        self._heard.events.append((index, event))

    def take(self) -> tuple[Heard, frozenset[int]]:
        """What was kept, and the shards that have begun."""
        heard, self._heard = self._heard, Heard(lines=dict(self._heard.lines))
        return heard, frozenset(self._begun)

    def tell(self) -> None:
        """Have all end."""
        self._told = True


def _event(raw: bytes) -> dict[str, Any]:
    """A line of stderr: an event, or a library's warning."""
    text = raw.decode(errors="backslashreplace").rstrip()
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if isinstance(found, dict) and isinstance(found.get("event"), str):
        return found
    return {"event": "line", "text": text}


def explain_shard(order: Order, index: int, desk: Any) -> int:
    """The task: explain one shard; the exit status of its process, negative for a signal."""
    import ray

    shard = Shard(index, order.count)
    node = socket.gethostname()
    before, told = ray.get(desk.begin.remote(index, node))
    if told:
        return TOLD_TO_END
    for path in (order.folder, order.output):
        if not os.path.isdir(path):
            said = f"'{path}' is not on {node}; --ray needs a file system that all nodes share"
            ray.get(desk.note.remote(index, {"event": "error", "error": {"message": said}}))
            return 1
    growth = Growth(Path(order.output, shard.journal))

    def hear(said: Said) -> bool:
        nonlocal told
        while said.records and ray.get(desk.full.remote()):
            time.sleep(0.1)
        told = bool(ray.get(desk.hear.remote(index, growth.count(), said.events, said.records)))
        said.events.clear()
        said.records.clear()
        return told

    hear(Said())
    status = 0
    for crash in range(_CRASHES):
        command = order.command(shard, before + crash > 0)
        process = watch.started(command, order.folder, order.environment, order.stdin)
        status = watch.attend(process, hear)
        if status >= 0 or told:
            break
        ray.get(desk.note.remote(index, {"event": "crashed", "how": watch.crashed(status)}))
    return status


@dataclass
class Tasks:
    """The tasks of a run, from start to end. Signals may come meanwhile."""

    order: Order
    shards: Sequence[Shard]
    ended: dict[Shard, int] = field(default_factory=dict)
    """The exit status of each shard's process, negative for a signal."""
    lost: dict[Shard, str] = field(default_factory=dict)
    """Why Ray gave a shard up."""
    _told: bool = False
    _looked: float = field(default_factory=time.monotonic)
    _stranded: bool = False

    def tell(self) -> None:
        """Have all end; what is in flight is finished."""
        self._told = True

    @property
    def status(self) -> int:
        """The worst; that shards ended because they were told to is no fault."""
        return launcher.worst(s for s in self.ended.values() if s not in (TOLD_TO_END, -15))

    def run(self, hear: Callable[[Heard], None]) -> None:
        """Start the tasks and wait for them; `hear` takes what they say, on the way."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        desk = ray.remote(num_cpus=0, scheduling_strategy=here)(Desk).remote()
        needed = {"num_cpus": self.order.need.cpus, "num_gpus": self.order.need.gpus}
        task = ray.remote(max_retries=_RETRIES, **needed)(explain_shard)
        order = ray.put(self.order)
        flying = {task.remote(order, shard.index, desk): shard for shard in self.shards}
        told = False
        while flying:
            done, _ = ray.wait(list(flying), num_returns=len(flying), timeout=_POLL)
            heard, begun = ray.get(desk.take.remote())
            heard.events += self._look()
            hear(heard)
            for ref in done:
                self._end(flying.pop(ref), ref)
            if self._told and not told:
                told = True
                ray.get(desk.tell.remote())
                for ref, shard in flying.items():
                    if shard.index not in begun:
                        ray.cancel(ref)
        hear(ray.get(desk.take.remote())[0])

    def _look(self) -> list[tuple[int, dict[str, Any]]]:
        """An event where no node is left that could take a task: Ray waits for one, silently."""
        if time.monotonic() - self._looked < _LOOK:
            return []
        self._looked = time.monotonic()
        before, self._stranded = self._stranded, not held(self.order.need)
        lacking = {"event": "stranded", "need": str(self.order.need)}
        return [(self.shards[0].index, lacking)] if self._stranded and not before else []

    def _end(self, shard: Shard, ref: Any) -> None:
        import ray

        try:
            self.ended[shard] = ray.get(ref)
        except ray.exceptions.TaskCancelledError:
            self.ended[shard] = TOLD_TO_END
        except ray.exceptions.RayError as error:
            self.ended[shard] = 1
            self.lost[shard] = first_line(error)
        if self.ended[shard] == UsageError.exit_status:  # which every other would meet too
            self.tell()
