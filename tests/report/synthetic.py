"""Runs of any size that no model has made, written by the package's own writers."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from camcli.images.decode import facts_of
from camcli.images.geometry import Geometry
from camcli.outputs import manifest
from camcli.outputs.journal import Journal
from camcli.outputs.redraw import drawing_of
from camcli.outputs.render import Style
from camcli.outputs.sink import DirectorySink, Written
from camcli.records import Cam, Decoded, Explanation, Failure, ImageRef, Prediction, Target
from camcli.shard import WHOLE, Shard

LABELS = ("tench", "tabby", "</script><b>cat", "espresso")
SIZE = (320, 240)
DISTINCT = 100
HOSTILE = ("<img src=x onerror=alert(1)>.jpg", "</script><script>alert(2)</script>.jpg",
           "line\u2028separator\u2029.jpg", "100% #1? & café 猫.jpg")  # fmt: skip


def names(count: int) -> Iterator[str]:
    """`count` file names, the hostile ones first where there is room for them."""
    yield from (HOSTILE if count > 100 else ())
    yield from (f"{n:06}.jpg" for n in range(count - (len(HOSTILE) if count > 100 else 0)))


def explanation(
    ref: ImageRef,
    number: int,
    methods: tuple[str, ...] = ("hirescam", "gradcam"),
    fit: str = "crop",
) -> Explanation:
    """Maps of seeded noise, every eleventh without anything positive."""
    generator = np.random.default_rng(number)
    geometry = Geometry.fitted(SIZE, (64, 64), 72, fit)  # type: ignore[arg-type]
    picture = Image.new("RGB", (32, 24), (number % 256, 90, 120))
    facts = facts_of(ref.path)
    assert facts is not None
    decoded = Decoded(ref, facts, 1, geometry, np.zeros((1, 1, 3), np.uint8), picture)
    index = number % len(LABELS)
    probability = (number * 37 % 1000) / 1000
    predictions = tuple(
        Prediction(i, LABELS[i], 2.0 - k, probability / (k + 1))
        for k, i in enumerate([index, (index + 1) % len(LABELS)])
    )
    cams = []
    for method in methods:
        values = generator.normal(size=(7, 7)).astype(np.float32)
        cam = -np.abs(values) if number % 11 == 10 else values
        error = 10.0 ** -(number % 8) if method == "hirescam" else None
        cams.append(Cam(method, "features", Target(index), LABELS[index], 2.0, cam, 0.1, 0.0, 0.0,
                        error, None, False))  # fmt: skip
    return Explanation(decoded, "synthetic", predictions, tuple(cams))


def write_run(
    out: Path, count: int, sources: Path, shard: Shard = WHOLE, failing: int = 50, **changed: Any
) -> Path:
    """A run of `count` pictures, every `failing`-th of which failed. `changed` is for run.json.

    All but the first hundred are copies under names of their own.
    """
    sources.mkdir(exist_ok=True)
    gradient = np.linspace(0, 255, SIZE[0] * SIZE[1] * 3).reshape(SIZE[1], SIZE[0], 3)
    Image.fromarray(gradient.astype(np.uint8)).save(sources / "source.jpg")
    sha = hashlib.sha256((sources / "source.jpg").read_bytes()).hexdigest()
    style = Style(overlay_size=32)
    sink = DirectorySink(out, frozenset({"json", "npz", "overlay"}), style, "0" * 16, False,
                         LABELS, shard, draw=lambda cam, geometry, canvas, *_: canvas)  # fmt: skip
    book = Journal(out, shard)
    out.mkdir(exist_ok=True)
    written: list[Written] = []
    lines: list[dict[str, Any]] = []
    for number, name in enumerate(names(count)):
        if not shard.holds(name):
            continue
        ref = ImageRef(str(sources / name), name)
        if len(written) >= DISTINCT:
            lines.append(_copied(out, written[len(lines) % DISTINCT], ref))
            continue
        if not os.path.lexists(ref.path):
            os.makedirs(os.path.dirname(ref.path), exist_ok=True)
            os.link(sources / "source.jpg", ref.path)
        if failing and number % failing == failing - 1:
            kind = "UnidentifiedImageError" if number % 3 else "OSError"
            written.append(
                sink.write(Failure(ref, None, kind, "not a picture <b>at all</b>", "decode"))
            )
        else:
            made = explanation(ref, number)
            object.__setattr__(made.image.facts, "sha256", sha)
            written.append(sink.write(made))
        lines.append(written[-1].line("0" * 16, 1.0))
    book.append(*lines)
    book.close()
    manifest.write(out, run_file(style) | changed, shard)
    return out


def _copied(out: Path, written: Written, ref: ImageRef) -> dict[str, Any]:
    """The journal line of a picture whose files are those of another one."""
    key = written.record["key"]
    for name in written.files:
        if name.endswith(".json"):
            record = written.record | {"path": ref.path, "key": ref.key}
            if "explanations" in record:
                record["explanations"] = [
                    entry | {"overlay": entry["overlay"].replace(key, ref.key)}
                    for entry in record["explanations"]
                ]
            (out / "json" / f"{ref.key}.json").write_text(json.dumps(record))
        else:
            os.link(out / name, out / name.replace(key, ref.key))
    return written.line("0" * 16, 1.0) | {"key": ref.key, "source": ref.path}


def run_file(style: Style) -> dict[str, Any]:
    """What run.json says of such a run."""
    drawing = drawing_of(style)
    return {
        "camcli_version": "0", "schema_version": 1, "status": "done",
        "first_started": "2026-01-01T00:00:00+00:00", "started": "2026-01-01T00:00:00+00:00",
        "config_hash": "0" * 16, "drawing_hash": manifest.digest(drawing),
        "request": {"target": "predicted"}, "identity": {"layer": ["features"]},
        "drawing": drawing, "write": ["json", "npz", "overlay"],
        "model": {"name": "synthetic", "weights": "none", "remarks": []},
        "methods": [{"name": "hirescam"}, {"name": "gradcam"}], "smoothing": [],
        "layers": [{"name": "features", "grid": [7, 7], "score": "exact"}],
        "verdict": ["1 of 1 maps <i>account</i> for the score."], "labels": list(LABELS),
    }  # fmt: skip
