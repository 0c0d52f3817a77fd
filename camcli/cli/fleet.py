"""`camcli explain --device cuda:all`: one process for each GPU."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from camcli.cli.console import emit
from camcli.cli.process import interruptible
from camcli.config import Config
from camcli.errors import UsageError

if TYPE_CHECKING:
    from camcli.cli.events import Sentences
    from camcli.images.discover import Inputs
    from camcli.job import Job

ALL_GPUS = "cuda:all"


def explain_on(devices: Sequence[str], job: Job, chosen: Config, teller: Sentences) -> int:
    """Explain with a process for each device; the worst of their statuses, or the signal's."""
    from camcli.cluster.launcher import Fleet, Part
    from camcli.outputs import manifest
    from camcli.outputs.ledger import Ledger

    shards = job.shard.split(len(devices))
    refuse_alone(chosen, f"--device {ALL_GPUS}")
    Ledger(job.output, shards[0]).check()
    parts = [Part(shard, device) for shard, device in zip(shards, devices, strict=True)]
    fleet = Fleet(parts, teller.overheard, None if sys.stdout is None else emit, chosen.fail_fast)
    with handed_on(job.inputs) as stdin, interruptible(fleet.tell, fleet.kill) as received:
        status = fleet.run(sys.argv[1:], chosen.workers, stdin)
    status = 128 + received[0] if received else status
    for part, by in fleet.killed:
        teller.trouble(
            part.shard, f"{by.name} ended it on {part.device}; the same command goes on from there"
        )
    if not chosen.dry_run:
        done = [run for run in manifest.read_all(job.output).values() if run["status"] == "done"]
        inputs = sum(run["counts"]["journal"] for run in done)
        stopped_by = signal.Signals(received[0]).name if received else ""
        teller.together(status, len(done), parts[0].shard.count, inputs, stopped_by)
    return status


def refuse_alone(chosen: Config, option: str) -> None:
    """UsageError for what processes cannot do that do not know of each other's work."""
    if chosen.overwrite:
        raise UsageError(
            f"--overwrite does not go with {option}, whose processes share '{chosen.output}'; "
            "remove it yourself, or choose another directory with -o"
        )
    if chosen.limit is not None:
        raise UsageError(
            f"--limit {chosen.limit} takes the first inputs, which the processes of {option} do "
            "not know; leave one of them out"
        )


@contextmanager
def handed_on(inputs: Inputs) -> Iterator[Path | None]:
    """A list on stdin as a file that each process reads; lists that can be read once are refused.

    Without one, what is wrong with the inputs is said here, once.
    """
    from camcli.images.discover import Walk
    from camcli.images.listing import piped

    for name in inputs.list_files:
        if name != "-" and os.path.exists(name) and not stat.S_ISREG(os.stat(name).st_mode):
            raise UsageError(
                f"--files-from {name} is no file that several processes can read; "
                "pipe the list in (--files-from -), or save it"
            )
    if "-" not in (*inputs.roots, *inputs.list_files):
        Walk(inputs).some()
        yield None
        return
    with tempfile.NamedTemporaryFile(prefix="camcli-list-") as file:
        shutil.copyfileobj(piped(), file)
        file.flush()
        yield Path(file.name)
