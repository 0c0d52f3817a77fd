"""What a run has written, read back: every input of all its shards, as the journals last say."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from camcli.images.geometry import Geometry
from camcli.outputs import arrays, paths
from camcli.outputs.arrays import Maps
from camcli.outputs.journal import LOST, LastLines
from camcli.outputs.record import Record
from camcli.outputs.stored import Stored
from camcli.shard import Shard


@dataclass(frozen=True)
class Result:
    """One input that was explained, or that failed. Reading it raises what a damaged file makes
    `json` and `numpy` raise.
    """

    directory: Path
    shard: Shard
    key: str
    source: str
    explained: bool
    stored: Stored

    def record(self) -> Record:
        """Its JSON record."""
        content: Record = json.loads(self.stored.read(paths.json_path(self.key).as_posix()))
        return content

    def maps(self) -> tuple[list[Maps], Geometry]:
        """Its raw maps, (h, w) each, in the order of the record's explanations."""
        return arrays.read(self._npz())

    def maps_of(self, record: Record) -> list[Maps]:
        """The same maps, sooner: where they are is taken from the record."""
        places = [(e["cam"]["npz_key"], e["cam"]["npz_row"]) for e in record["explanations"]]
        names, rows = zip(*places, strict=True)
        return arrays.maps_of(self._npz(), names, rows)

    def _npz(self) -> io.BytesIO:
        return io.BytesIO(self.stored.read(paths.npz_path(self.key).as_posix()))


def results(directory: Path, shards: Iterable[Shard]) -> Iterator[Result]:
    """The inputs of these shards (`manifest.require_all` names them), shard by shard, in the order
    in which they were committed. Inputs that wait to be explained again are left out.
    """
    for shard in shards:
        for line in LastLines(directory / shard.journal):
            if line["status"] != LOST:
                explained, stored = line["status"] == "ok", Stored.of_line(directory, line)
                yield Result(directory, shard, line["key"], line["source"], explained, stored)
