"""`camcli report`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from camcli import config as settings
from camcli.cli.console import complain, counted, progress, say, shown
from camcli.cli.options import with_settings
from camcli.cli.process import own_process
from camcli.outputs.files import locked


@with_settings(("max_pixels", "lock_timeout", "quiet", "progress"))
def command(
    output: Annotated[Path, typer.Argument(help="The output directory of an explain run.")],
    truth: Annotated[
        str | None,
        typer.Option(
            "--truth",
            help="Given classes, to tell right from wrong: the folders' names, or a table.",
            metavar="folder|label|csv:FILE",
        ),
    ] = None,
    embed: Annotated[
        bool,
        typer.Option(
            "--self-contained", help="One file that holds all, the pictures reduced; up to 2,000."
        ),
    ] = False,
    **flags: Any,
) -> None:
    """Make a page to look through a run: report/index.html in its directory.

    It opens in a browser from the disk, without a server or a network.

    Example: camcli report out
    """
    from camcli.outputs import manifest
    from camcli.report.building import FOLDER, build

    given = {name: settings.parse(name, value, "--" + name.replace("_", "-"))
             for name, value in flags.items() if value is not None}  # fmt: skip
    quiet = given.get("quiet", False)
    manifest.require_all(output)  # before a lock would make the directory
    own_process()
    with (
        locked(output / FOLDER, given.get("lock_timeout", 0.0)),
        progress(quiet, given.get("progress", True)) as bar,
    ):
        limit = given.get("max_pixels", settings.Config.max_pixels)
        made = build(output, truth, embed, limit, bar.advance)
    if made.unreadable:
        are = "is" if made.unreadable == 1 else "are"
        complain(f"the outputs of {counted(made.unreadable, 'picture')} cannot be read and {are} "
                 f"shown as failed; camcli verify {output} says more")  # fmt: skip
    if not quiet:
        failed = f", {made.failed:,} failed" if made.failed else ""
        count = counted(made.pictures, "picture")
        say(f"camcli: {count}{failed}: {shown(str(output / FOLDER))}/index.html")
        if made.unfinished:
            say("camcli: the run is not finished; the report shows what is committed so far")
