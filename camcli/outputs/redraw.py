"""Drawing the overlays of a finished run again, from its NPZ and the pictures, without a model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from camcli.errors import OutputError
from camcli.images import decode
from camcli.outputs import manifest, paths, render
from camcli.outputs.commits import Disk
from camcli.outputs.files import atomic, writing
from camcli.outputs.record import Record, encoded
from camcli.outputs.render import Style
from camcli.outputs.results import Result, results
from camcli.outputs.sink import caption_of
from camcli.records import Failure, ImageRef, Target
from camcli.shard import Shard

Scale = float | Literal["image", "run"]
_AT_ONCE = 1000


@dataclass(frozen=True)
class Redrawn:
    """The overlays drawn for one input, relative to the output directory."""

    key: str
    overlays: tuple[str, ...]


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
        for result in self._explained(self.runs):
            try:
                drawn = self._picture(result)
            except OutputError:
                raise
            except Exception as error:  # a decoder may raise anything
                yield decode.failure(ImageRef(result.source, result.key), None, error, "decode")
                continue
            waiting += [paths.json_path(result.key).as_posix(), *drawn.overlays]
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

    def _picture(self, result: Result) -> Redrawn:
        key, shard, saved = result.key, result.shard, result.record()
        maps, geometry = result.maps()
        picture = decode.upright(result.source, self.max_pixels, saved["sha256"])
        canvas = decode.reduced(picture, self.style.overlay_size)
        drawn = []
        for entry, cam in zip(saved["explanations"], maps, strict=True):
            name = self._overlay_name(key, entry, self.runs[shard])
            caption = caption_of(entry["target"]["label"], entry["score"], entry["method"])
            style = replace(self.style, scale=self._scale(entry))
            overlay = render.draw(cam, geometry, canvas, style, caption)
            with writing(self.directory), atomic(self.directory / name, shard) as file:
                drawn.append((name, render.save(overlay, file, style.overlay_format)))
        self._note(saved, key, drawn, shard)
        return Redrawn(key, tuple(name for name, _ in drawn))

    def _note(self, saved: Record, key: str, drawn: list[tuple[str, str]], shard: Shard) -> None:
        """Name the new overlays in the record, then remove those of another format."""
        before = paths.overlays_of(saved, key)
        for entry, (name, check) in zip(saved["explanations"], drawn, strict=True):
            entry["overlay"], entry["overlay_crc32"] = name, check
        with writing(self.directory):
            with atomic(self.directory / paths.json_path(key), shard) as file:
                file.write(encoded(saved))
            for name in before.difference(name for name, _ in drawn):
                (self.directory / name).unlink(missing_ok=True)

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
