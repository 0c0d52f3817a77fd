"""Making the page of a run: data first, index.html last, then what an earlier page left."""

from __future__ import annotations

import base64
import io
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import camcli
from camcli.errors import OutputError, UsageError
from camcli.images import decode
from camcli.outputs import colormaps, manifest
from camcli.outputs.derived import DATA, REPORT, is_page
from camcli.outputs.files import atomic, writing
from camcli.outputs.given import given_classes
from camcli.outputs.record import Record
from camcli.outputs.results import Result, results
from camcli.report.blocks import Blocks, numbers
from camcli.report.gathering import CHUNK, PART, Gathering
from camcli.report.page import page
from camcli.report.pictures import FIELDS
from camcli.shard import WHOLE, Shard

FOLDER = REPORT
EMBEDDED = 2000
"""The most pictures of a page that embeds everything."""
_THUMBNAIL = 480  # pixels
_QUALITY = 80
Runs = dict[Shard, dict[str, Any]]


@dataclass(frozen=True)
class Report:
    """What was made of a run."""

    pictures: int
    failed: int
    unreadable: int
    """How many of the failed were explained, but their outputs are damaged."""
    unfinished: bool


def build(
    directory: Path,
    truth: str | None = None,
    embed: bool = False,
    max_pixels: int = 10**8,
    advance: Callable[[], None] = lambda: None,
) -> Report:
    """Write `report/index.html`, of what is committed. Hold the lock of `report` meanwhile.

    `truth` is `folder` or `csv:FILE`. `embed` puts everything into index.html, the pictures
    reduced. UsageError where there is no run, where it has no records, and where too many
    pictures are to be embedded; an earlier page is left as it was then.
    """
    runs = manifest.require_written(directory, ("json",), "a report")
    first = next(iter(runs.values()))
    given = given_classes(truth, first)
    place = directory / FOLDER
    _make_way(place)
    blocks = Blocks(place / f"{WHOLE.temporary}{os.getpid()}")
    thumbnail = _Embedding(directory, max_pixels).thumbnail if embed else _none
    mapped = all("npz" in run["write"] for run in runs.values())
    try:
        with writing(directory):
            blocks.folder.mkdir(parents=True)
        gathering = Gathering(blocks, place, mapped, given and given[0], thumbnail)
        found = results(directory, runs)
        gathering.gather(_at_most(found, directory) if embed else found, advance)
        known = _known(runs, gathering, given and given[1])
        known["mapped"], known["embedded"] = mapped, embed
        known["data"] = None if embed else blocks.moved()
        pieces = page(_title(first), known, blocks.texts() if embed else ())
        with writing(directory), atomic(place / "index.html") as file:
            file.writelines(pieces)
    finally:
        blocks.remove()
    _sweep(place, known["data"])
    return Report(gathering.pictures, gathering.failed, gathering.unreadable, known["unfinished"])


def _make_way(place: Path) -> None:
    """OutputError where another's page would be replaced."""
    try:
        free = is_page(place / "index.html") or not os.path.exists(place / "index.html")
    except OSError as error:
        raise OutputError(f"'{place}/index.html' cannot be replaced ({error.strerror})") from error
    if not free:
        raise OutputError(f"'{place}/index.html' is not camcli's; move it out of the way")


def _sweep(place: Path, kept: str | None) -> None:
    """Remove the data of earlier pages, and what a killed report was writing."""
    for path in place.iterdir():
        if path.name == kept or not path.name.startswith((DATA, WHOLE.temporary)):
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _at_most(found: Iterable[Result], directory: Path) -> Iterable[Result]:
    for number, result in enumerate(found):
        if number == EMBEDDED:
            raise UsageError(
                f"'{directory}' holds more than {EMBEDDED:,} pictures, the most that one file can "
                "embed; make the report without --self-contained"
            )
        yield result


def _title(run: dict[str, Any]) -> str:
    return f"{run['model']['name']}, {', '.join(m['name'] for m in run['methods'])}: camcli"


def _known(runs: Runs, gathering: Gathering, truth: str | None) -> dict[str, Any]:
    """What the page is told of the run."""
    every = list(runs.values())
    first = every[0]
    missing = next(iter(runs)).count - len(runs)
    running = sum(run["status"] == "running" for run in every)
    unfinished = bool(missing or any(run["status"] != "done" for run in every))
    labels = first["labels"]
    return {
        "version": camcli.__version__,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "started": min(run["first_started"] for run in every),
        "unfinished": unfinished,
        "running": running,
        "missing": missing,
        "model": first["model"]["name"],
        "weights": first["model"]["weights"],
        "remarks": first["model"]["remarks"],
        "methods": [method["name"] for method in first["methods"]],
        "layers": first["layers"],
        "smoothing": first["smoothing"],
        "target": first["request"]["target"],
        "truth": truth,
        "verdict": list(dict.fromkeys(line for run in every for line in run.get("verdict", ()))),
        "drawing": first["drawing"],
        # Where a page can link to them.
        "drawn": all("overlay" in run["write"] and run.get("sink") != "tar" for run in every),
        "labels": None if labels == [str(n) for n in range(len(labels))] else labels,
        "pictures": gathering.pictures,
        "failed": gathering.failed,
        "compared": gathering.compared,
        "chunk": CHUNK,
        "part": PART,
        "fields": FIELDS,
        "maxima": gathering.maxima,
        "colormaps": {name: numbers(colormaps.table(name), "u1") for name in colormaps.NAMES},
        "diverging": numbers(colormaps.diverging(), "u1"),
    }


def _none(result: Result, record: Record) -> None:
    return None


@dataclass(frozen=True)
class _Embedding:
    """Pictures reduced for a page that holds them itself."""

    directory: Path
    max_pixels: int

    def thumbnail(self, result: Result, record: Record) -> str | None:
        """The source picture as a data URI; None where it is gone, has changed or is damaged."""
        try:
            picture = decode.upright(result.source, self.max_pixels, record["sha256"])
        except Exception:  # a decoder may raise anything
            return None
        buffer = io.BytesIO()
        decode.reduced(picture, _THUMBNAIL).save(buffer, "jpeg", quality=_QUALITY)
        return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
