"""Shards as tasks on a Ray cluster of two nodes: what is lost with a worker, a node, a picture."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.benchmarks.million import plant
from tests.written import journalled, outputs

pytest.importorskip("ray", reason="the extra ray is not installed")

SAMPLES = Path(__file__).parents[2] / "samples"
FLAGS = ["--model=squeezenet1_1", "--weights=none", "--size=64", "--batch-size=4",
         "--overlay-size=64", "--target=0"]  # fmt: skip
# Ends its process, in the middle of a batch, over a picture that is white.
DEADLY = """
import os
import torch

class Deadly(torch.nn.Sequential):
    def forward(self, x):
        if (x.flatten(1).amin(1) > 0.99).any():
            os.kill(os.getpid() if {own} else os.getppid(), 9)
        return super().forward(x)

def build():
    torch.manual_seed(0)
    nn = torch.nn
    return Deadly(nn.Conv2d(3, 8, 3, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                  nn.Linear(8, 5))
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes with a processor each, all on this machine."""
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_TMPDIR", folder)
        patch.setenv("OMP_NUM_THREADS", "1")
        from ray.cluster_utils import Cluster

        cluster = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
        )
        cluster.add_node(num_cpus=1)
        yield cluster
        cluster.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


class Driver:
    """`camcli explain --ray` as a process."""

    def __init__(self, cluster: Any, *arguments: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "camcli", "explain", *map(str, arguments),
             "--ray", cluster.address],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )  # fmt: skip

    def end(self, seconds: float = 500) -> tuple[int, str, list[str]]:
        out, err = self.process.communicate(timeout=seconds)
        return self.process.returncode, out, err.splitlines()

    def wait_for(self, found: Callable[[], Any]) -> Any:
        while not (seen := found()):
            assert self.process.poll() is None, self.process.communicate()
            time.sleep(0.05)
        return seen


def workers() -> list[int]:
    """The processes of Ray that a task is in."""
    return processes(lambda line: line.startswith(b"ray::explain_shard"))


def children(out: Path) -> list[int]:
    """The processes that explain a shard."""
    name = str(out).encode()
    return processes(lambda line: b"\0--watched=" in line and name in line)


def processes(wanted: Callable[[bytes], bool]) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if wanted(path.read_bytes()):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def committed(out: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in out.glob("results*.jsonl"))


def whole(camcli: Callable, images: Path, out: Path, *flags: str) -> dict[str, bytes]:
    """What one process writes, with one thread too: on a CPU their number decides the last bit."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    camcli("explain", images, "-o", out, *(flags or FLAGS), env=environment, timeout=500)
    return outputs(out)


def test_two_nodes_write_what_one_process_writes(
    cluster: Any, camcli: Callable, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = [SAMPLES, "-o", out, *FLAGS, "--ray-shards=2", "--json"]
    status, printed, said = Driver(cluster, *command).end()
    assert status == 0, said
    names = sorted(path.name for path in SAMPLES.glob("*.jpg"))
    assert sorted(json.loads(line)["key"] for line in printed.splitlines()) == names
    assert said[0].startswith(f"camcli: {len(names)} explained")
    assert outputs(out) == whole(camcli, SAMPLES, tmp_path / "whole")


@pytest.mark.slow
def test_a_killed_worker_and_a_lost_node_cost_what_they_had_in_hand(
    cluster: Any, camcli: Callable, tmp_path: Path
) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    plant(images, 1000, 100)
    node = cluster.add_node(num_cpus=1)
    driver = Driver(cluster, images, "-o", out, *FLAGS, "--ray-shards=6")
    driver.wait_for(lambda: committed(out) > 50 and workers())
    os.kill(workers()[0], signal.SIGKILL)
    before = committed(out)
    driver.wait_for(lambda: committed(out) > before + 100)
    cluster.remove_node(node, allow_graceful=False)
    status, _, said = driver.end()
    assert status == 0, said
    assert any("its worker was lost" in line for line in said)
    assert any(line.startswith("camcli: 1,000 explained in ") for line in said), said
    assert camcli("verify", out, "--deep", check=0).stderr.startswith(b"camcli: 1,000 explained")
    assert outputs(out) == whole(camcli, images, tmp_path / "whole")
    lines = [journalled(path) for path in out.glob("results-*.jsonl")]
    assert sum(map(len, lines)) < 1000 + 2 * 3 * 4 * 4  # in hand: read ahead, batched, written


@pytest.mark.slow
@pytest.mark.parametrize("own", [True, False], ids=["itself", "the task's worker"])
def test_a_picture_that_kills_its_process_costs_itself_only(
    cluster: Any, camcli: Callable, tmp_path: Path, own: bool
) -> None:
    images, out, model = tmp_path / "images", tmp_path / "out", tmp_path / "deadly.py"
    plant(images, 60, 60)
    model.write_text(DEADLY.format(own=own))
    flags = [f"--model={model}:build", "--size=64", "--mean=0,0,0", "--std=1,1,1",
             "--batch-size=4", "--trust-model"]  # fmt: skip
    expected = whole(camcli, images, tmp_path / "whole", *flags)
    Image.new("RGB", (80, 80), "white").save(images / "deadly.png")
    status, _, said = Driver(cluster, images, "-o", out, *flags, "--ray-shards=2").end()
    assert status == 3, said
    written = outputs(out)
    record = json.loads(written.pop("json/deadly.png.json"))
    assert record["error"]["type"] == "ProcessLostError"
    assert written == expected
    assert sum("deadly.png: explaining it ended the process" in line for line in said) == 1
    camcli("verify", out, check=0)
    assert not list(out.glob(".*.flight"))
