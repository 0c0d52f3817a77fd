"""Writing the outputs of one picture; the JSON record last, before the journal line."""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL.Image import Image

from camcli.images.decode import facts_of, failure
from camcli.outputs import arrays, paths, render
from camcli.outputs.commits import Commits, Disk
from camcli.outputs.files import atomic, crc32, writing
from camcli.outputs.journal import Journal
from camcli.outputs.record import Record, encoded, record, record_crc32
from camcli.outputs.render import Style
from camcli.records import Cam, Explanation, Failure
from camcli.shard import WHOLE, Shard


@dataclass(frozen=True)
class Written:
    """What was written for one input."""

    outcome: Explanation | Failure
    record: Record
    files: Mapping[str, bytes] = field(default_factory=dict)
    """By name, relative to the output directory; without content what is written already."""
    checks: Mapping[str, str] = field(default_factory=dict)
    """What tells, for the journal line, whether NPZ and record are still what was written."""

    @property
    def nbytes(self) -> int:
        return self.outcome.nbytes + sum(map(len, self.files.values()))

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


class Committing(Protocol):
    """Commits inputs one by one, in order, once what was written for them is durable."""

    def add(self, line: dict[str, Any], files: Mapping[str, bytes]) -> None:
        """Take an input's journal line and its files. Raises what writing them met."""


@dataclass(frozen=True)
class Sink(ABC):
    """One way to keep what is made of a picture. Safe to call from several threads."""

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

    @abstractmethod
    def commits(self, book: Journal) -> AbstractContextManager[Committing]:
        """What commits to this journal all that was written; leaving it commits the rest."""

    def write(self, outcome: Explanation | Failure) -> Written:
        """Make NPZ, overlays and JSON, and keep them. What cannot be written for this one input is
        a Failure; an OutputError is raised where nothing more can be written at all.
        """
        try:
            with writing(self.directory):
                return self._kept(self._made(outcome))
        except OSError as error:
            facts = outcome.facts if isinstance(outcome, Failure) else outcome.image.facts
            failed = failure(outcome.ref, facts, error, "write")
            return Written(failed, record(failed, self.config_hash))

    def _kept(self, made: Written) -> Written:
        """Put the files where they belong, or leave that to the commit."""
        return made

    def _made(self, outcome: Explanation | Failure) -> Written:
        overlays: list[tuple[str, str]] = []
        files: dict[str, bytes] = {}
        checks = {}
        if isinstance(outcome, Explanation):
            if "npz" in self.kinds:
                content = arrays.encode(outcome)
                checks["npz_crc32"] = crc32(content)
                files[paths.npz_path(outcome.ref.key).as_posix()] = content
            if "overlay" in self.kinds:
                for cam in outcome.cams:
                    name, content = self._overlay(outcome, cam)
                    overlays.append((name, crc32(content)))
                    files[name] = content
        made = record(outcome, self.config_hash, overlays)
        if "json" in self.kinds:
            checks["record_crc32"] = record_crc32(made)
            files[paths.json_path(outcome.ref.key).as_posix()] = encoded(made)
        return Written(outcome, made, files, checks)

    def _overlay(self, explanation: Explanation, cam: Cam) -> tuple[str, bytes]:
        image = explanation.image
        assert image.canvas is not None  # decoded with an overlay size where overlays are written
        layer = cam.layer if self.layered else None
        form = self.style.overlay_format
        name = paths.overlay_path(image.ref.key, cam.method, layer, cam.target, self.names, form)
        caption = caption_of(cam.label, cam.score, cam.method)
        drawn = self.draw(cam.cam, image.geometry, image.canvas, self.style, caption)
        return name.as_posix(), render.encoded(drawn, form)


@dataclass(frozen=True)
class DirectorySink(Sink):
    """Every output is a file of its own; the JSON record is the last."""

    @contextmanager
    def commits(self, book: Journal) -> Iterator[Committing]:
        """Durability points every few seconds."""
        with closing(Disk(self.directory)) as disk, Commits(disk.sync, book.append) as commits:
            yield commits

    def _kept(self, made: Written) -> Written:
        outcome, key = made.outcome, made.outcome.ref.key
        stale = self._earlier_overlays(key)
        if isinstance(outcome, Failure):
            if outcome.facts is not None:  # other bytes than before, and no picture
                stale.add(paths.npz_path(key).as_posix())
            else:  # not there, or not to be read: what is known of it stays
                stale.clear()
        last = {paths.json_path(key).as_posix()}
        self._put({name: made.files[name] for name in made.files if name not in last})
        for name in stale.difference(made.files):
            (self.directory / name).unlink(missing_ok=True)
        self._put({name: made.files[name] for name in last & made.files.keys()})
        return replace(made, files=dict.fromkeys(made.files, b""))

    def _put(self, files: Mapping[str, bytes]) -> None:
        for name, content in files.items():
            with atomic(self.directory / name, self.shard) as file:
                file.write(content)

    def _earlier_overlays(self, key: str) -> set[str]:
        """The overlays of an input that is explained again; a new class gives new names."""
        try:
            earlier = json.loads((self.directory / paths.json_path(key)).read_bytes())
        except (FileNotFoundError, ValueError, RecursionError):
            return set()
        return paths.overlays_of(earlier, key)


def caption_of(label: str, score: float | None, method: str) -> str:
    """`tabby 9.51 hirescam`"""
    shown = "" if score is None or not np.isfinite(score) else f"  {score:.3g}"
    return f"{label}{shown}  {method}"
