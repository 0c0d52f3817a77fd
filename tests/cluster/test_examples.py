"""The examples in configs/ for clusters, run with what would call them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.written import journalled, outputs

ROOT = Path(__file__).parents[2]
SETTINGS = {"CAMCLI_MODEL": "squeezenet1_1", "CAMCLI_WEIGHTS": "none", "CAMCLI_SIZE": "64",
            "CAMCLI_BATCH_SIZE": "2"}  # fmt: skip


@pytest.fixture
def run(path_to_camcli: Path) -> Callable[..., subprocess.CompletedProcess[bytes]]:
    """Runs a script with camcli on its path: `run("slurm-array.sh", images, out, NAME="x")`."""

    def run(
        script: str, *arguments: object, **variables: str
    ) -> subprocess.CompletedProcess[bytes]:
        path = os.pathsep.join([str(path_to_camcli), os.environ["PATH"]])
        return subprocess.run(
            [ROOT / "configs" / script, *map(str, arguments)], timeout=300, check=False,
            env=os.environ | SETTINGS | variables | {"PATH": path}, capture_output=True,
        )  # fmt: skip

    return run


@pytest.mark.slow
def test_the_tasks_of_the_slurm_array_share_the_work(
    run: Callable, camcli: Callable, tmp_path: Path
) -> None:
    script = (ROOT / "configs" / "slurm-array.sh").read_text()
    (last,) = re.findall(r"^#SBATCH --array=0-(\d+)$", script, re.MULTILINE)
    tasks = range(int(last) + 1)
    for task in tasks:
        array = {"ID": task, "COUNT": len(tasks), "MIN": 0, "MAX": int(last), "STEP": 1}
        done = run("slurm-array.sh", ROOT / "samples", tmp_path / "out", SLURM_CPUS_PER_TASK="1",
                   **{f"SLURM_ARRAY_TASK_{k}": str(v) for k, v in array.items()})  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert b'"event": "finished"' in done.stderr
    camcli("merge", tmp_path / "out", check=0)
    lines = journalled(tmp_path / "out" / "results.jsonl")
    assert len(lines) == len(list((ROOT / "samples").glob("*.jpg")))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("parallel") is None, reason="GNU parallel is not installed")
def test_the_line_for_gnu_parallel_makes_one_run(
    run: Callable, camcli: Callable, tmp_path: Path
) -> None:
    done = run("parallel.sh", 3, ROOT / "samples", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    camcli("explain", ROOT / "samples", "-o", tmp_path / "whole", env=os.environ | SETTINGS,
           check=0)  # fmt: skip
    assert outputs(tmp_path / "out") == outputs(tmp_path / "whole")


def test_the_job_for_kubernetes_says_of_how_many_pods(camcli: Callable, tmp_path: Path) -> None:
    job = (ROOT / "configs" / "kubernetes-job.yaml").read_text()
    counts = re.findall(r'(?:completions|parallelism|value): "?(\d+)"?', job)
    assert len(counts) == 3
    (count,) = set(counts)
    (command,) = re.findall(r"command: \[(.*)\]", job)
    name, *arguments = command.split(", ")
    assert name == "camcli"
    there = {"/data/images": str(ROOT / "samples"), "/data/explained": str(tmp_path / "out")}
    pod = SETTINGS | {"CAMCLI_SHARD_COUNT": count, "JOB_COMPLETION_INDEX": "63"}
    done = camcli(*(there.get(a, a) for a in arguments), env=os.environ | pod, check=None)
    assert done.returncode in (0, 4), done.stderr
    assert b"shard 63/64" in done.stderr


def test_the_commands_of_the_crontab_exist(camcli: Callable, tmp_path: Path) -> None:
    table = (ROOT / "configs" / "crontab").read_text()
    commands = [line.split(None, 5)[5] for line in table.splitlines() if line[:1].isdigit()]
    assert len(commands) == 2
    there = {"/data/images": str(ROOT / "samples"), "/data/explained": str(tmp_path / "out"),
             "/etc/camcli/nightly.toml": str(ROOT / "configs" / "nightly.toml")}  # fmt: skip
    for command in commands:
        name, *arguments = command.split()
        assert name == "camcli"
        done = camcli(*(there.get(a, a) for a in arguments), env=os.environ | SETTINGS, check=0)
        assert (done.stdout, done.stderr) == (b"", b"")
