"""What explaining costs beside a plain forward pass of the same network, batch and layout.

    python -m tests.benchmarks.engine [MODEL…] [--batch-size N] [--rounds N]

Rounds alternate between the two, so that a machine that slows down slows both; the figure is the
median of the ratios. Weights are random: speed does not depend on them.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from camcli.engine import Engine
from camcli.images.geometry import Geometry
from camcli.models.opening import open_model
from camcli.records import Decoded, FileFacts, ImageRef

MODELS = ("efficientnet_lite0", "resnet50", "vgg16", "densenet121", "convnext_tiny", "vit_b_16")


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def pictures(size: tuple[int, int], count: int) -> list[Decoded]:
    noise = np.random.default_rng(0).integers(0, 256, (count, size[1], size[0], 3), np.uint8)
    geometry = Geometry(size, size, (0.0, 0.0, *map(float, size)))
    return [
        Decoded(ImageRef(str(n), str(n)), FileFacts(0, 0), 1, geometry, view, None)
        for n, view in enumerate(noise)
    ]


def measure(name: str, batch_size: int, rounds: int) -> tuple[float, float, float, float]:
    """Milliseconds a picture of the plain forward, and the ratios to it: one map, both methods'
    maps, and five classes."""
    weights = "DEFAULT" if name == "efficientnet_lite0" else "none"
    model = open_model(name, weights=weights)
    batch = pictures(model.preprocessing.size, batch_size)
    engines = [
        Engine(model, batch_size=batch_size),
        Engine(model, batch_size=batch_size, methods=("hirescam", "gradcam")),
        Engine(model, batch_size=batch_size, target="top:5"),
    ]

    def forward() -> None:
        with torch.inference_mode():
            model.logits(model.inputs([picture.view for picture in batch])).argmax(dim=1)

    with engines[0].prepared():
        runs = [forward, *(lambda e=e: e.explain(batch) for e in engines)]
        for run in runs:
            run()
        times = [[seconds(run) for run in runs] for _ in range(rounds)]
    plain = statistics.median(row[0] for row in times)
    ratios = [statistics.median(row[i] / row[0] for row in times) for i in (1, 2, 3)]
    return plain * 1000 / batch_size, ratios[0], ratios[1], ratios[2]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print(
        f"{torch.get_num_threads()} threads, batch {options.batch_size}, torch {torch.__version__}"
    )
    print("| network | plain forward, ms a picture | HiResCAM | + Grad-CAM | 5 classes |")
    print("|---|---|---|---|---|")
    for name in options.models:
        plain, one, both, five = measure(name, options.batch_size, options.rounds)
        print(f"| {name} | {plain:.1f} | {one:.2f}× | {both:.2f}× | {five:.2f}× |", flush=True)


if __name__ == "__main__":
    main()
