"""One pass over a run: its pictures as columns of some thousands and parts of some hundreds."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from camcli.outputs.arrays import Maps
from camcli.outputs.given import Given
from camcli.outputs.record import Record
from camcli.outputs.results import Result
from camcli.report import pictures
from camcli.report.blocks import Blocks, numbers
from camcli.report.pictures import FAILED, Figures

CHUNK = 5000
"""Pictures whose figures are in one block: all of these are read when the page is opened."""
PART = 250
"""Pictures whose records and maps are in one block: read when they are looked at."""
_KINDS = {"status": "u1", "predicted": "i4", "given": "i4", "confidence": "f4",
          "completeness": "f4", "hot": "f4", "disagreement": "f4", "width": "u4",
          "height": "u4"}  # fmt: skip
Thumbnail = Callable[[Result, Record], str | None]


@dataclass
class _Columns:
    """The figures of up to CHUNK pictures, and where their files are."""

    keys: list[str] = field(default_factory=list)
    figures: list[Figures] = field(default_factory=list)
    overlays: list[int] = field(default_factory=list)
    suffixes: dict[str | None, int] = field(default_factory=dict)
    roots: list[int] = field(default_factory=list)
    folders: dict[str | None, int] = field(default_factory=dict)
    sources: dict[int, str] = field(default_factory=dict)
    failures: dict[int, list[str]] = field(default_factory=dict)

    def block(self) -> dict[str, Any]:
        columns = zip(Figures._fields, zip(*self.figures, strict=True), strict=True)
        return {
            "keys": self.keys,
            **{name: numbers(values, _KINDS[name]) for name, values in columns},
            "overlay": numbers(self.overlays, "i4"),
            "overlays": list(self.suffixes),
            "root": numbers(self.roots, "i4"),
            "roots": list(self.folders),
            "sources": self.sources,
            "failures": self.failures,
        }


@dataclass
class _Part:
    """The records and raw maps of up to PART pictures."""

    rows: list[list[Any] | None] = field(default_factory=list)
    maps: list[Maps] = field(default_factory=list)
    thumbnails: list[str | None] = field(default_factory=list)

    def block(self) -> dict[str, Any]:
        values = np.concatenate([cam.ravel() for cam in self.maps] or [np.zeros(0, np.float32)])
        embedded = {"thumbnails": self.thumbnails} if any(self.thumbnails) else {}
        return {"rows": self.rows, "maps": numbers(values, "f4"), **embedded}


class Gathering:
    """The blocks of a run's pictures, and what is known of them together."""

    def __init__(
        self, blocks: Blocks, page: Path, mapped: bool, given: Given | None, thumbnail: Thumbnail
    ) -> None:
        """`page` is the folder that links are relative to; `mapped`: whether there are raw maps."""
        self.pictures = self.failed = self.unreadable = 0
        self.compared = False
        """Whether any picture has maps of two methods for the same class."""
        self.maxima: dict[str, list[float]] = {}
        """The lowest and the highest value of each method and layer, as `method layer`."""
        self._blocks, self._page, self._mapped = blocks, page, mapped
        self._given, self._thumbnail = given, thumbnail
        self._columns, self._part = _Columns(), _Part()

    def gather(self, results: Iterable[Result], advance: Callable[[], None]) -> None:
        """Write the blocks; no more pictures than CHUNK are held."""
        for result in results:
            self._add(result)
            advance()
        if self._columns.keys:
            self._write_columns()
        if self._part.rows:
            self._write_part()

    def _add(self, result: Result) -> None:
        try:
            if result.explained:
                self._explained(result)
            else:
                self._failure(result)
        except Exception as error:  # a damaged file may make its reader raise anything
            self.unreadable += 1
            sentence = f"its outputs cannot be read ({error}); camcli verify says more"
            self._lacking(result, [type(error).__name__, "report", sentence])
        self.pictures += 1
        if len(self._part.rows) == PART:
            self._write_part()
        if len(self._columns.keys) == CHUNK:
            self._write_columns()

    def _explained(self, result: Result) -> None:
        record = result.record()
        maps: list[Maps] = []
        distance = None
        if self._mapped:
            maps = result.maps_of(record)
            distance = pictures.disagreement(record, maps)
        held = [pictures.reduced(cam) for cam in maps]
        given = self._given(result, record) if self._given else None
        if result.stored.tar is not None:  # into which a page cannot link
            for entry in record["explanations"]:
                entry["overlay"] = None
        row = pictures.row(record, result.key, held)
        known = pictures.figures(record, given, distance)
        thumbnail = self._thumbnail(result, record)
        self.compared = self.compared or distance is not None
        for entry in record["explanations"]:
            self._widen(f"{entry['method']} {entry['layer']}", entry["cam"])
        self._append(result, known, row[-1][0][pictures.FIELDS.index("overlay")])
        self._part.rows.append(row)
        self._part.maps += held
        self._part.thumbnails.append(thumbnail)

    def _failure(self, result: Result) -> None:
        error = result.record()["error"]
        self._lacking(result, [error["type"], error["stage"], error["message"]])

    def _lacking(self, result: Result, failure: list[str]) -> None:
        self.failed += 1
        self._columns.failures[len(self._columns.keys)] = failure
        self._append(result, Figures(FAILED), None)
        self._part.rows.append(None)
        self._part.thumbnails.append(None)

    def _append(self, result: Result, known: Figures, suffix: str | None) -> None:
        columns, key, source = self._columns, result.key, result.source
        folder = None
        if source.endswith(f"/{key}") and source.isascii():
            folder = self._link(source[: -len(key)]) + "/"
        else:
            columns.sources[len(columns.keys)] = self._link(source)
        columns.roots.append(columns.folders.setdefault(folder, len(columns.folders)))
        columns.overlays.append(columns.suffixes.setdefault(suffix, len(columns.suffixes)))
        columns.keys.append(key)
        columns.figures.append(known)

    def _link(self, path: str) -> str:
        return quote(os.fsencode(os.path.relpath(path, self._page)))

    def _widen(self, name: str, cam: Record) -> None:
        low, high = self.maxima.setdefault(name, [0.0, 0.0])
        self.maxima[name] = [min(low, cam["min"] or 0.0), max(high, cam["max"] or 0.0)]

    def _write_columns(self) -> None:
        self._blocks.write(f"columns-{(self.pictures - 1) // CHUNK}", self._columns.block())
        self._columns = _Columns()

    def _write_part(self) -> None:
        self._blocks.write(f"part-{(self.pictures - 1) // PART}", self._part.block())
        self._part = _Part()
