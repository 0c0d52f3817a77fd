"""What can be told of one picture's outputs: whether they are there, whole, and agree."""

from __future__ import annotations

import io
import json
import math
import os
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from camcli.images import archives
from camcli.outputs import paths
from camcli.outputs.files import crc32
from camcli.outputs.record import Record, record_crc32
from camcli.outputs.stored import TARS, Stored, member
from camcli.outputs.validation import mismatch

Kind = Literal["missing", "damaged", "extra", "temporary", "changed", "gone", "undrawn", "foreign",
               "superseded"]  # fmt: skip
REMARKS: frozenset[Kind] = frozenset({"changed", "gone", "undrawn", "foreign", "superseded"})
"""Kinds that are no faults: the user's files, which camcli does not answer for, and what was
explained again since.
"""
# The bytes that the files of each format begin and end with.
_ENDS = {".jpg": (b"\xff\xd8\xff", b"\xff\xd9"), ".png": (b"\x89PNG", b"IEND\xaeB`\x82"),
         ".webp": (b"RIFF", b"")}  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """Something that is not as the journal says.

    `path` is relative to the output directory, or that of a source.
    """

    kind: Kind
    key: str | None
    path: str
    message: str


class _UnfitError(Exception):
    """A file that is not what was written."""

    def __init__(self, kind: Kind, path: str, message: str) -> None:
        super().__init__(message)
        self.kind, self.path = kind, path


@dataclass(frozen=True)
class Checks:
    """The checks of a run's pictures; `deep` ones read every byte, and the sources too."""

    directory: Path
    kinds: frozenset[str]
    hashes: frozenset[str]
    """The configurations under which this directory's maps were made."""
    deep: bool

    def findings(self, line: dict[str, Any]) -> Iterator[Finding]:
        """What is wrong with the outputs of a journalled input, and remarks on its source."""
        key, stored = line["key"], Stored.of_line(self.directory, line)
        record: Record | None = None
        try:
            if stored.tar is not None:
                _members(stored)  # of a tar that is damaged nothing is trusted
            record = self._record(line, stored) if "json" in self.kinds else None
        except _UnfitError as unfit:
            yield Finding(unfit.kind, key, unfit.path, str(unfit))
            if unfit.path == stored.folder:
                return
        for check in (self._npz, self._overlays, self._others, self._source):
            try:
                yield from check(line, record, stored)
            except _UnfitError as unfit:
                yield Finding(unfit.kind, key, unfit.path, str(unfit))

    def _record(self, line: dict[str, Any], stored: Stored) -> Record:
        name = paths.json_path(line["key"]).as_posix()
        path = stored.place(name)
        record: Record = parsed(_content(stored, name), path)
        wrong = mismatch(record)
        if wrong is not None:
            raise _UnfitError("damaged", path, wrong)
        for name in ("key", "status", "sha256", "config_hash"):
            if record[name] != line.get(name):
                raise _UnfitError("damaged", path, f"its {name} is not the journal's")
        if record["config_hash"] not in self.hashes:
            raise _UnfitError("damaged", path, "its config_hash is not that of the run")
        if line.get("record_crc32") not in (None, record_crc32(record)):
            raise _UnfitError("damaged", path, "it is not what was written")
        return record

    def _npz(
        self, line: dict[str, Any], record: Record | None, stored: Stored
    ) -> Iterator[Finding]:
        name = paths.npz_path(line["key"]).as_posix()
        path = stored.place(name)
        if line["status"] != "ok":
            # What cannot be read at all keeps its maps; what was read and is no picture has none.
            if stored.tar is None and line.get("sha256") and stored.has(name):
                yield Finding("extra", line["key"], path, "the picture failed, and has no maps")
            return
        if "npz" not in self.kinds:
            return
        content = _content(stored, name)
        if line.get("npz_crc32") not in (None, crc32(content)):
            raise _UnfitError("damaged", path, "it is not what was written")
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                wrong = _disagreement(arrays, record, self.deep)
        except (OSError, ValueError, KeyError, IndexError, EOFError, zipfile.BadZipFile) as error:
            raise _UnfitError("damaged", path, f"it cannot be read ({error})") from error
        if wrong:
            raise _UnfitError("damaged", path, wrong)

    def _overlays(
        self, line: dict[str, Any], record: Record | None, stored: Stored
    ) -> Iterator[Finding]:
        if record is None or line["status"] != "ok":
            return
        own = paths.overlays_of(record, line["key"])
        for entry in record["explanations"]:
            name = entry["overlay"]
            if name is None:
                if "overlay" in self.kinds:
                    yield Finding("undrawn", line["key"], "", "an overlay was not drawn")
                continue
            try:
                if name not in own:
                    path = stored.place(paths.json_path(line["key"]).as_posix())
                    raise _UnfitError("damaged", path, f"'{name}' is no overlay of this picture")
                self._overlay(stored, name, entry.get("overlay_crc32"))
            except _UnfitError as unfit:
                yield Finding(unfit.kind, line["key"], unfit.path, str(unfit))

    def _others(
        self, line: dict[str, Any], record: Record | None, stored: Stored
    ) -> Iterator[Finding]:
        """What lies in the tar beside this input's outputs, as if it were one of them."""
        if stored.tar is None or (record is None and "json" in self.kinds):
            return
        key = line["key"]
        names = {paths.json_path(key).as_posix()} if "json" in self.kinds else set()
        if line["status"] == "ok":
            names |= {paths.npz_path(key).as_posix()} if "npz" in self.kinds else set()
            names |= paths.overlays_of(record, key)
        for other in sorted(_members(stored).difference(member(key, name) for name in names)):
            message = "it is none of the outputs of this input"
            yield Finding("damaged", key, f"{TARS}/{stored.tar}/{other}", message)

    def _overlay(self, stored: Stored, name: str, check: str | None) -> None:
        path = stored.place(name)
        if not self.deep:
            first, last = _ends(stored, name)
            begins, ends = _ENDS.get(Path(path).suffix, (b"", b""))
            if not (first.startswith(begins) and last.endswith(ends)):
                raise _UnfitError("damaged", path, "it is no whole picture")
            return
        content = _content(stored, name)
        if check not in (None, crc32(content)):
            raise _UnfitError("damaged", path, "it is not what was written")
        try:
            with Image.open(io.BytesIO(content)) as picture:
                picture.load()
        except Exception as error:  # a decoder may raise anything
            raise _UnfitError("damaged", path, f"it cannot be decoded ({error})") from error

    def _source(
        self, line: dict[str, Any], record: Record | None, stored: Stored
    ) -> Iterator[Finding]:
        source, expected = line.get("source"), line.get("sha256")
        if not self.deep or not isinstance(source, str) or not expected:
            return
        try:
            found = archives.sha256(source)
        except (OSError, ValueError, archives.ArchiveError):
            yield Finding("gone", line["key"], source, "the picture is out of reach")
            return
        if found != expected:
            yield Finding("changed", line["key"], source, "the picture has changed since")


def _members(stored: Stored) -> set[str]:
    try:
        return set(stored.members())
    except (OSError, ValueError) as error:
        raise _unreadable(stored.folder, error) from error


def _content(stored: Stored, name: str) -> bytes:
    path = stored.place(name)
    try:
        content = stored.read(name)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    if not content:
        raise _UnfitError("damaged", path, "it is empty")
    return content


def _ends(stored: Stored, name: str) -> tuple[bytes, bytes]:
    if stored.tar is not None:
        content = _content(stored, name)
        return content[:16], content[-16:]
    try:
        with open(stored.directory / name, "rb") as file:
            first = file.read(16)
            file.seek(-min(16, len(first)), os.SEEK_END)
            return first, file.read()
    except (OSError, ValueError) as error:
        raise _unreadable(name, error) from error


def parsed(content: bytes, path: str) -> Any:
    """The JSON of a record, strictly."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON")

    try:
        return json.loads(content, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise _UnfitError("damaged", path, f"it is no JSON ({error})") from error


def _unreadable(path: str, error: Exception) -> _UnfitError:
    if isinstance(error, FileNotFoundError):
        return _UnfitError("missing", path, "it is missing")
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return _UnfitError("damaged", path, f"it cannot be read ({reason})")


def _disagreement(arrays: Any, record: Record | None, deep: bool) -> str | None:
    """Where the maps are not those of the record."""
    count = len(arrays["method"])
    if record is None:
        for name in {str(name) for name in arrays["array"]}:
            _ = arrays[name]
        return None
    entries = record["explanations"]
    if count != len(entries):
        return f"it has {count} maps, and the record {len(entries)}"
    for number, entry in enumerate(entries):
        cam = arrays[entry["cam"]["npz_key"]][entry["cam"]["npz_row"]]
        if list(cam.shape) != entry["cam"]["shape"]:
            return f"map {number} is of shape {list(cam.shape)}, not {entry['cam']['shape']}"
        if deep and (other := _other_figure(arrays, number, cam, entry)):
            return f"the {other} of map {number} is not the record's"
    if deep:
        view = record["view"]
        geometry = (("image_size", [record["width"], record["height"]]),
                    ("view_size", view["size"]), ("crop_box", view["crop_box"]))  # fmt: skip
        return next(
            (f"its {name} is not the record's" for name, value in geometry
             if arrays[name].tolist() != value), None)  # fmt: skip
    return None


def _other_figure(arrays: Any, number: int, cam: Any, entry: Record) -> str | None:
    """The name of the first figure that a map does not have."""
    said, total = entry["cam"], float(cam.sum(dtype=np.float64))
    score = float(arrays["score"][number])
    index, against = entry["target"]["index"], entry["target"]["against"]
    figures = [("min", float(cam.min()), said["min"]), ("max", float(cam.max()), said["max"]),
               ("sum", total, said["sum"]), ("score", score, entry["score"])]  # fmt: skip
    if entry["remainder"] is not None:
        figures.append(("remainder", score - total, entry["remainder"]))
    size = max(abs(score), float(np.abs(cam).sum(dtype=np.float64)))
    for name, found, expected in figures:
        # The order in which numpy adds may differ between its versions.
        if not math.isfinite(found):
            if expected is not None:
                return name
        elif expected is None or not math.isclose(
            found, expected, rel_tol=1e-9, abs_tol=1e-9 * size
        ):
            return name
    belongings = (("method", entry["method"]), ("layer", entry["layer"]),
                  ("target_index", -1 if index is None else index),
                  ("target_against", -1 if against is None else against))  # fmt: skip
    return next((what for what, value in belongings if arrays[what][number].item() != value), None)
