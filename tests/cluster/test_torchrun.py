"""The torchrun example in configs/, with two processes on the CPU."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from camcli.shard import Shard
from tests.written import journalled, outputs

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
BESIDE = Path(sys.executable).parent  # where torch puts torchrun
TWO = [Shard(0, 2), Shard(1, 2)]
SETTINGS = {"CAMCLI_MODEL": "squeezenet1_1", "CAMCLI_WEIGHTS": "none", "CAMCLI_SIZE": "64",
            "CAMCLI_BATCH_SIZE": "2", "OMP_NUM_THREADS": "1"}  # fmt: skip


@pytest.fixture
def start(path_to_camcli: Path) -> Callable[..., subprocess.Popen[bytes]]:
    """Starts the script with two processes: `start(images, out, CAMCLI_METHOD="gradcam")`."""

    def start(images: Path, out: Path, **variables: str) -> subprocess.Popen[bytes]:
        path = os.pathsep.join([str(path_to_camcli), str(BESIDE), os.environ["PATH"]])
        return subprocess.Popen(
            [ROOT / "configs" / "torchrun.sh", images, out, "--standalone", "--nproc-per-node=2"],
            env=os.environ | SETTINGS | variables | {"PATH": path}, stderr=subprocess.PIPE,
        )  # fmt: skip

    return start


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A damaged picture and one more in one shard, ten pictures in the other."""
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "damaged.jpg").write_bytes(b"no picture")
    (short,) = (shard for shard in TWO if shard.holds("damaged.jpg"))
    names = [f"{number:02}.jpg" for number in range(60)]
    few, many = ([name for name in names if short.holds(name) is held] for held in (True, False))
    for name in few[:1] + many[:10]:
        shutil.copy(ROOT / "samples" / "coffee.jpg", folder / name)
    return folder


def keys(out: Path) -> list[list[str]]:
    journals = [out / shard.journal for shard in TWO]
    return [[line["key"] for line in journalled(path)] if path.exists() else []
            for path in journals]  # fmt: skip


def test_two_processes_split_the_work_and_a_damaged_picture_of_one_does_not_end_the_other(
    start: Callable, camcli: Callable, images: Path, tmp_path: Path
) -> None:
    process = start(images, tmp_path / "out")
    said = process.communicate(timeout=300)[1]
    assert process.returncode == 0, said
    assert said.count(b"as RANK and WORLD_SIZE say") == 2  # neither was started again
    assert b"1 explained, 1 failed" in said
    assert b"10 explained" in said
    assert sorted(map(len, keys(tmp_path / "out"))) == [2, 10]
    camcli("explain", images, "-o", tmp_path / "whole", env=os.environ | SETTINGS, check=3)
    assert outputs(tmp_path / "out") == outputs(tmp_path / "whole")
    camcli("merge", tmp_path / "out", check=0)


def test_torchrun_that_is_told_to_end_has_both_end_their_batches_and_goes_on_later(
    start: Callable, camcli: Callable, images: Path, tmp_path: Path
) -> None:
    out, slowly = tmp_path / "out", {"CAMCLI_METHOD": "smoothgradcampp"}
    process = start(images, out, **slowly)
    deadline = time.monotonic() + 300
    while len(list(out.glob("maps/*.npz"))) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.terminate()
    said = process.communicate(timeout=300)[1]
    assert process.returncode != 0
    assert b"stopped by SIGTERM; the same command goes on from here" in said
    before = keys(out)
    assert 0 < sum(map(len, before)) < 12
    process = start(images, out, **slowly)
    said = process.communicate(timeout=300)[1]
    assert process.returncode == 0, said
    assert [now[: len(then)] for now, then in zip(keys(out), before, strict=True)] == before
    camcli("explain", images, "-o", tmp_path / "whole", env=os.environ | SETTINGS | slowly,
           check=3)  # fmt: skip
    assert outputs(out) == outputs(tmp_path / "whole")
