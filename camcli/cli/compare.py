"""`camcli compare`"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from camcli import config as settings
from camcli.cli.console import complain, progress, say, shown
from camcli.cli.explain import style_of
from camcli.cli.options import with_settings
from camcli.cli.process import own_process
from camcli.cli.request import OPENING, check_decoding, model_request
from camcli.config import Config
from camcli.errors import OutputError, UsageError
from camcli.outputs.files import atomic

if TYPE_CHECKING:
    from camcli.engine import Engine
    from camcli.outputs.render import Style
    from camcli.records import Explanation, Failure, ImageRef

_SETTINGS = ("method", "layer", "smooth", "target", "model", "weights", "labels", *OPENING,
             "device", "files_from", "null", "include", "exclude", "output", "colormap", "alpha",
             "blend", "scale", "overlay_size", "size", "resize", "mean", "std", "interpolation",
             "fit", "workers", "max_pixels", "isolate", "decode_timeout", "quiet",
             "progress")  # fmt: skip
_DEFAULTS: dict[str, Any] = {
    "method": ("hirescam", "gradcam", "gradcampp", "layercam", "xgradcam", "eigencam"),
    "output": Path("camcli-compare"),
    "overlay_size": 320,
}
_BATCH = 4
_FAILURES = 3


@with_settings(_SETTINGS, _DEFAULTS)
def command(
    inputs: Annotated[
        list[str] | None,
        typer.Argument(help="Pictures and folders; - reads a list of paths from stdin."),
    ] = None,
    signed: Annotated[
        bool, typer.Option("--signed/--rectified", help="Show negative evidence, blue to red.")
    ] = False,
    config: Annotated[
        Path | None, typer.Option("--config", help="A TOML file of settings.", metavar="FILE")
    ] = None,
    **flags: Any,
) -> None:
    """Draw the maps of several methods, layers or classes side by side: a PNG for each picture.

    Rows are methods, columns layers or classes. Each map has its own colour scale, stated below
    it; where a map shows nothing, it says why.

    Example: camcli compare samples/coffee.jpg --method hirescam,gradcam --target top:2
    """
    from camcli.images.discover import Inputs, Walk
    from camcli.records import Failure

    chosen, origins = settings.resolve(flags, os.environ, config)
    chosen = dataclasses.replace(
        chosen, **{name: value for name, value in _DEFAULTS.items() if origins[name] == "default"}
    )
    if not inputs and not chosen.files_from:
        raise UsageError("nothing to compare: name pictures or folders, or --files-from FILE")
    check_decoding(chosen, {name for name, origin in origins.items() if origin != "default"})
    walk = Walk(Inputs(tuple(inputs or ()), chosen.files_from, chosen.null, chosen.include,
                       chosen.exclude))  # fmt: skip
    refs = walk.some()
    style = dataclasses.replace(style_of(chosen), signed=signed)
    own_process()
    engine = _engine(chosen)
    try:
        chosen.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unusable(chosen.output, error) from error
    drawn = failed = 0
    with progress(chosen.quiet, chosen.progress) as bar:
        for outcome in _pages(engine, refs, chosen, style):
            bar.advance()
            if isinstance(outcome, Failure):
                failed += 1
                complain(f"{outcome.ref.path}: {outcome.message}")
            else:
                drawn += 1
    if not chosen.quiet:
        lost = f", {failed:,} failed" if failed else ""
        say(f"camcli: {drawn:,} compared{lost}: {shown(str(chosen.output))}")
        for sentence in engine.model.remarks:
            say(shown(sentence))
    raise typer.Exit(_FAILURES if failed else 0)


def _engine(chosen: Config) -> Engine:
    from camcli.engine import Engine
    from camcli.models.opening import open_request

    model = open_request(model_request(chosen))
    return Engine(model, methods=chosen.method, layers=chosen.layer, target=chosen.target,
                  batch_size=_BATCH, smooth=chosen.smooth)  # fmt: skip


@dataclass(frozen=True)
class _Drawn:
    """A page that was written, and the bytes that were held for it."""

    nbytes: int


def _pages(
    engine: Engine, refs: Iterator[ImageRef], chosen: Config, style: Style
) -> Iterator[_Drawn | Failure]:
    """Explain and draw, picture by picture; threads decode and write."""
    from concurrent.futures import ThreadPoolExecutor

    from camcli.images.decode import DecodeSettings, failure
    from camcli.images.isolated import decoding
    from camcli.outputs.files import FATAL
    from camcli.pipeline import bounded_map, explained
    from camcli.records import Failure

    recipe = DecodeSettings(engine.model.preprocessing, style.overlay_size, chosen.max_pixels)
    workers = chosen.workers or os.cpu_count() or 1

    def write(outcome: Explanation | Failure) -> _Drawn | Failure:
        if isinstance(outcome, Failure):
            return outcome
        try:
            return _written(outcome, chosen.output, style)
        except OSError as error:
            if error.errno in FATAL:
                raise OutputError(
                    f"cannot write to '{chosen.output}' ({error.strerror})"
                ) from error
            return failure(outcome.ref, outcome.image.facts, error, "write")

    with (
        decoding(chosen.isolate, workers, chosen.decode_timeout) as decoder,
        ThreadPoolExecutor(workers) as pool,
    ):
        found = explained(engine, refs, recipe, workers, decoder)
        yield from bounded_map(pool, write, found, 2 * workers, prompt=True)


def _unusable(output: Path, error: OSError) -> OutputError:
    return OutputError(f"cannot write to '{output}' ({error.strerror}); choose another with -o")


def _written(explanation: Explanation, output: Path, style: Style) -> _Drawn:
    from camcli.outputs import grid, render
    from camcli.outputs.paths import comparison_path

    page = grid.page(explanation, style)
    with atomic(output / comparison_path(explanation.ref.key)) as file:
        render.save(page, file, "png")
    return _Drawn(explanation.nbytes + 3 * page.width * page.height)
