"""`camcli merge`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from camcli import config as settings
from camcli.cli.console import say, shown
from camcli.cli.options import with_settings
from camcli.errors import UsageError
from camcli.outputs.files import locked


@with_settings(("lock_timeout", "quiet"))
def command(
    outputs: Annotated[
        list[Path], typer.Argument(help="Output directories of runs with --shard, each for itself.")
    ],
    **flags: Any,
) -> None:
    """Make one run of the shards in a directory: one journal, one run.json.

    All of them have to be done. Maps, records and overlays stay as they are, and explain goes on
    without --shard.

    Example: camcli merge out
    """
    from camcli.outputs.merging import merge

    given = {name: settings.parse(name, value, "--" + name.replace("_", "-"))
             for name, value in flags.items() if value is not None}  # fmt: skip
    for output in outputs:
        if not output.is_dir():
            raise UsageError(f"no directory '{output}'; give the -o of an explain run")
    for output in outputs:
        with locked(output, given.get("lock_timeout", 0.0)):
            count = merge(output)
        if not given.get("quiet", False):
            what = f"{count} shards are one run now" if count else "one run already"
            say(f"camcli: {what}: {shown(str(output))}")
