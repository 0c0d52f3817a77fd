"""`camcli explain`"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

import camcli
from camcli import config as settings
from camcli.cli.console import emit, shown
from camcli.cli.events import LOG_JSON, Events, Sentences
from camcli.cli.fleet import ALL_GPUS, explain_on
from camcli.cli.options import with_settings
from camcli.cli.process import die_with, interruptible, suit_torch
from camcli.cli.request import check_decoding, model_request
from camcli.cluster.environment import shard_here
from camcli.config import Config
from camcli.errors import CamcliError, UsageError
from camcli.outputs.files import locked
from camcli.shard import WHOLE, Shard

if TYPE_CHECKING:
    from camcli.job import Job
    from camcli.outputs.render import Blend, OverlayFormat, Style
    from camcli.records import Smoothing
    from camcli.run import Run, Summary

_FAILURES = 3


@with_settings(settings.options())
def command(
    inputs: Annotated[
        list[str] | None,
        typer.Argument(help="Pictures and folders; - reads a list of paths from stdin."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="A TOML file of settings.", metavar="FILE")
    ] = None,
    parent: Annotated[int | None, typer.Option("--parent", hidden=True)] = None,
    watched: Annotated[bool, typer.Option("--watched", hidden=True)] = False,
    **flags: Any,
) -> None:
    """Explain pictures: an overlay, a JSON record and an NPZ of raw maps for each.

    Example: camcli explain samples --method hirescam,gradcam --target top:2 -o out
    """
    try:
        chosen, origins = settings.resolve(flags, os.environ, config)
    except UsageError as error:
        if LOG_JSON not in (flags["log_format"], os.environ.get("CAMCLI_LOG_FORMAT")):
            raise
        Events(Config()).error(error)
        raise typer.Exit(error.exit_status) from error
    if parent is not None:  # of several that share a run, which is to be free with its lock
        die_with(parent)
    if watched:  # by a process that starts this one again when it is lost
        chosen = dataclasses.replace(chosen, log_format=LOG_JSON, quiet=False, progress=False)
    teller = Events(chosen) if chosen.log_format == LOG_JSON else Sentences(chosen)
    teller.started()
    asked = {name for name, origin in origins.items() if origin != "default"}
    try:
        job = job_of(chosen, tuple(inputs or ()), asked, _shard(chosen, teller))
        job = dataclasses.replace(job, watched=watched)
        status = _run(job, chosen, teller)
    except CamcliError as error:
        teller.error(error)
        raise typer.Exit(error.exit_status) from error
    raise typer.Exit(status)


def _run(job: Job, chosen: Config, teller: Sentences) -> int:
    """Do what is left, or list it; the exit status."""
    from camcli.images.decode import own_pillow
    from camcli.run import Run

    if chosen.ray != "none":
        from camcli.cli.ray import explain_on_ray

        return explain_on_ray(job, chosen, teller)
    if chosen.device == ALL_GPUS:
        from camcli.cluster.launcher import visible_gpus

        gpus = visible_gpus()
        if len(gpus) > 1:
            return explain_on(gpus, job, chosen, teller)
        job = dataclasses.replace(job, model=dataclasses.replace(job.model, device=gpus[0]))
    own_pillow()
    # A journal of a million lines takes a sixth less where memory is given back.
    run = Run(job, before_model=suit_torch)
    teller.summary = run.summary
    if chosen.dry_run:
        list_pending([run], chosen.verbose, teller)
        return 0
    held = locked(job.output, chosen.lock_timeout, job.shard)
    stopping = interruptible(lambda number: run.stop(signal.Signals(number).name))
    with held, stopping as received:
        _work(run, chosen, teller)
    status = _status(run.summary, received)
    teller.finished(status)
    return status


def _shard(chosen: Config, teller: Sentences) -> Shard:
    """The part of the inputs that is asked for, by a setting or by what started this process."""
    if chosen.shard != "auto":
        return Shard.parsed(chosen.shard, "--shard")
    shard, told_by = shard_here(os.environ)
    if told_by and not chosen.quiet:
        teller.remark(f"camcli: shard {shard}, as {told_by} say; --shard none explains all inputs")
    return shard


def job_of(chosen: Config, inputs: tuple[str, ...], asked: set[str], shard: Shard = WHOLE) -> Job:
    """The run that the settings ask for; `asked` names those that are no defaults."""
    from camcli.images.discover import Inputs
    from camcli.job import Job
    from camcli.outputs.render import Style

    if not inputs and not chosen.files_from:
        raise UsageError("nothing to explain: name pictures or folders, or --files-from FILE")
    check_decoding(chosen, asked)
    if "shard_size" in asked and chosen.sink != "tar":
        raise UsageError("--shard-size is the size of tars; give --sink tar too, or leave it out")
    if chosen.overwrite and shard != WHOLE:
        raise UsageError(
            f"shard {shard} cannot --overwrite '{chosen.output}', which holds the other shards' "
            "work too; remove it before they start, or choose another directory with -o"
        )
    return Job(
        inputs=Inputs(inputs, chosen.files_from, chosen.null, chosen.include, chosen.exclude),
        output=chosen.output,
        model=model_request(chosen),
        methods=chosen.method,
        layers=chosen.layer,
        smooth=cast("tuple[Smoothing, ...]", chosen.smooth),
        target=chosen.target,
        write=frozenset(chosen.write),
        style=style_of(chosen),
        restyled=frozenset(asked & {field.name for field in dataclasses.fields(Style)}),
        max_pixels=chosen.max_pixels,
        workers=chosen.workers or os.cpu_count() or 1,
        batch_size=chosen.batch_size,
        overwrite=chosen.overwrite,
        retry_failed=chosen.retry_failed,
        max_errors=chosen.max_errors,
        fail_fast=chosen.fail_fast,
        limit=chosen.limit,
        isolate=chosen.isolate,
        decode_timeout=chosen.decode_timeout,
        version=camcli.__version__,
        shard=shard,
        sink=cast("Literal['files', 'tar']", chosen.sink),
        shard_size=chosen.shard_size,
    )


def style_of(chosen: Config) -> Style:
    """How overlays are drawn."""
    from camcli.outputs.render import Style

    return Style(
        colormap=chosen.colormap,
        alpha=chosen.alpha,
        blend=cast("Blend", chosen.blend),
        scale="image" if chosen.scale == "image" else scale_value(chosen.scale),
        overlay_size=chosen.overlay_size,
        overlay_format=cast("OverlayFormat", chosen.overlay_format),
    )


def scale_value(text: str) -> float:
    """The value of `--scale VALUE`."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise UsageError(
            f"--scale must be image or a positive number, not '{text}'; a scale shared by a run "
            "is drawn afterwards: camcli render OUT --scale run"
        )
    return value


def _work(run: Run, chosen: Config, teller: Sentences) -> None:
    with teller.progress() as bar:
        for record in run.records():
            teller.record(record, bar)
            wanted = chosen.json and sys.stdout is not None and not run.summary.stopped
            if wanted and not emit(json.dumps(record, ensure_ascii=True).encode() + b"\n"):
                run.stop("closed pipe")


def list_pending(runs: Iterable[Run], verbose: bool, teller: Sentences) -> None:
    """What would be explained, one path a line (`path<TAB>reason` with --verbose)."""
    reasons: Counter[str] = Counter()
    for ref, reason in itertools.chain.from_iterable(run.pending() for run in runs):
        line = f"{shown(ref.path)}\t{reason}" if verbose else shown(ref.path)
        if not emit(line + "\n"):
            return
        reasons[reason] += 1
    teller.planned(reasons)


def _status(summary: Summary, received: list[int]) -> int:
    if received:
        return 128 + received[0]
    return _FAILURES if summary.failed else 0
