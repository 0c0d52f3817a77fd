"""`camcli export`"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer

from camcli import config as settings
from camcli.cli.console import complain, counted, progress, say, shown
from camcli.cli.options import with_settings
from camcli.errors import UsageError

if TYPE_CHECKING:
    from camcli.export.reading import Reading

_FAULTS = 3
_THRESHOLD = 0.15


@with_settings(("quiet", "progress"))
def command(
    output: Annotated[Path, typer.Argument(help="The output directory of an explain run.")],
    coco: Annotated[
        bool, typer.Option("--coco", help="Hot regions as boxes and RLE masks in COCO JSON.")
    ] = False,
    fiftyone: Annotated[
        bool, typer.Option("--fiftyone", help="Heatmaps and hot boxes as a FiftyOne dataset.")
    ] = False,
    table: Annotated[
        bool, typer.Option("--csv", help="A row per map with every figure, and one per failure.")
    ] = False,
    to: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE",
            help="Where to write one format (default: OUT/export/coco.json, maps.csv, fiftyone/).",
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            help="Share of a map's maximum from which a place is hot, for --coco (default: "
            f"{_THRESHOLD:g}).",
            metavar="X",
        ),
    ] = None,
    relative_to: Annotated[
        Path | None,
        typer.Option(
            help="Write paths as seen from here (default: from what is written).", metavar="DIR"
        ),
    ] = None,
    **flags: Any,
) -> None:
    """Hand a run's maps to other tools: COCO JSON, a FiftyOne dataset, a flat CSV.

    What failed to be explained is in the CSV alone. In the CSV, text that begins like a
    spreadsheet's formula has an apostrophe in front.

    Example: camcli export out --coco --csv
    """  # fmt: skip
    asked = [name for name, wanted in
             (("coco", coco), ("fiftyone", fiftyone), ("csv", table)) if wanted]  # fmt: skip
    _check(asked, to, threshold, coco)
    given = {name: settings.parse(name, value, "--" + name) for name, value in flags.items()
             if value is not None}  # fmt: skip
    quiet, faults = given.get("quiet", False), 0
    from camcli.export.leftovers import sweep_files
    from camcli.export.reading import Reading

    if to is None:
        sweep_files(output / "export")
    for name in asked:
        needs = {"json"} if name == "csv" else {"json", "npz"}
        run = Reading(output, needs, complain)
        where = to or output / "export" / _NAMES[name]
        with progress(quiet, given.get("progress", True)) as bar:
            count = _Counted(bar.advance)
            _WRITERS[name](run, where, relative_to, threshold or _THRESHOLD, count)
        faults += run.faults
        if not quiet:
            if run.remark and name == asked[0]:
                say(f"camcli: {run.remark}")
            say(f"camcli: {counted(count.number, _UNITS[name])}: {shown(str(where))}")
    raise typer.Exit(_FAULTS if faults else 0)


def _check(asked: list[str], to: Path | None, threshold: float | None, coco: bool) -> None:
    if not asked:
        raise UsageError("nothing to export; give --coco, --fiftyone or --csv")
    if to is not None and len(asked) > 1:
        raise UsageError(f"-o '{to}' is one file; give one of {', '.join(asked)} with it")
    if threshold is not None and not coco:
        raise UsageError("--threshold is for --coco; records have their hot boxes at 0.15")
    if threshold is not None and not 0 < threshold <= 1:
        raise UsageError(f"--threshold must be above 0 and at most 1, not {threshold}")


class _Counted:
    """Counts what is written, and tells the progress bar."""

    def __init__(self, advance: Callable[[], None]) -> None:
        self.number, self._advance = 0, advance

    def __call__(self) -> None:
        self.number += 1
        self._advance()


def _real(directory: Path) -> Path:
    return Path(os.path.realpath(directory))


def _file(path: Path, write: Callable[[BinaryIO, Path], None], base: Path | None) -> None:
    from camcli.export.leftovers import held
    from camcli.outputs.files import atomic, writing

    if path.is_dir():
        raise UsageError(f"-o '{path}' is a directory; name a file in it")
    with writing(path.parent), atomic(path) as file, held(Path(file.name)):
        write(file, _real(base or path.parent))


def _coco(
    run: Reading, path: Path, base: Path | None, threshold: float, advance: Callable[[], None]
) -> None:
    from camcli.export import coco

    _file(path, lambda file, seen: coco.write(run, file, seen, threshold, advance), base)


def _fiftyone(
    run: Reading, path: Path, base: Path | None, threshold: float, advance: Callable[[], None]
) -> None:
    from camcli.export import fiftyone

    fiftyone.write(run, path, _real(base or path), advance)


def _csv(
    run: Reading, path: Path, base: Path | None, threshold: float, advance: Callable[[], None]
) -> None:
    from camcli.export import table

    _file(path, lambda file, seen: table.write(run, file, seen, advance), base)


_WRITERS = {"coco": _coco, "fiftyone": _fiftyone, "csv": _csv}
_NAMES = {"coco": "coco.json", "fiftyone": "fiftyone", "csv": "maps.csv"}
_UNITS = {"coco": "image", "fiftyone": "sample", "csv": "input"}
