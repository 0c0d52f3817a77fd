"""What a second worker on a Ray cluster is worth.

    python -m tests.benchmarks.scaling [--pictures N] [--workers N …] [--shards N] [-- FLAG …]

A cluster of so many nodes, with one processor each, is started on this machine, and `camcli explain
--ray` explains hard links to one sample there, each time into a new directory. The seconds are
those of the whole command: joining the cluster too, and in each shard's process importing torch and
opening the model, which the seconds of explaining leave out.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.benchmarks.million import plant

FLAGS = ("--model=squeezenet1_1", "--weights=none", "--size=64", "--batch-size=16")


@contextmanager
def nodes(count: int) -> Iterator[str]:
    """The address of a cluster of so many nodes, with a processor each."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
    )
    try:
        for _ in range(count - 1):
            cluster.add_node(num_cpus=1)
        yield cluster.address
    finally:
        cluster.shutdown()


def explained(
    address: str, images: Path, out: Path, shards: int, flags: Sequence[str]
) -> tuple[float, float]:
    """Seconds of the command, and those that its shards explained for, added up."""
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "camcli", "explain", images, "-o", out, "--ray", address,
         "--ray-shards", str(shards), "-q", *flags],
        check=True,
    )  # fmt: skip
    seconds = time.perf_counter() - started
    runs = [json.loads(path.read_bytes()) for path in out.glob("run*.json")]
    return seconds, sum(run["timings"]["explain_seconds"] for run in runs)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("flags", nargs="*", default=FLAGS)
    options = parser.parse_args()
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
    print("| workers | shards | pictures | the command | pictures/s | against one worker "
          "| explaining, all shards |")  # fmt: skip
    print("|---|---|---|---|---|---|---|")
    first = None
    for count in options.workers:
        with tempfile.TemporaryDirectory() as folder, nodes(count) as address:
            images = Path(folder, "images")
            plant(images, options.pictures, 1000)
            seconds, explaining = explained(
                address, images, Path(folder, "out"), options.shards, options.flags
            )
        first = first or seconds
        print(f"| {count} | {options.shards} | {options.pictures:,} | {seconds:.1f} s "
              f"| {options.pictures / seconds:.1f} | {first / seconds:.2f}× "
              f"| {explaining:.1f} s |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
