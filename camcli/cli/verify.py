"""`camcli verify`"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from camcli import config as settings
from camcli.cli.console import counted, progress, say, shown
from camcli.cli.options import with_settings
from camcli.outputs.files import locked

if TYPE_CHECKING:
    from camcli.outputs.audit import Audit

_FAULTS = 3


@with_settings(("lock_timeout", "quiet", "verbose", "progress"))
def command(
    output: Annotated[Path, typer.Argument(help="The output directory of an explain run.")],
    deep: Annotated[
        bool, typer.Option("--deep", help="Read every overlay and every source picture too.")
    ] = False,
    fix: Annotated[
        bool,
        typer.Option(
            "--fix",
            help="Have what is damaged explained again by the next run; remove what no journal "
            "line owns.",
        ),
    ] = False,
    lines: Annotated[
        bool, typer.Option("--json", help="Print findings as JSON lines, remarks too.")
    ] = False,
    **flags: Any,
) -> None:
    """Check a run's outputs against its journal: nothing missing, damaged or extra.

    A line a fault on stdout, status 3 where there is one. Remarks (a source that has changed or is
    gone, a copy in a tar that a later one supersedes, a file that is not camcli's) are counted;
    --verbose prints them.

    Example: camcli verify out --deep
    """
    from camcli.images.decode import own_pillow
    from camcli.outputs import manifest
    from camcli.outputs.audit import Audit
    from camcli.outputs.checks import REMARKS

    given = {name: settings.parse(name, value, "--" + name.replace("_", "-"))
             for name, value in flags.items() if value is not None}  # fmt: skip
    quiet, verbose = given.get("quiet", False), given.get("verbose", False)
    manifest.require_all(output)  # before a lock would make the directory
    own_pillow()
    with (
        locked(output, given.get("lock_timeout", 0.0)),
        progress(quiet, given.get("progress", True)) as bar,
    ):
        audit = Audit(output, deep, fix, bar.advance)
        for finding in audit.findings():
            remark = finding.kind in REMARKS
            if lines:
                print(json.dumps(dataclasses.asdict(finding) | {"fault": not remark}))
            elif not remark or verbose:
                print(shown(f"{finding.path or finding.key}: {finding.message}"))
    if not quiet:
        _report(audit, output)
    raise typer.Exit(_FAULTS if audit.faults else 0)


def _report(audit: Audit, output: Path) -> None:
    """The closing lines: how much there is, what was found, what became of it."""
    faults = counted(audit.faults, "fault") if audit.faults else "no fault"
    counts = [f"{audit.pictures:,} explained", faults]
    for number, what in (
        (audit.failed, "failed"),
        (audit.marked, "marked to be explained again"),
        (audit.removed, "removed"),
        (audit.waiting, "to be explained again"),
        (audit.counts["changed"], "with a source that has changed"),
        (audit.counts["gone"], "with a source out of reach"),
        (audit.counts["undrawn"], "not drawn (camcli render)"),
        (audit.counts["superseded"], "explained again since"),
        (audit.counts["foreign"], "not camcli's"),
        (audit.unreadable, "lines of the journal passed over"),
    ):
        if number:
            counts.append(f"{number:,} {what}")
    say(f"camcli: {', '.join(counts)}: {shown(str(output))}")
    if not audit.finished:
        say("camcli: the run was not finished; the same camcli explain goes on with it")
    if audit.faults and not audit.fix:
        say("camcli: --fix, and the same camcli explain again, make good what can be made good")
