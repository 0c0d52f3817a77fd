"""`camcli evaluate`"""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import camcli
from camcli import config as settings
from camcli import evaluation as _registered
from camcli.cli.console import complain, progress, say, shown
from camcli.cli.options import with_settings
from camcli.cli.process import interruptible, own_process
from camcli.cli.request import OPENING, model_request
from camcli.config import Config
from camcli.errors import UsageError
from camcli.registry import METRICS, Metric, find_metrics

if TYPE_CHECKING:
    from camcli.evaluation.driver import Evaluation, Plan

__all__ = ["_registered", "command"]

_MAPS = ("method", "layer", "smooth", "target", "model", "weights", "labels",
         *(name for name in OPENING if name != "trust_model"), "files_from", "null", "include",
         "exclude", "size", "resize", "mean", "std", "interpolation", "fit",
         "batch_size")  # fmt: skip
_SETTINGS = (*_MAPS, "trust_model", "device", "output", "workers", "limit", "max_pixels", "quiet",
             "progress")  # fmt: skip
_DEFAULTS: dict[str, Any] = {"method": ("all-gradient",), "output": Path("camcli-evaluation")}
_FAILURES = 3


@with_settings(_SETTINGS, _DEFAULTS)
def command(
    inputs: Annotated[
        list[str] | None,
        typer.Argument(help="Pictures and folders to explain, or the -o of an explain run."),
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(help=f"A comma list of {', '.join(METRICS)}.", metavar="NAME,…"),
    ] = None,
    seed: Annotated[
        int, typer.Option(help="Of the sample of pictures, noise and bootstrap.", min=0)
    ] = 0,
    annotations: Annotated[
        Path | None,
        typer.Option(
            help="Marked objects: COCO JSON, Pascal VOC XML (or a folder of it), or a folder of "
            "mask PNGs.",
            metavar="PATH",
        ),
    ] = None,
    annotation_classes: Annotated[
        Path | None,
        typer.Option(
            help='JSON, {"their class": ["the model\'s", ...]}, where names differ.',
            metavar="FILE",
        ),
    ] = None,
    sanity: Annotated[
        bool, typer.Option("--sanity", help="Randomise the network and see whether maps notice.")
    ] = False,
    config: Annotated[
        Path | None, typer.Option("--config", help="A TOML file of settings.", metavar="FILE")
    ] = None,
    **flags: Any,
) -> None:
    """Measure what maps are worth: faithfulness, robustness, complexity and, where objects are
    marked (--annotations), localisation, beside baselines.

    Pictures are explained and measured; of a finished run, the maps that it has written. A table
    of means with 95 % bootstrap intervals goes to stdout, evaluation.json and evaluation.csv into
    the output directory (of a run: its own evaluation/). Costly metrics take a random sample;
    --limit N has every metric take N pictures. grid_pointing, which explains mosaics of four
    pictures, is measured where --metrics names it.

    Example: camcli evaluate samples -m hirescam,layercam --metrics average_drop,sparseness
    """
    chosen, origins = settings.resolve(flags, os.environ, config)
    chosen = dataclasses.replace(
        chosen, **{name: value for name, value in _DEFAULTS.items() if origins[name] == "default"}
    )
    if not inputs and not chosen.files_from:
        raise UsageError("nothing to evaluate: name pictures, folders, or the -o of an explain run")
    asked = _metrics(metrics, annotations)
    if annotation_classes is not None and annotations is None:
        raise UsageError("--annotation-classes says what --annotations means; give that too")
    run = _run_among(inputs or [], origins)
    own_process()
    marked = {"annotations": annotations, "words": annotation_classes, "sanity": sanity}
    evaluation = _opened(chosen, asked, seed, inputs or [], run, marked)
    output = chosen.output
    if run is not None and origins["output"] == "default":
        from camcli.outputs.derived import EVALUATION

        output = run / EVALUATION
    with interruptible(lambda _: evaluation.stop()) as received:
        _measure(evaluation, chosen)
        _report(evaluation, output, chosen.quiet)
    if received:
        say(f"camcli: stopped by {signal.Signals(received[0]).name}; what was measured is kept")
        raise typer.Exit(128 + received[0])
    raise typer.Exit(_FAILURES if evaluation.failed else 0)


def _metrics(names: str | None, annotations: Path | None) -> list[Metric]:
    left_out = {"mosaics"} if annotations else {"mosaics", "annotations"}
    if names is None:
        return [metric for metric in METRICS.values() if metric.needs not in left_out]
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    if not wanted:
        raise UsageError("--metrics needs at least one name; list them: camcli evaluate --help")
    found = find_metrics(wanted)
    unserved = [metric.name for metric in found if metric.needs == "annotations"]
    if unserved and annotations is None:
        raise UsageError(f"{unserved[0]} measures marked objects; give --annotations PATH")
    return found


def _run_among(inputs: Sequence[str], origins: dict[str, str]) -> Path | None:
    """The output directory that is to be evaluated; None where pictures are."""
    from camcli.outputs import manifest

    runs = [Path(name) for name in inputs if os.path.isdir(name) and manifest.started(Path(name))]
    if not runs:
        return None
    if len(inputs) > 1:
        raise UsageError(f"'{runs[0]}' is an explain run: evaluate it alone, without other inputs")
    for name in _MAPS:
        if origins[name] not in ("default", "environment"):
            flag = settings.options()[name].flags[-1]
            raise UsageError(f"'{runs[0]}' says itself what {flag} was; leave it away")
    return runs[0]


def _opened(
    chosen: Config,
    asked: list[Metric],
    seed: int,
    inputs: Sequence[str],
    run: Path | None,
    marked: dict[str, Any],
) -> Evaluation:
    from camcli.evaluation.driver import Plan, of_pictures, of_run
    from camcli.images.discover import Inputs

    plan: Plan = Plan(
        tuple(asked),
        seed,
        chosen.limit,
        chosen.workers or os.cpu_count() or 1,
        chosen.max_pixels,
        **marked,
    )
    if run is not None:
        return of_run(plan, run, chosen.device, chosen.trust_model)
    return of_pictures(
        plan,
        Inputs(tuple(inputs), chosen.files_from, chosen.null, chosen.include, chosen.exclude),
        model_request(chosen),
        methods=chosen.method,
        layers=chosen.layer,
        target=chosen.target,
        smooth=chosen.smooth,
        batch_size=chosen.batch_size,
    )


def _measure(evaluation: Evaluation, chosen: Config) -> None:
    with progress(chosen.quiet, chosen.progress) as bar:
        for failure in evaluation.pictures():
            bar.advance()
            if failure is not None:
                complain(f"{failure.ref.path}: {failure.message}")


def _report(evaluation: Evaluation, output: Path, quiet: bool) -> None:
    measured = evaluation.measured
    if measured.keys:
        _write(evaluation, output)
    if not quiet:
        lost = f", {evaluation.failed:,} failed" if evaluation.failed else ""
        say(f"camcli: {len(measured.keys):,} measured{lost}: {shown(str(output))}")
        for sentence in evaluation.remarks:
            say(shown(sentence))


def _write(evaluation: Evaluation, output: Path) -> None:
    from camcli.evaluation import report
    from camcli.evaluation.contradictions import contradictions, told

    measured = evaluation.measured
    grid = evaluation.games.grid
    found = [*report.findings(measured), *(report.findings(grid) if grid else ())]
    contradicting = [*contradictions(measured)]
    about = evaluation.about(camcli.__version__)
    report.write(output, about, found, contradicting, measured, evaluation.games)
    for line in report.table(found) if found else ():
        print(shown(line))
    for verdict in evaluation.games.sanity:
        print(shown(verdict.sentence))
    for sentence in told(contradicting, report.names_of(measured.rows)):
        print(shown(sentence))
