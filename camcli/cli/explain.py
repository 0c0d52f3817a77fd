"""`camcli explain`"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

import camcli
from camcli import config as settings
from camcli.cli.console import Progress, complain, progress, say, shown
from camcli.cli.fleet import ALL_GPUS, explain_on
from camcli.cli.options import with_settings
from camcli.cli.process import interruptible, suit_torch
from camcli.cli.request import model_request
from camcli.cluster.environment import shard_here
from camcli.config import Config
from camcli.errors import OutputError, UsageError
from camcli.outputs.files import locked
from camcli.shard import WHOLE, Shard

if TYPE_CHECKING:
    from camcli.job import Job
    from camcli.outputs.record import Record
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
    **flags: Any,
) -> None:
    """Explain pictures: an overlay, a JSON record and an NPZ of raw maps for each.

    Example: camcli explain samples --method hirescam,gradcam --target top:2 -o out
    """
    from camcli.images.decode import own_pillow
    from camcli.run import Run

    chosen, origins = settings.resolve(flags, os.environ, config)
    asked = {name for name, origin in origins.items() if origin != "default"}
    job = job_of(chosen, tuple(inputs or ()), asked, _shard(chosen))
    if chosen.device == ALL_GPUS:
        from camcli.cluster.launcher import visible_gpus

        gpus = visible_gpus()
        if len(gpus) > 1:
            raise typer.Exit(explain_on(gpus, job, chosen))
        job = dataclasses.replace(job, model=dataclasses.replace(job.model, device=gpus[0]))
    own_pillow()
    # A journal of a million lines takes a sixth less where memory is given back.
    run = Run(job, before_model=suit_torch)
    if chosen.dry_run:
        _list(run, chosen.verbose)
        return
    held = locked(job.output, chosen.lock_timeout, job.shard)
    stopping = interruptible(lambda number: run.stop(signal.Signals(number).name))
    with held, stopping as received:
        _work(run, chosen)
    _report(run.summary, chosen)
    raise typer.Exit(_status(run.summary, received))


def _shard(chosen: Config) -> Shard:
    """The part of the inputs that is asked for, by a setting or by what started this process."""
    if chosen.shard != "auto":
        return Shard.parsed(chosen.shard, "--shard")
    shard, told_by = shard_here(os.environ)
    if told_by and not chosen.quiet:
        say(f"camcli: shard {shard}, as {told_by} say; --shard none explains all inputs")
    return shard


def job_of(chosen: Config, inputs: tuple[str, ...], asked: set[str], shard: Shard = WHOLE) -> Job:
    """The run that the settings ask for; `asked` names those that are no defaults."""
    from camcli.images.discover import Inputs
    from camcli.job import Job
    from camcli.outputs.render import Style

    if not inputs and not chosen.files_from:
        raise UsageError("nothing to explain: name pictures or folders, or --files-from FILE")
    if "decode_timeout" in asked and not chosen.isolate:
        raise UsageError(
            f"--decode-timeout {chosen.decode_timeout:g} needs --isolate: "
            "a thread that decodes cannot be stopped, a process can"
        )
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


def _work(run: Run, chosen: Config) -> None:
    with progress(chosen.quiet, chosen.progress) as bar:
        for record in run.records():
            _tell(record, chosen, bar)
            if chosen.json and sys.stdout is not None and not run.summary.stopped:
                _emit(record, run)


def _emit(record: Record, run: Run) -> None:
    """One JSON line on stdout; when its reader has gone, the run ends with what it has."""
    try:
        sys.stdout.write(json.dumps(record, ensure_ascii=True) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        run.stop("closed pipe")
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        raise OutputError(f"cannot write to stdout ({error.strerror})") from error


def _tell(record: Record, chosen: Config, bar: Progress) -> None:
    bar.advance()
    if record["status"] == "error":
        complain(f"{record['path']}: {record['error']['message']}")
    elif chosen.verbose:
        best = record["predictions"][0]
        say(f"{shown(record['path'])}: {shown(best['label'])} {best['probability']:.2f}")


def _list(run: Run, verbose: bool) -> None:
    """What would be explained, one path a line (`path<TAB>reason` with --verbose)."""
    counts: Counter[str] = Counter()
    for ref, reason in run.pending():
        print(f"{shown(ref.path)}\t{reason}" if verbose else shown(ref.path))
        counts[reason] += 1
    summary = run.summary
    redrawn = f", {summary.redrawn:,} would be redrawn" if summary.redrawn else ""
    say(
        f"camcli: {counts.total():,} would be explained, {summary.already_done:,} already done, "
        f"{summary.failed_earlier:,} failed earlier{redrawn}"
    )
    if counts:
        say(f"camcli: {', '.join(f'{number:,} {reason}' for reason, number in counts.items())}")


def _report(summary: Summary, chosen: Config) -> None:
    """The closing lines: counts, what the maps are worth, where to look."""
    if chosen.quiet:
        return
    done = summary.done + summary.failed
    counts = [f"{summary.done:,} explained"]
    for number, what in (
        (summary.failed, "failed"),
        (summary.changed, "changed since an earlier run"),
        (summary.already_done, "already done"),
        (summary.failed_earlier, "failed in an earlier run (--retry-failed tries again)"),
        (summary.redrawn, "redrawn"),
        (summary.ignored, "other file ignored" if summary.ignored == 1 else "other files ignored"),
    ):
        if number:
            counts.append(f"{number:,} {what}")
    speed = f" in {summary.seconds:.1f} s" if done else ""
    say(f"camcli: {', '.join(counts)}{speed}: {shown(str(chosen.output))}")
    if summary.stopped and summary.stopped != "closed pipe":
        say(f"camcli: stopped by {summary.stopped}; the same command goes on from here")
    for sentence in (*summary.remarks, *summary.verdict):
        say(shown(sentence))


def _status(summary: Summary, received: list[int]) -> int:
    if received:
        return 128 + received[0]
    return _FAILURES if summary.failed else 0
