"""Drawing the overlays of a finished run again, from its NPZ and the pictures, without a model."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Set
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, TypeVar

from camcli.errors import OutputError
from camcli.images import archives, decode
from camcli.outputs import manifest, paths, render
from camcli.outputs.commits import Disk
from camcli.outputs.files import atomic, crc32, writing
from camcli.outputs.record import Record, encoded
from camcli.outputs.render import Style
from camcli.outputs.results import Result, results
from camcli.outputs.sink import caption_of
from camcli.outputs.stored import TARS, member, samples
from camcli.outputs.tars import whole
from camcli.records import Failure, ImageRef, Target
from camcli.shard import Shard

Scale = float | Literal["image", "run"]
_AT_ONCE = 1000
T = TypeVar("T")


@dataclass(frozen=True)
class Redrawn:
    """What was written for one input: its overlays and its record."""

    key: str
    files: tuple[str, ...]


class Redraw:
    """One pass over an output directory, or over what one shard wrote to it.

    Raises UsageError where there is nothing to draw from.
    """

    def __init__(
        self,
        directory: Path,
        style: Style,
        scale: Scale,
        max_pixels: int,
        only: Shard | None = None,
    ) -> None:
        runs = manifest.require_written(directory, ("json", "npz"), "drawing")
        self.directory, self.style, self.max_pixels = directory, style, max_pixels
        self.maxima = self._maxima(runs) if scale == "run" else {}
        self.runs = {shard: run for shard, run in runs.items() if only in (None, shard)}

    def pictures(self) -> Iterator[Redrawn | Failure]:
        """Draw every explained picture; one whose source is gone or changed is a Failure."""
        # A run that is killed meanwhile leaves temporaries, and this says that it did.
        self._note_runs({"status": "running"})
        try:
            with closing(Disk(self.directory)) as disk:
                yield from self._durably(disk)
        finally:
            self._note_runs({})

    def _note_runs(self, fields: dict[str, Any]) -> None:
        for shard, run in self.runs.items():
            manifest.write(self.directory, run | fields, shard)

    def _durably(self, disk: Disk) -> Iterator[Redrawn | Failure]:
        waiting: list[str] = []
        for (shard, tar), found in groupby(self._explained(self.runs), _of_tar):
            if tar is not None:
                yield from self._in_tar(shard, tar, found)
                continue
            for result in found:
                drawn = self._or_failure(self._in_files, result)
                if isinstance(drawn, Redrawn):
                    waiting += drawn.files
                if len(waiting) >= _AT_ONCE:
                    disk.sync(waiting)
                    waiting.clear()
                yield drawn
        disk.sync(waiting)

    def finish(self) -> dict[Shard, dict[str, Any]]:
        """Note in the run files how the overlays were drawn; what they now hold is returned."""
        drawing = drawing_of(self.style, self.maxima)
        for run in self.runs.values():
            run |= {
                "drawing": drawing,
                "drawing_hash": manifest.digest(drawing),
                "write": sorted({*run["write"], "overlay"}),
            }
        self._note_runs({})
        return self.runs

    def _or_failure(self, work: Callable[[Result], T], result: Result) -> T | Failure:
        try:
            return work(result)
        except OutputError:
            raise
        except Exception as error:  # a decoder may raise anything
            return _failure(result, error)

    def _in_files(self, result: Result) -> Redrawn:
        new, stale = self._drawn(result)
        with writing(self.directory):
            for name, content in new.items():
                with atomic(self.directory / name, result.shard) as file:
                    file.write(content)
            for name in stale:
                (self.directory / name).unlink(missing_ok=True)
        return Redrawn(result.key, tuple(new))

    def _in_tar(
        self, shard: Shard, tar: str, found: Iterable[Result]
    ) -> Iterator[Redrawn | Failure]:
        """Another tar takes the place of this one: it differs in what can be drawn again."""
        path = self.directory / TARS / tar
        own = {member(result.key, ""): result for result in found}
        try:
            before = samples(str(path))
        except OSError as error:
            yield from (_failure(result, error) for result in own.values())
            return
        with writing(self.directory), whole(path, shard) as file:
            for sample, names in before.items():
                result = own.pop(sample, None)
                if result is None:
                    file.add(_members(path, names))
                    continue
                new = self._or_failure(self._of_sample, result)
                if isinstance(new, Failure):
                    file.add(_members(path, names))
                    yield new
                else:
                    file.add({member(result.key, name): new[name] for name in new})
                    yield Redrawn(result.key, tuple(new))
        for result in own.values():
            yield _failure(result, FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)))

    def _of_sample(self, result: Result) -> dict[str, bytes]:
        """Everything that a tar holds of one input."""
        npz = paths.npz_path(result.key).as_posix()
        return {npz: result.stored.read(npz)} | self._drawn(result)[0]

    def _drawn(self, result: Result) -> tuple[dict[str, bytes], set[str]]:
        """The new overlays and the record that names them, and the names of overlays in another
        format, which they supersede.
        """
        key, saved = result.key, result.record()
        maps, geometry = result.maps()
        picture = decode.upright(result.source, self.max_pixels, saved["sha256"])
        canvas = decode.reduced(picture, self.style.overlay_size)
        before, new = paths.overlays_of(saved, key), {}
        for entry, cam in zip(saved["explanations"], maps, strict=True):
            name = self._overlay_name(key, entry, self.runs[result.shard])
            caption = caption_of(entry["target"]["label"], entry["score"], entry["method"])
            style = replace(self.style, scale=self._scale(entry))
            overlay = render.draw(cam, geometry, canvas, style, caption)
            with writing(self.directory):
                new[name] = render.encoded(overlay, style.overlay_format)
            entry["overlay"], entry["overlay_crc32"] = name, crc32(new[name])
        new[paths.json_path(key).as_posix()] = encoded(saved)
        return new, before.difference(new)

    def _overlay_name(self, key: str, entry: Record, run: dict[str, Any]) -> str:
        target = Target(entry["target"]["index"], entry["target"]["against"])
        layer = entry["layer"] if len(run["identity"]["layer"]) > 1 else None
        labels = run["labels"]
        form = self.style.overlay_format
        return paths.overlay_path(key, entry["method"], layer, target, labels, form).as_posix()

    def _scale(self, entry: Record) -> float | Literal["image"]:
        return self.maxima.get((entry["method"], entry["layer"]), self.style.scale)

    def _maxima(self, shards: Iterable[Shard]) -> dict[tuple[str, str], float]:
        """The largest value of each method on each layer over the run, from the records."""
        found: dict[tuple[str, str], float] = {}
        for result in self._explained(shards):
            try:
                explanations = result.record()["explanations"]
            except (OSError, ValueError, KeyError):
                continue  # drawing it will fail and say why
            for entry in explanations:
                which = entry["method"], entry["layer"]
                low, high = entry["cam"]["min"] or 0.0, entry["cam"]["max"] or 0.0
                value = max(abs(low), abs(high)) if self.style.signed else high
                found[which] = max(found.get(which, 0.0), value)
        return found

    def _explained(self, shards: Iterable[Shard]) -> Iterator[Result]:
        return (result for result in results(self.directory, shards) if result.explained)


def _of_tar(result: Result) -> tuple[Shard, str | None]:
    return result.shard, result.stored.tar


def _members(tar: Path, names: Iterable[str]) -> dict[str, bytes]:
    return {name: archives.read(str(tar), name, sys.maxsize) for name in names}


def _failure(result: Result, error: Exception) -> Failure:
    return decode.failure(ImageRef(result.source, result.key), None, error, "decode")


def restyled(
    style: Style, asked: Set[str] | None, run: dict[str, Any]
) -> tuple[Style, Scale | None]:
    """How overlays of a run that goes on are drawn, and, where its own are to be drawn again, the
    scale to do that with.

    `asked` names the fields of the style that were asked for, which win where they differ; None
    where no overlays are wanted. What was not asked for stays as it was drawn.
    """
    drawn, given = run["drawing"], drawing_of(style)
    kept = {name: value for name, value in drawn.items() if name not in (asked or ())}
    # A scale shared by the run is not known until its end; new overlays have their own.
    own = replace(style, **kept | ({"scale": "image"} if kept.get("scale") == "run" else {}))
    if asked is None or (
        "overlay" in run["write"] and all(drawn[name] == given[name] for name in asked)
    ):
        return own, None
    return own, kept.get("scale", own.scale)


def drawing_of(style: Style, maxima: dict[tuple[str, str], float] | None = None) -> dict[str, Any]:
    """What decides how overlays look, for run.json."""
    return {
        "colormap": style.colormap,
        "alpha": style.alpha,
        "blend": style.blend,
        "scale": "run" if maxima else style.scale,
        "overlay_size": style.overlay_size,
        "overlay_format": style.overlay_format,
        "signed": style.signed,
        "caption": style.caption,
    }
