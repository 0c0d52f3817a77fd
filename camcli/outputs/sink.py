"""Writing the outputs of one picture; the JSON record last, before the journal line."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL.Image import Image

from camcli.images.decode import failure
from camcli.outputs import arrays, paths, render
from camcli.outputs.files import atomic, output_error
from camcli.outputs.record import Record, record
from camcli.outputs.render import Style
from camcli.records import Cam, Explanation, Failure

# Errors of the output as a whole; any other concerns the one file being written.
FATAL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE}


@dataclass(frozen=True)
class Written:
    """What was written for one input."""

    outcome: Explanation | Failure
    record: Record

    @property
    def nbytes(self) -> int:
        return self.outcome.nbytes


@dataclass(frozen=True)
class DirectorySink:
    """Writes into an output directory. Safe to call from several threads."""

    directory: Path
    kinds: frozenset[str]
    style: Style
    config_hash: str
    layered: bool
    """Whether the run has several layers, so that overlays are named by theirs."""
    names: tuple[str, ...]
    """The classes' labels."""
    draw: Callable[..., Image] = render.draw

    def write(self, outcome: Explanation | Failure) -> Written:
        """Write NPZ, overlays and JSON. What cannot be written for this one input is a Failure;
        an OutputError is raised where nothing more can be written at all.
        """
        try:
            return self._write(outcome)
        except OSError as error:
            if error.errno in FATAL:
                raise output_error(self.directory, error) from error
            facts = outcome.facts if isinstance(outcome, Failure) else outcome.image.facts
            failed = failure(outcome.ref, facts, error, "write")
            return Written(failed, record(failed, self.config_hash))

    def _write(self, outcome: Explanation | Failure) -> Written:
        overlays: list[str | None] = []
        stale = self._earlier_overlays(outcome.ref.key)
        if isinstance(outcome, Explanation):
            if "npz" in self.kinds:
                with atomic(self.directory / paths.npz_path(outcome.ref.key)) as file:
                    file.write(arrays.encode(outcome))
            if "overlay" in self.kinds:
                overlays = [self._overlay(outcome, cam) for cam in outcome.cams]
        elif outcome.facts is not None:  # other bytes than before, and no picture
            stale.add(paths.npz_path(outcome.ref.key).as_posix())
        else:  # not there, or not to be read: what is known of it stays
            stale.clear()
        for name in stale.difference(overlays):
            (self.directory / name).unlink(missing_ok=True)
        made = record(outcome, self.config_hash, overlays)
        if "json" in self.kinds:
            with atomic(self.directory / paths.json_path(outcome.ref.key)) as file:
                file.write(json.dumps(made, indent=1, ensure_ascii=True).encode() + b"\n")
        return Written(outcome, made)

    def _earlier_overlays(self, key: str) -> set[str]:
        """The overlays of an input that is explained again; a new class gives new names."""
        try:
            earlier = json.loads((self.directory / paths.json_path(key)).read_bytes())
        except (FileNotFoundError, ValueError):
            return set()
        return {e["overlay"] for e in earlier.get("explanations", ()) if e["overlay"]}

    def _overlay(self, explanation: Explanation, cam: Cam) -> str:
        image = explanation.image
        assert image.canvas is not None  # decoded with an overlay size where overlays are written
        layer = cam.layer if self.layered else None
        form = self.style.overlay_format
        name = paths.overlay_path(image.ref.key, cam.method, layer, cam.target, self.names, form)
        caption = caption_of(cam.label, cam.score, cam.method)
        drawn = self.draw(cam.cam, image.geometry, image.canvas, self.style, caption)
        with atomic(self.directory / name) as file:
            render.save(drawn, file, form)
        return name.as_posix()


def caption_of(label: str, score: float | None, method: str) -> str:
    """`tabby 9.51 hirescam`"""
    shown = "" if score is None or not np.isfinite(score) else f"  {score:.3g}"
    return f"{label}{shown}  {method}"
