"""What explaining costs beside a plain forward pass of the same network, batch and layout.

    python -m tests.benchmarks.engine [MODEL…] [--batch-size N] [--rounds N] [--device D]

Rounds alternate between them, so that a machine that slows down slows all; a figure is the median
of the ratios: one HiResCAM map to the plain forward; all gradient methods' maps, and five classes'
maps, to that one map. Weights are random: speed does not depend on them.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from camcli.cli.process import own_process
from camcli.engine import Engine
from camcli.models.opening import open_model
from camcli.registry import ALL_GRADIENT, all_gradient
from camcli.timing import finish, noise, seconds
from tests.benchmarks.contenders import machine
from tests.benchmarks.processes import hardware, publish

MODELS = ("efficientnet_lite0", "resnet50", "vgg16", "densenet121", "convnext_tiny", "vit_b_16")


@dataclass(frozen=True)
class Figures:
    """Milliseconds a picture of the plain forward; one map as a multiple of it; and, as multiples
    of one map, the maps of all gradient methods and one method's maps of five classes."""

    plain: float
    one: float
    methods: float
    classes: float


def measure(name: str, batch_size: int, rounds: int, device: str = "cpu") -> Figures:
    weights = "DEFAULT" if name == "efficientnet_lite0" else "none"
    model = open_model(name, weights=weights, device=device)
    batch = noise(model.preprocessing.size, batch_size)
    engines = [
        Engine(model, batch_size=batch_size),
        Engine(model, batch_size=batch_size, methods=(ALL_GRADIENT,)),
        Engine(model, batch_size=batch_size, target="top:5"),
    ]

    def forward() -> None:
        with torch.inference_mode():
            model.logits(model.inputs([picture.view for picture in batch])).argmax(dim=1)
        finish(model.device)

    with engines[0].prepared():
        runs = [forward, *(lambda e=e: e.explain(batch) for e in engines)]
        for run in runs:
            run()
        times = [[seconds(run) for run in runs] for _ in range(rounds)]

    def ratio(above: int, below: int) -> float:
        return statistics.median(row[above] / row[below] for row in times)

    plain = statistics.median(row[0] for row in times) * 1000 / batch_size
    return Figures(plain, ratio(1, 0), ratio(2, 1), ratio(3, 1))


def report(options: argparse.Namespace) -> Iterator[str]:
    """The lines of the table, as they are measured."""
    yield f"Batches of {options.batch_size}; {hardware(machine(torch.device(options.device)))}"
    yield ""
    count = len(all_gradient())
    yield f"| network | plain forward, ms a picture | one map | {count} methods | five classes |"
    yield "|---|---|---|---|---|"
    for name in options.models:
        figures = measure(name, options.batch_size, options.rounds, options.device)
        ratios = " | ".join(f"{r:.2f}×" for r in (figures.one, figures.methods, figures.classes))
        yield f"| {name} | {figures.plain:.1f} | {ratios} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, help="a Markdown file to write")
    options = parser.parse_args()
    own_process()
    publish(report(options), options.output)


if __name__ == "__main__":
    main()
