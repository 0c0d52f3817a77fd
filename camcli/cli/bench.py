"""`camcli bench`"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from camcli import config as settings
from camcli.cli.console import complain, counted, progress, say, shown
from camcli.cli.explain import job_of
from camcli.cli.options import with_settings
from camcli.cli.process import own_process
from camcli.cli.request import model_request
from camcli.config import Config

if TYPE_CHECKING:
    from camcli.engine import Engine
    from camcli.timing import FolderTimes, TimedRun

_LEFT_OUT = {"output", "json", "max_errors", "fail_fast", "retry_failed", "overwrite",
             "lock_timeout", "dry_run", "verbose"}  # fmt: skip
_SETTINGS = [name for name in settings.options() if name not in _LEFT_OUT]
_LIMIT = 256
_FEW_BATCHES = 4
_FAILURES = 3


@with_settings(_SETTINGS, {"limit": _LIMIT})
def command(
    inputs: Annotated[
        list[str] | None,
        typer.Argument(help="Pictures and folders; without any, only the model is measured."),
    ] = None,
    rounds: Annotated[
        int, typer.Option(help="How often the batch is run each way.", min=1, metavar="N")
    ] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
    config: Annotated[
        Path | None, typer.Option("--config", help="A TOML file of settings.", metavar="FILE")
    ] = None,
    **flags: Any,
) -> None:
    """Measure a model and a folder: what explaining costs, and where the time goes.

    A plain forward pass of one batch and explaining it, by turns; then a run over the pictures,
    into a temporary directory (TMPDIR says where) that is removed afterwards.

    Example: camcli bench samples --batch-size 4 --rounds 3
    """
    chosen, origins = settings.resolve(flags, os.environ, config)
    if origins["limit"] == "default":
        chosen = dataclasses.replace(chosen, limit=_LIMIT)
    own_process()
    started, folder = time.perf_counter(), None
    if inputs or chosen.files_from:
        run = _explained(chosen, tuple(inputs or ()))
        engine, ready, folder = run.engine, run.model_seconds, run.times
        assert engine is not None
    else:
        engine = _engine(chosen)
        ready = time.perf_counter() - started
    found = _measured(engine, rounds, folder) | {"ready_seconds": ready}
    if as_json:
        print(json.dumps(found))
    else:
        for line in _table(found):
            print(line)
    if (
        folder is not None
        and not chosen.quiet
        and folder.pictures < _FEW_BATCHES * engine.batch_size
    ):
        say(f"camcli: {counted(folder.pictures, 'picture')} only, and every batch is filled up to "
            f"{engine.batch_size}; measure on more")  # fmt: skip
    raise typer.Exit(_FAILURES if folder is not None and run.summary.failed else 0)


def _explained(chosen: Config, inputs: tuple[str, ...]) -> TimedRun:
    """A run over the inputs; what it writes is gone afterwards."""
    import tempfile

    from camcli.timing import TimedRun

    with tempfile.TemporaryDirectory(prefix="camcli-bench-") as folder:
        run = TimedRun(job_of(dataclasses.replace(chosen, output=Path(folder)), inputs, set()))
        with progress(chosen.quiet, chosen.progress) as bar:
            for record in run.records():
                bar.advance()
                if record["status"] == "error":
                    complain(f"{record['path']}: {record['error']['message']}")
    return run


def _engine(chosen: Config) -> Engine:
    from camcli.engine import Engine
    from camcli.models.opening import open_request

    return Engine(open_request(model_request(chosen)), methods=chosen.method, layers=chosen.layer,
                  target=chosen.target, batch_size=chosen.batch_size,
                  smooth=chosen.smooth)  # fmt: skip


def _measured(engine: Engine, rounds: int, folder: FolderTimes | None) -> dict[str, Any]:
    """Everything that is known, as --json prints it."""
    import torch

    from camcli import timing

    model, peak = engine.model, timing.peak_memory()
    batch = timing.batch_times(engine, rounds)
    return {
        "model": model.name,
        "device": str(model.device),
        "precision": model.precision,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "batch_size": engine.batch_size,
        "batch": {
            "plain_ms": batch.plain,
            "explaining_ms": batch.explaining,
            "ratio": batch.ratio,
        },
        "folder": None if folder is None else dataclasses.asdict(folder),
        "peak_memory": timing.peak_memory() if folder is None else peak,
        "peak_device_memory": timing.peak_device_memory(model.device),
    }


def _table(found: dict[str, Any]) -> Iterator[str]:
    batch, folder, size = found["batch"], found["folder"], found["batch_size"]
    yield (f"{shown(found['model'])} on {found['device']}, {found['precision']}, "
           f"{counted(found['threads'], 'thread')}, torch {found['torch']}, "
           f"ready in {found['ready_seconds']:.1f} s")  # fmt: skip
    yield ""
    yield f"{f'one batch of {size}':<26}  ms a picture"
    yield f"  {'plain forward':<24}  {batch['plain_ms']:>12.2f}"
    yield f"  {'explaining':<24}  {batch['explaining_ms']:>12.2f}  {batch['ratio']:.2f} times plain"
    if folder is not None and folder["pictures"]:
        yield ""
        yield from _stages(folder)
    yield ""
    memory = [f"{found['peak_memory'] / 2**20:,.0f} MiB of memory at most"]
    if found["peak_device_memory"] is not None:
        memory.append(f"{found['peak_device_memory'] / 2**20:,.0f} MiB of the device's")
    yield ", ".join(memory)


def _stages(folder: dict[str, Any]) -> Iterator[str]:
    pictures, seconds, workers = folder["pictures"], folder["seconds"], folder["workers"]
    yield f"{counted(pictures, 'picture'):<26}  ms a picture   share"
    busy = sum(folder[name] for name in ("decode", "render", "write"))
    idle = max(0.0, workers * seconds - busy)
    for heading, whole, names in (
        ("the model's thread", seconds, ("forward", "maps", "wait", "record")),
        (
            counted(workers, "worker thread"),
            workers * seconds,
            ("decode", "render", "write", "idle"),
        ),
    ):
        yield heading
        for name in names:
            spent = idle if name == "idle" else folder[name]
            yield f"  {name:<24}  {1000 * spent / pictures:>12.2f}  {spent / whole:>6.1%}"
    yield f"{pictures / seconds:.1f} pictures a second"
