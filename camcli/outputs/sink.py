"""Writing the outputs of one picture; the JSON record last, before the journal line."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL.Image import Image

from camcli.images.decode import facts_of, failure
from camcli.outputs import arrays, paths, render
from camcli.outputs.files import atomic, crc32, writing
from camcli.outputs.record import Record, encoded, record, record_crc32
from camcli.outputs.render import Style
from camcli.records import Cam, Explanation, Failure
from camcli.shard import WHOLE, Shard


@dataclass(frozen=True)
class Written:
    """What was written for one input."""

    outcome: Explanation | Failure
    record: Record
    files: tuple[str, ...] = ()
    """Relative to the output directory."""
    checks: Mapping[str, str] = field(default_factory=dict)
    """What tells, for the journal line, whether NPZ and record are still what was written."""

    @property
    def nbytes(self) -> int:
        return self.outcome.nbytes

    def line(self, config_hash: str, elapsed: float) -> dict[str, Any]:
        """The journal line."""
        made, outcome = self.record, self.outcome
        facts = outcome.facts if isinstance(outcome, Failure) else outcome.image.facts
        if facts is None and made["error"]["type"] != FileNotFoundError.__name__:
            facts = facts_of(outcome.ref.path)  # a file that is back by now is to be tried again
        failed = made["status"] == "error"
        return {
            "key": made["key"],
            "source": os.path.abspath(outcome.ref.path),
            "status": made["status"],
            **({"transient": made["error"]["transient"]} if failed else {}),
            "size": facts.size if facts else None,
            "mtime_ns": facts.mtime_ns if facts else None,
            "sha256": made["sha256"],
            **(
                {"error": made["error"]["message"]}
                if failed
                else {"predicted": made["predictions"][0]}
            ),
            **self.checks,
            "config_hash": config_hash,
            "elapsed_ms": round(elapsed, 1),
        }


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
    shard: Shard = WHOLE
    draw: Callable[..., Image] = render.draw

    def write(self, outcome: Explanation | Failure) -> Written:
        """Write NPZ, overlays and JSON. What cannot be written for this one input is a Failure;
        an OutputError is raised where nothing more can be written at all.
        """
        try:
            with writing(self.directory):
                return self._write(outcome)
        except OSError as error:
            facts = outcome.facts if isinstance(outcome, Failure) else outcome.image.facts
            failed = failure(outcome.ref, facts, error, "write")
            return Written(failed, record(failed, self.config_hash))

    def _write(self, outcome: Explanation | Failure) -> Written:
        overlays: list[tuple[str, str]] = []
        files, checks = [], {}
        stale = self._earlier_overlays(outcome.ref.key)
        npz = paths.npz_path(outcome.ref.key).as_posix()
        if isinstance(outcome, Explanation):
            if "npz" in self.kinds:
                content = arrays.encode(outcome)
                checks["npz_crc32"] = crc32(content)
                with atomic(self.directory / npz, self.shard) as file:
                    file.write(content)
                files.append(npz)
            if "overlay" in self.kinds:
                overlays = [self._overlay(outcome, cam) for cam in outcome.cams]
                files += [name for name, _ in overlays]
        elif outcome.facts is not None:  # other bytes than before, and no picture
            stale.add(npz)
        else:  # not there, or not to be read: what is known of it stays
            stale.clear()
        for name in stale.difference(files):
            (self.directory / name).unlink(missing_ok=True)
        made = record(outcome, self.config_hash, overlays)
        if "json" in self.kinds:
            checks["record_crc32"] = record_crc32(made)
            files.append(paths.json_path(outcome.ref.key).as_posix())
            with atomic(self.directory / files[-1], self.shard) as file:
                file.write(encoded(made))
        return Written(outcome, made, tuple(files), checks)

    def _earlier_overlays(self, key: str) -> set[str]:
        """The overlays of an input that is explained again; a new class gives new names."""
        try:
            earlier = json.loads((self.directory / paths.json_path(key)).read_bytes())
        except (FileNotFoundError, ValueError, RecursionError):
            return set()
        return paths.overlays_of(earlier, key)

    def _overlay(self, explanation: Explanation, cam: Cam) -> tuple[str, str]:
        image = explanation.image
        assert image.canvas is not None  # decoded with an overlay size where overlays are written
        layer = cam.layer if self.layered else None
        form = self.style.overlay_format
        name = paths.overlay_path(image.ref.key, cam.method, layer, cam.target, self.names, form)
        caption = caption_of(cam.label, cam.score, cam.method)
        drawn = self.draw(cam.cam, image.geometry, image.canvas, self.style, caption)
        with atomic(self.directory / name, self.shard) as file:
            check = render.save(drawn, file, form)
        return name.as_posix(), check


def caption_of(label: str, score: float | None, method: str) -> str:
    """`tabby 9.51 hirescam`"""
    shown = "" if score is None or not np.isfinite(score) else f"  {score:.3g}"
    return f"{label}{shown}  {method}"
