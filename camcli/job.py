"""What a run is told, and what it rests on: the contents of run.json."""

from __future__ import annotations

import dataclasses
import os
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from camcli.images.discover import Inputs
from camcli.outputs import journal, manifest
from camcli.outputs.arrays import SCHEMA_VERSION
from camcli.outputs.redraw import drawing_of
from camcli.outputs.render import Style
from camcli.outputs.sink import DirectorySink, Sink
from camcli.outputs.tars import TarSink
from camcli.records import ModelRequest, Smoothing
from camcli.shard import WHOLE, Shard

if TYPE_CHECKING:
    from camcli.engine import Engine

Json = dict[str, Any]
REASONS = {
    None: "new",
    "changed": "changed",
    "transient": "failed before (transient)",
    "failed": "--retry-failed",
    "lost": "lost (camcli verify --fix)",
}
"""Why an input is to be explained, by what the journal says of it."""


@dataclass(frozen=True)
class Job:
    """Everything a run is told. `batch_size` None keeps a resumed run's, or takes the default."""

    inputs: Inputs
    output: Path
    model: ModelRequest
    methods: tuple[str, ...]
    layers: tuple[str, ...]
    smooth: tuple[Smoothing, ...]
    target: str
    write: frozenset[str]
    style: Style
    restyled: frozenset[str]
    """The fields of `style` that were asked for; a resumed run keeps its own for the others."""
    max_pixels: int
    workers: int
    batch_size: int | None = None
    overwrite: bool = False
    retry_failed: bool = False
    max_errors: int | None = None
    fail_fast: bool = False
    limit: int | None = None
    isolate: bool = False
    decode_timeout: float = 60.0
    version: str = ""
    shard: Shard = WHOLE
    watched: bool = False
    """Whether another process starts this one again when it is lost; then the pictures that it had
    in hand are taken one by one, and the one over which it is lost again fails."""
    sink: Literal["files", "tar"] = "files"
    shard_size: int = 1000
    """Inputs in each tar."""


def request_of(job: Job) -> Json:
    """What the user asked for that decides maps, as far as it can be told without a model.

    Files stand by size and time, packages by version: where these agree, so do the maps.
    """
    named = job.model.name  # a file, or a callable in one
    files = [named, named.rpartition(":")[0], job.model.weights, job.model.labels or ""]
    files.append(job.target.removeprefix("csv:"))
    model = dataclasses.asdict(job.model)
    del model["device"]
    return {
        "model": model,
        "methods": job.methods,
        "layers": job.layers,
        "smooth": job.smooth,
        "target": job.target,
        "batch_size": job.batch_size,
        "write": sorted(job.write - {"overlay"}),
        "files": [journal.stamp(name) for name in files],
        "versions": manifest.versions(),
    }


def identity_of(job: Job, engine: Engine) -> Json:
    """What decides maps, resolved: two runs that agree here write the same maps."""
    model = engine.model
    recipe = dataclasses.asdict(model.preprocessing)
    del recipe["origin"]
    csv = job.target.removeprefix("csv:") if job.target.startswith("csv:") else None
    identity = {
        "model": model.name,
        "weights": model.weights_sha256 or model.weights,
        "labels": manifest.digest({"labels": model.classes.labels}),
        "activation": model.activation,
        "output": job.model.output,
        "preprocessing": recipe,
        "method": [method.name for method in engine.methods],
        "layer": [layer.name for layer in engine.layers],
        "smoothing": engine.smooth,
        "target": job.target if csv is None else manifest.file_digest(csv),
        "precision": model.precision,
        "batch size": engine.batch_size,
        "write": sorted(job.write - {"overlay"}),
    }
    # As JSON has it, so that it compares equal to what was read back.
    return manifest.plain(identity)


def sink_of(job: Job, engine: Engine, config_hash: str) -> Sink:
    """What keeps the outputs."""
    classes = engine.model.classes
    kinds, labels = job.write, tuple(map(classes.label, range(classes.count)))
    common = (job.output, kinds, job.style, config_hash, len(engine.layers) > 1, labels, job.shard)
    if job.sink == "tar":
        return TarSink(*common, shard_size=job.shard_size)
    return DirectorySink(*common)


def manifest_of(
    job: Job,
    engine: Engine,
    request: Json,
    identity: Json,
    before: Json | None,
) -> Json:
    model, drawing = engine.model, drawing_of(job.style)
    # What every picture has: overlays that one run left out are drawn by the next that wants them.
    written = job.write & set(before["write"]) if before else job.write
    return {
        "camcli_version": job.version,
        "schema_version": SCHEMA_VERSION,
        "status": "running",
        **({} if job.shard == WHOLE else {"shard": dataclasses.asdict(job.shard)}),
        "argv": sys.argv,
        "cwd": os.getcwd(),
        "first_started": before["first_started"] if before else now(),
        "started": now(),
        "request_hash": manifest.digest(request),
        "config_hash": manifest.digest(identity),
        "earlier_config_hashes": before.get("earlier_config_hashes", []) if before else [],
        "drawing_hash": manifest.digest(drawing),
        "request": request,
        "identity": identity,
        "drawing": drawing,
        "write": sorted(written),
        "sink": job.sink,
        **({"shard_size": job.shard_size} if job.sink == "tar" else {}),
        "model": {
            "name": model.name,
            "weights": model.weights,
            "weights_sha256": model.weights_sha256,
            "activation": model.activation,
            "labels_from": model.labels,
            "remarks": model.remarks,
        },
        "preprocessing": dataclasses.asdict(model.preprocessing),
        "methods": [
            {"name": m.name, "needs": m.needs, "units": m.units, "scope": m.scope}
            for m in engine.methods
        ],
        "smoothing": engine.smooth,
        "layers": [
            {
                "name": layer.name,
                "grid": [layer.grid.height, layer.grid.width],
                "score": known.score,
                "global_average_pooling": known.pooled,
            }
            for layer, known in engine.probes.items()
        ],
        "batch_size": engine.batch_size,
        "precision": model.precision,
        "device": str(model.device),
        "seed": 0,
        "versions": manifest.versions(),
        "labels": [model.classes.label(i) for i in range(model.classes.count)],
    }


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
