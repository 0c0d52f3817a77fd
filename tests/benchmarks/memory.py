"""Peak memory, in the number of pictures and with large ones, and the time to draw a large one.

    python -m tests.benchmarks.memory [--model M] [--counts N,…] [--large N]

`camcli explain` beside predicting only, each as a process of its own: over the photographs of
tests.benchmarks.folder under so many names, and over so many of 12 megapixels, enlarged from them.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import statistics
import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from time import perf_counter

import numpy as np
from PIL import Image

from camcli.images.decode import DecodeSettings, decode
from camcli.images.preprocess import Preprocessing
from camcli.outputs import render
from camcli.pipeline import DEFAULT_BATCH_SIZE, DEFAULT_MAX_PIXELS
from camcli.records import Decoded, ImageRef
from tests.benchmarks.folder import LABELS, Race
from tests.benchmarks.processes import hardware, planted, sources

LARGE = (4000, 3000)
DISTINCT = 5
COMPARED = ("predict", "camcli")


def enlarged(originals: Sequence[Path], folder: Path, size: tuple[int, int]) -> list[Path]:
    """Some of the photographs as a phone would have them."""
    paths = []
    for number, original in enumerate(originals[:DISTINCT]):
        paths.append(folder / f"large-{number}.jpg")
        Image.open(original).convert("RGB").resize(size).save(paths[-1], quality=90)
    return paths


def peaks(pictures: AbstractContextManager[Path], options: argparse.Namespace) -> list[float]:
    """MiB of each process over a folder, and the seconds of explaining it."""
    with pictures as folder:
        race = Race(options.model, folder, options.device, options.batch_size, options.size)
        costs = [race.cost(name, options.batch_size) for name in COMPARED]
        options.hardware = hardware(race.facts)
    return [*(cost.peak / 2**20 for cost in costs), costs[-1].seconds]


def drawing(path: Path, overlay_size: int, rounds: int) -> tuple[float, float, float]:
    """Milliseconds to decode a picture, to draw its overlay, and to write that as JPEG."""
    half = (0.5, 0.5, 0.5)
    recipe = Preprocessing((224, 224), 256, half, half, "bilinear", "crop", "benchmark")
    settings = DecodeSettings(recipe, overlay_size, DEFAULT_MAX_PIXELS)
    style = render.Style(overlay_size=overlay_size)
    cam = np.random.default_rng(0).random((7, 7), np.float32)
    times = []
    with tempfile.TemporaryFile() as file:
        for _ in range(rounds):
            marks = [perf_counter()]
            picture = decode(ImageRef(str(path), path.name), settings)
            assert isinstance(picture, Decoded)
            assert picture.canvas is not None
            marks.append(perf_counter())
            drawn = render.draw(cam, picture.geometry, picture.canvas, style)
            marks.append(perf_counter())
            file.seek(0)
            render.save(drawn, file, "jpeg")
            marks.append(perf_counter())
            times.append([1000 * (b - a) for a, b in itertools.pairwise(marks)])
    decoding, drawn_in, saving = (statistics.median(column) for column in zip(*times, strict=True))
    return decoding, drawn_in, saving


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--counts", default="1000,10000")
    parser.add_argument("--large", type=int, default=200, help="pictures of 12 megapixels")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch-size", type=int, default=DEFAULT_BATCH_SIZE)
    parser.add_argument("--size", type=int, help="of the view, for a quick try")
    parser.add_argument("--rounds", type=int, default=9, help="of drawing")
    options = parser.parse_args(arguments)
    titles = " | ".join(f"{LABELS[name]}, MiB" for name in COMPARED)
    print(f"| {options.model} | {titles} | more, MiB | camcli, seconds |\n|---|---|---|---|---|")
    scratch = Path(tempfile.mkdtemp(prefix="camcli-benchmark-"))
    try:
        large = enlarged(sources(), scratch, LARGE)
        folders = [(f"{int(count):,} photographs", planted(sources(), int(count)))
                   for count in options.counts.split(",")]  # fmt: skip
        folders.append((f"{options.large:,} of 12 megapixels", planted(large, options.large)))
        for what, pictures in folders:
            below, above, seconds = peaks(pictures, options)
            print(f"| {what} | {below:,.0f} | {above:,.0f} | {above - below:,.0f} "
                  f"| {seconds:.1f} |", flush=True)  # fmt: skip
        print(f"\n{options.hardware}\n\n| 12 megapixels, ms | decode | draw | write |\n"
              "|---|---|---|---|")  # fmt: skip
        for overlay_size in (render.Style.overlay_size, max(LARGE)):
            figures = " | ".join(f"{ms:.0f}" for ms in drawing(large[0], overlay_size,
                                                               options.rounds))  # fmt: skip
            print(f"| overlay of {overlay_size} pixels | {figures} |")
    finally:
        shutil.rmtree(scratch)


if __name__ == "__main__":
    main()
