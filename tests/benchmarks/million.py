"""What a folder of a million pictures costs before the first map, and once all are done.

    python -m tests.benchmarks.million [--files N] [--folder-size N …] [--in FOLDER]

For every folder size a tree of hard links to one sample is planted. Measured are the walk over it;
the time from a model that is ready to the first picture explained, beside that in a folder of a
hundred; and `camcli explain` over the
tree with a journal that says that every input is done: inputs a second by the clock and by the
processor's time, from the start of the process to its end, and its peak memory.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from camcli import config
from camcli.cli.explain import job_of
from camcli.cli.process import own_process
from camcli.images.discover import Inputs, Walk
from camcli.run import Run

SAMPLE = Path(__file__).parents[2] / "samples" / "coffee.jpg"
# Some file systems allow no more than 65,000 names of one file.
LINKS = 60_000


def plant(tree: Path, files: int, folder_size: int) -> None:
    """Hard links to copies of the sample, in folders of that size."""
    tree.mkdir()
    source = folder = tree
    for number in range(files):
        if number % LINKS == 0:
            source = tree.with_name(f"{tree.name}-{number}.jpg")
            shutil.copy(SAMPLE, source)
        if number % folder_size == 0:
            folder = tree / f"folder-{number // folder_size:04}"
            folder.mkdir()
        os.link(source, folder / f"picture-{number:07}.jpg")


def all_done(tree: Path, out: Path) -> None:
    """Have the journal of a run say that every input of the tree is done."""
    journal = out / "results.jsonl"
    line = json.loads(journal.read_bytes().splitlines()[-1])
    with journal.open("w") as file:
        for ref in Walk(Inputs((str(tree),))).refs():
            status = os.stat(ref.path)
            facts = {"size": status.st_size, "mtime_ns": status.st_mtime_ns}
            line |= {"key": ref.key, "source": os.path.abspath(ref.path)} | facts
            file.write(json.dumps(line, ensure_ascii=True) + "\n")


class Usage(NamedTuple):
    """What a process took."""

    returncode: int
    said: str
    seconds: float
    processor_seconds: float
    peak_mb: float


def apart(function: Callable[..., Any], *arguments: object) -> Any:
    """Call in a process of its own: what this one has held counts as its children's peak."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def camcli(*arguments: object) -> Usage:
    """Run the command line as a process."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "camcli", *map(str, arguments)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = process.stderr.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - started
    peak = used.ru_maxrss * (1024 if sys.platform != "darwin" else 1) / 1e6
    return Usage(process.returncode, said, seconds, used.ru_utime + used.ru_stime, peak)


def walked(tree: Path) -> tuple[float, float]:
    """Seconds to the first input, and to the last."""
    started = time.perf_counter()
    refs = Walk(Inputs((str(tree),))).refs()
    next(refs)
    first = time.perf_counter() - started
    for _ in refs:
        pass
    return first, time.perf_counter() - started


def first_picture(tree: Path, out: Path) -> float:
    """Seconds from a model that is ready to the first record."""
    own_process()
    ready: list[float] = []

    class Timed(Run):
        def _engine(self, before: dict[str, object] | None) -> object:
            engine = super()._engine(before)
            ready.append(time.perf_counter())
            return engine

    chosen, _ = config.resolve({"output": str(out)}, {}, None)
    records = Timed(job_of(chosen, (str(tree),), set())).records()
    next(records)
    seconds = time.perf_counter() - ready[0]
    records.close()
    return seconds


def measure(folder: Path, files: int, folder_size: int) -> list[str]:
    """The cells of a row."""
    tree, out = folder / "tree", folder / "out"
    plant(tree, files, folder_size)
    assert camcli("explain", SAMPLE, "-o", out, "-q").returncode == 0
    apart(all_done, tree, out)
    resumed = camcli("explain", tree, "-o", out)
    assert resumed.returncode == 0, resumed.said
    assert f"0 explained, {files:,} already done: " in resumed.said, resumed.said
    begin, end = apart(walked, tree)
    plant(folder / "few", 100, 100)
    few, many = (apart(first_picture, folder / name, folder / f"{name}-first")
                 for name in ("few", "tree"))  # fmt: skip
    return [
        f"{-(-files // folder_size):,} × {min(files, folder_size):,}",
        f"{begin:.2f} s",
        f"{end:.1f} s",
        f"{many:.2f} s",
        f"{few:.2f} s",
        f"{files / resumed.seconds:,.0f}",
        f"{files / resumed.processor_seconds:,.0f}",
        f"{resumed.peak_mb:.0f} MB",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--folder-size", type=int, nargs="+", default=[1_000, 1_000_000])
    parser.add_argument("--in", dest="place", help="where the trees are planted")
    options = parser.parse_args()
    print("| folders × files | first name | walk | first picture, model ready | of a hundred "
          "| resumed, inputs/s | inputs/s of processor time | peak memory |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|")
    for folder_size in options.folder_size:
        with tempfile.TemporaryDirectory(dir=options.place) as folder:
            cells = measure(Path(folder), options.files, folder_size)
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
