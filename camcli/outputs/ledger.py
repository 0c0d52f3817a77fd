"""The run file and the journal of one run, or of one shard, in an output directory with others."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from camcli.errors import OutputError, UsageError
from camcli.outputs import derived, files, manifest
from camcli.outputs.journal import Journal
from camcli.outputs.stored import TARS
from camcli.shard import WHOLE, Shard

Json = dict[str, Any]
_FOLDERS = {"files": ("json", "maps", "overlays"), "tar": (TARS,)}
"""What a run keeps in its directory, by its sink."""


@dataclass(frozen=True)
class Ledger:
    """What one run keeps in a directory. Hold its lock while writing."""

    directory: Path
    shard: Shard = WHOLE
    sink: str | None = None
    """How outputs are kept; None where that does not matter."""

    def journal(self) -> Journal:
        """The journal, as far as it was written."""
        return Journal(self.directory, self.shard)

    def read(self) -> Json | None:
        """The manifest of the run, if it was started before."""
        return manifest.read(self.directory, self.shard)

    def write(self, content: Json) -> None:
        """Replace it."""
        manifest.write(self.directory, content, self.shard)

    def check(self) -> None:
        """UsageError where the directory was divided otherwise, or outputs are kept otherwise."""
        here = f"'{self.directory}' holds a run"
        found = manifest.shards(self.directory)
        # The others have agreed with it.
        before = manifest.read(self.directory, found[0]) if found and self.sink else None
        if before is not None and before.get("sink", "files") != self.sink:
            kept = before.get("sink", "files")
            raise UsageError(
                f"{here} with --sink {kept}; go on with that, or choose another directory with -o"
            )
        for there in found:
            if there.count == self.shard.count:
                continue
            if there == WHOLE:
                raise UsageError(
                    f"{here} that is not in shards; go on without them (--shard none, one "
                    "--device), or choose another directory with -o"
                )
            other = "" if self.shard == WHOLE else f", not {self.shard.count}"
            raise UsageError(
                f"{here} in {there.count} shards{other}; go on with --shard I/{there.count}, I "
                f"from 0 to {there.count - 1}, make them one run with camcli merge once all are "
                "done, or choose another directory with -o"
            )

    def agree(self, identity: Json, other: Json) -> None:
        """UsageError where maps of this identity are not those of a run in the directory."""
        if manifest.digest(identity) == other["config_hash"]:
            return
        changed = [name for name, value in identity.items() if value != other["identity"].get(name)]
        over = "" if self.shard != WHOLE else ", or start over with --overwrite"
        raise UsageError(
            f"'{self.directory}' holds maps made with another {', '.join(changed)}; "
            f"choose another directory with -o{over}"
        )

    def peer(self) -> Json | None:
        """The manifest that another shard has to agree with: that of the smallest batches."""
        runs = manifest.read_all(self.directory)
        runs.pop(self.shard, None)
        return min(runs.values(), key=lambda run: int(run["batch_size"]), default=None)

    @contextmanager
    def entering(self) -> Iterator[None]:
        """Meanwhile no other shard starts."""
        with nullcontext() if self.shard == WHOLE else files.entrance(self.directory):
            self.check()
            yield

    def recover(self, before: Json) -> None:
        """Clean up behind a run that was killed."""
        files.sweep(self.directory, self.shard)
        before["status"] = "stopped"
        self.write(before)

    def make_way(self) -> None:
        """Clear the directory for a new run, but for what is not camcli's own.

        A shard removes nothing: its directory is the others' too.
        """
        taken = [name for name in (self.shard.journal, *_FOLDERS[self.sink or "files"])
                 if os.path.lexists(self.directory / name)]  # fmt: skip
        # Looked for after what is taken: whoever starts meanwhile writes the run file first.
        earlier = manifest.started(self.directory)
        before = manifest.read(self.directory, min(earlier)) if earlier else None
        ours = () if before is None else _FOLDERS[before.get("sink", "files")]
        if earlier:
            ours = (*ours, self.shard.journal)
        foreign = [name for name in taken if name not in ours]
        if foreign:
            raise OutputError(
                f"'{self.directory / foreign[0]}' is not camcli's; choose another directory with -o"
            )
        if self.shard != WHOLE or not earlier:
            return
        # First of all the journals: without them nothing counts as done.
        for shard in earlier:
            (self.directory / shard.journal).unlink(missing_ok=True)
        files.fsync(self.directory)
        for name in set(ours) - {self.shard.journal}:
            shutil.rmtree(self.directory / name, ignore_errors=True)
        derived.remove(self.directory)
        for shard in earlier:
            (self.directory / shard.run_file).unlink(missing_ok=True)
