"""A folder of photographs from disk to overlays, beside predicting only and beside the peers.

    python -m tests.benchmarks.folder [--models M[=WEIGHTS],…] [--pictures N] [--rounds N]
        [--contenders C,…] [--device D] [--output FILE.md]

Every contender is a process of its own: it starts Python, loads the model, reads every picture and
writes its result. A round runs each of them once; figures are medians over the rounds, of ratios
within a round. The photographs are those of CAMCLI_PHOTOS, or the samples, again and again under
other names. Peers run at the batch size that is fastest for them. The built-in model has its real
weights, others random ones where none are named: speed does not depend on them, drift does.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from camcli import config
from camcli.pipeline import DEFAULT_BATCH_SIZE
from tests.benchmarks.processes import (
    Cost,
    FailedError,
    cost,
    hardware,
    planted,
    publish,
    sources,
    told,
)

MODELS = ("resnet50", "efficientnet_lite0")
BUILT_IN = "efficientnet_lite0"
LABELS = {
    "predict": "predicting only",
    "camcli": "camcli",
    "camcli-bf16": "camcli, bf16",
    "pytorch-grad-cam": "pytorch-grad-cam",
    "pytorch-grad-cam-frozen": "pytorch-grad-cam, frozen",
    "torchcam": "torchcam",
    "torchcam-frozen": "torchcam, frozen",
    "captum": "captum",
    "captum-frozen": "captum, frozen",
    "captum-frozen-pillow": "captum, frozen, drawn by Pillow",
}
MODULES = {"pytorch": "pytorch_grad_cam", "torchcam": "torchcam", "captum": "captum"}
OURS = ("predict", "camcli", "camcli-bf16")
TRIED = 48
"""Pictures on which a peer's batch size is chosen."""


@dataclass
class Row:
    """A contender, and what each round of it cost; or why it could not be run."""

    name: str
    batch_size: int
    costs: list[Cost] = field(default_factory=list)
    failure: str = ""


@dataclass
class Race:
    """One network over one folder, by all contenders."""

    model: str
    """Its name, and after an equals sign its weights."""
    folder: Path
    device: str
    batch_size: int
    size: int | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.model, _, weights = self.model.partition("=")
        self.weights = weights or ("DEFAULT" if self.model == BUILT_IN else "none")
        output = self.output("describe")
        cost(self._process("describe", self.folder, output, 1))
        self.facts = json.loads((output / "facts.json").read_text())

    def output(self, name: str) -> Path:
        """A contender's output directory, empty."""
        path = self.folder.parent / f"out-{name}"
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        return path

    def cost(self, name: str, batch_size: int, folder: Path | None = None) -> Cost:
        folder, output = folder or self.folder, self.output(name)
        if not name.startswith("camcli"):
            return cost(self._process(name, folder, output, batch_size))
        command = [sys.executable, "-m", "camcli", "explain", str(folder), "-o", str(output),
                   "--model", self.model, "--weights", self.weights, "--device", self.device,
                   "--batch-size", str(batch_size)]  # fmt: skip
        if self.size is not None:
            command += ["--size", str(self.size), "--resize", str(self.size)]
        return cost([*command, "--precision", "bf16"] if name == "camcli-bf16" else command)

    def _process(self, name: str, folder: Path, output: Path, batch_size: int) -> list[str]:
        task = {"folder": str(folder), "output": str(output), "model": self.model,
                "weights": self.weights, "device": self.device, "batch_size": batch_size,
                "size": self.size}  # fmt: skip
        task |= {name: value for name, value in self.facts.items() if name in ("layer", "grid")}
        return [sys.executable, "-m", "tests.benchmarks.contenders", name, json.dumps(task)]

    def row(self, name: str, sizes: Sequence[int]) -> Row:
        """A contender at its best batch size, which peers are asked for."""
        if name in OURS or len(sizes) == 1:
            return Row(name, self.batch_size if name in OURS else sizes[0])
        some = self.folder.parent / "some"
        if not some.exists():
            some.mkdir()
            for path in sorted(self.folder.iterdir())[:TRIED]:
                os.link(path, some / path.name)
        try:
            best = min(sizes, key=lambda size: self.cost(name, size, some).seconds)
        except FailedError as error:
            return Row(name, 0, failure=str(error))
        return Row(name, best)


def measured(race: Race, names: Sequence[str], sizes: Sequence[int], rounds: int) -> list[Row]:
    """Every contender's rounds, interleaved."""
    rows = [race.row(name, sizes) for name in names]
    for number in range(rounds):
        for row in rows:
            if row.failure:
                continue
            try:
                row.costs.append(race.cost(row.name, row.batch_size))
            except FailedError as error:
                row.failure = str(error)
            told(f"{race.model}, round {number + 1}, {LABELS[row.name]}: "
                 f"{row.failure or f'{row.costs[-1].seconds:.1f} s'}")  # fmt: skip
    return rows


def table(rows: Sequence[Row], model: str, pictures: int) -> Iterator[str]:
    """A Markdown table: times as multiples of predicting only, and of camcli's."""
    by_name = {row.name: row for row in rows if row.costs and not row.failure}
    yield (f"| {model} | batch | seconds | pictures a second | × predicting only "
           "| × camcli | peak MiB |")  # fmt: skip
    yield "|---|---|---|---|---|---|---|"
    for row in rows:
        if row.failure:
            yield f"| {LABELS[row.name]} | | {row.failure.replace('|', '/')} | | | | |"
            continue
        seconds = statistics.median(cost.seconds for cost in row.costs)
        peak = statistics.median(cost.peak for cost in row.costs) / 2**20
        ratios = [f"{ratio(row, by_name[to]):.2f}" if to in by_name else "–"
                  for to in ("predict", "camcli")]  # fmt: skip
        yield (f"| {LABELS[row.name]} | {row.batch_size} | {seconds:.1f} | {pictures / seconds:.1f}"
               f" | {' | '.join(ratios)} | {peak:,.0f} |")  # fmt: skip


def ratio(above: Row, below: Row) -> float:
    pairs = zip(above.costs, below.costs, strict=True)
    return statistics.median(one.seconds / other.seconds for one, other in pairs)


@dataclass(frozen=True)
class Drift:
    """How far the answers of one run are from those of another."""

    changed: float
    """The share of pictures whose predicted class is another."""
    map: float
    """Of the others, the largest difference of a map, as a part of its maximum: the median."""

    def __str__(self) -> str:
        return (f"In bf16, {self.changed:.1%} of predicted classes are others; where they are not, "
                f"the largest difference of a map is {self.map:.1%} of its maximum (median; random "
                "weights exaggerate both).")  # fmt: skip


def drift(exact: Path, other: Path) -> Drift:
    changed, gaps = [], []
    for record in sorted((exact / "json").rglob("*.json")):
        name = record.relative_to(exact / "json").with_suffix("")
        classes = [json.loads((out / "json" / f"{name}.json").read_bytes())["predictions"][0]
                   ["index"] for out in (exact, other)]  # fmt: skip
        changed.append(classes[0] != classes[1])
        if not changed[-1]:
            one, two = (np.load(out / "maps" / f"{name}.npz")["cams"] for out in (exact, other))
            gaps.append(float(np.abs(one - two).max() / np.abs(one).max()))
    return Drift(statistics.mean(changed), statistics.median(gaps) if gaps else float("nan"))


def available() -> list[str]:
    """The contenders that can be run here: of the peers, those that are installed."""
    names = [name for name in LABELS
             if name in OURS or find_spec(MODULES[name.partition("-")[0]]) is not None]  # fmt: skip
    if "precision" not in config.options():
        names.remove("camcli-bf16")
    return names


def report(options: argparse.Namespace) -> Iterator[str]:
    """The lines of the table, as they are measured."""
    headed = False
    for model in options.models.split(","):
        with planted(sources(), options.pictures) as folder:
            race = Race(model, folder, options.device, options.batch_size, options.size)
            if not headed:
                yield (f"{options.pictures:,} photographs; medians of {options.rounds} rounds; "
                       f"{hardware(race.facts)}")  # fmt: skip
                headed = True
            sizes = [int(size) for size in options.batch_sizes.split(",")]
            rows = measured(race, options.contenders.split(","), sizes, options.rounds)
            yield ""
            yield from table(rows, race.model, options.pictures)
            done = {row.name for row in rows if not row.failure}
            if {"camcli", "camcli-bf16"} <= done:
                outputs = [folder.parent / f"out-{name}" for name in ("camcli", "camcli-bf16")]
                yield ""
                yield f"{drift(*outputs)} Weights: {race.weights}."


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--contenders", default=",".join(available()))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch-size", type=int, default=DEFAULT_BATCH_SIZE, help="of ours")
    parser.add_argument("--batch-sizes", default="1,8,32", help="that peers may choose from")
    parser.add_argument("--size", type=int, help="of the view, for a quick try")
    parser.add_argument("--output", type=Path, help="a Markdown file to write")
    options = parser.parse_args(arguments)
    for name in options.contenders.split(","):
        if name not in LABELS:
            parser.error(f"no contender '{name}'; there are {', '.join(LABELS)}")
    publish(report(options), options.output)


if __name__ == "__main__":
    main()
