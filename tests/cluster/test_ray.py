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
import time
import torch

class Deadly(torch.nn.Sequential):
    def forward(self, x):
        if (x.flatten(1).amin(1) > 0.99).any():
            os.kill(os.getpid() if {own} else os.getppid(), 9)
            time.sleep(60)  # which it does not live to see the end of
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
    return processes(lambda line: b"\0--watched\0" in line and name in line)


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


@pytest.mark.slow
def test_two_nodes_write_what_one_process_writes(
    cluster: Any, camcli: Callable, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = [SAMPLES, "-o", out, *FLAGS, "--ray-shards=2", "--json", "--log-format=json"]
    status, printed, said = Driver(cluster, *command).end()
    assert status == 0, said
    names = sorted(path.name for path in SAMPLES.glob("*.jpg"))
    assert sorted(json.loads(line)["key"] for line in printed.splitlines()) == names
    events = [json.loads(line) for line in said]
    assert (events[0]["event"], events[-1]["event"]) == ("started", "finished")
    counts = {name: n for name, n in events[-1]["counts"].items() if n}
    assert counts == {"found": len(names), "explained": len(names), "ignored": 1}
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
    lines = [line["key"] for path in out.glob("results-*.jsonl") for line in journalled(path)]
    assert len(lines) == len(set(lines)) == 1000  # nothing that was committed was done again


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


@pytest.mark.soak
def test_the_first_signal_finishes_what_is_in_flight_and_more_nodes_go_on(
    cluster: Any, camcli: Callable, tmp_path: Path
) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    plant(images, 400, 100)
    stopped = Driver(cluster, images, "-o", out, *FLAGS)
    stopped.wait_for(lambda: committed(out) > 20)
    started = time.monotonic()
    stopped.process.send_signal(signal.SIGINT)
    status, _, said = stopped.end()
    assert status == 130, said
    assert "camcli: stopped by SIGINT; the same command goes on from here" in said
    assert time.monotonic() - started < 60
    assert len(outputs(out)) == 3 * committed(out) < 1200
    assert not children(out)
    node = cluster.add_node(num_cpus=1)
    try:
        status, _, said = Driver(cluster, images, "-o", out, *FLAGS).end()
    finally:
        cluster.remove_node(node)
    assert status == 0, said
    assert sorted(out.glob("run-*.json"))[-1].name == "run-007-of-008.json"
    assert outputs(out) == whole(camcli, images, tmp_path / "whole")


@pytest.mark.soak
def test_a_run_whose_last_fitting_node_is_lost_says_so_and_goes_on_on_the_next(
    cluster: Any, camcli: Callable, tmp_path: Path
) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    plant(images, 400, 100)
    node = cluster.add_node(num_cpus=2)
    driver = Driver(cluster, images, "-o", out, *FLAGS, "--workers=2", "--ray-shards=2")
    driver.wait_for(lambda: committed(out) > 20)
    cluster.remove_node(node)
    assert driver.process.stderr is not None
    stranded = "camcli: no node of the Ray cluster has 2 CPUs any more; waiting for one\n"
    while (line := driver.process.stderr.readline()) != stranded:
        assert line
    node = cluster.add_node(num_cpus=2)
    try:
        status, _, said = driver.end()
    finally:
        cluster.remove_node(node)
    assert status == 0, said
    assert not [line for line in said if "waiting" in line]
    assert outputs(out) == whole(camcli, images, tmp_path / "whole")


@pytest.mark.soak
def test_a_second_signal_ends_all_at_once(cluster: Any, tmp_path: Path) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    plant(images, 400, 100)
    driver = Driver(cluster, images, "-o", out, *FLAGS, "--ray-shards=2")
    driver.wait_for(lambda: committed(out) > 20)
    driver.process.send_signal(signal.SIGINT)
    time.sleep(0.1)  # two that are pending at once come in the order of their numbers
    driver.process.send_signal(signal.SIGTERM)
    assert driver.end() == (143, "", [])
    deadline = time.monotonic() + 30
    while children(out):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.soak
def test_a_shard_that_is_locked_is_reported_and_the_others_finish(
    cluster: Any, camcli: Callable, tmp_path: Path
) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    plant(images, 20, 20)
    out.mkdir()
    with open(out / ".camcli-000-of-002.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        command = [images, "-o", out, *FLAGS, "--ray-shards=2"]
        status, _, said = Driver(cluster, *command).end()
    assert status == 75
    assert said[0].startswith("camcli: shard 0/2: another run is writing shard 0/2 to ")
    assert (out / "run-001-of-002.json").exists()
    assert Driver(cluster, *command).end()[0] == 0
    assert outputs(out) == whole(camcli, images, tmp_path / "whole")


@pytest.mark.slow
def test_what_listens_but_is_no_cluster_is_given_up_in_a_sentence() -> None:
    code = ("import sys; from camcli.cluster import joining; joining._JOIN = 2\n"
            "from camcli.cli.app import main; main()")  # fmt: skip
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        done = subprocess.run(
            [sys.executable, "-c", code, "explain", SAMPLES, "--ray", address],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert f"camcli: no Ray cluster can be reached at '{address}' (no answer within" in done.stderr
