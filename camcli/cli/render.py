"""`camcli render`"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from camcli import config as settings
from camcli.cli.console import complain, progress, say, shown
from camcli.cli.explain import scale_value
from camcli.cli.options import with_settings
from camcli.cli.process import own_process
from camcli.outputs.files import locked

if TYPE_CHECKING:
    from camcli.outputs.redraw import Redraw, Scale

_SETTINGS = ("colormap", "alpha", "blend", "overlay_size", "overlay_format", "max_pixels",
             "lock_timeout", "quiet", "progress")  # fmt: skip
_FAILURES = 3


@with_settings(_SETTINGS)
def command(
    output: Annotated[Path, typer.Argument(help="The output directory of an explain run.")],
    scale: Annotated[
        str | None,
        typer.Option(
            "--scale",
            help="What is drawn as hottest: each map's maximum, the run's, or a value.",
            metavar="image|run|VALUE",
        ),
    ] = None,
    signed: Annotated[
        bool | None,
        typer.Option("--signed/--rectified", help="Show negative evidence too, blue to red."),
    ] = None,
    caption: Annotated[
        bool | None,
        typer.Option("--caption/--no-caption", help="Add class, score and a colour bar."),
    ] = None,
    **flags: Any,
) -> None:
    """Draw a run's overlays again from its NPZ and the pictures, without the model.

    What is not given stays as it was drawn before.

    Example: camcli render out --scale run --colormap viridis --caption
    """
    from camcli.outputs import manifest
    from camcli.outputs.redraw import Redraw
    from camcli.outputs.render import Style

    runs = manifest.require_all(output)
    drawn_before = next(iter(runs.values()))["drawing"]
    given = {name: settings.parse(name, value, "--" + name.replace("_", "-"))
             for name, value in flags.items() if value is not None}  # fmt: skip
    chosen = drawn_before | {k: v for k, v in given.items() if k in drawn_before}
    chosen |= {k: v for k, v in (("signed", signed), ("caption", caption)) if v is not None}
    wanted = scale if scale is not None else str(chosen["scale"])
    value: Scale = cast("Scale", wanted) if wanted in ("image", "run") else scale_value(wanted)
    chosen["scale"] = "image" if value == "run" else value
    quiet = given.get("quiet", False)
    own_process()
    with locked(output, given.get("lock_timeout", 0.0)):
        redraw = Redraw(output, Style(**chosen), value,
                        given.get("max_pixels", settings.Config.max_pixels))  # fmt: skip
        drawn, failed = _draw(redraw, quiet, given.get("progress", True))
    if not quiet:
        lost = f", {failed:,} failed" if failed else ""
        where = "tars" if next(iter(runs.values())).get("sink") == "tar" else "overlays"
        say(f"camcli: {drawn:,} pictures redrawn{lost}: {shown(str(output))}/{where}")
    raise typer.Exit(_FAILURES if failed else 0)


def _draw(redraw: Redraw, quiet: bool, wanted: bool) -> tuple[int, int]:
    from camcli.records import Failure

    drawn = failed = 0
    with progress(quiet, wanted) as bar:
        for picture in redraw.pictures():
            bar.advance()
            if isinstance(picture, Failure):
                failed += 1
                complain(f"{picture.ref.path}: {picture.message}")
            else:
                drawn += 1
    redraw.finish()
    return drawn, failed
