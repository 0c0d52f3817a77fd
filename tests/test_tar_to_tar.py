"""A tar of many small pictures into tars: in memory that does not grow, and on after a kill."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from camcli.outputs.audit import Audit
from tests.written import journalled, outputs

MODEL = """
import torch
def small():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(),
                               torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),
                               torch.nn.Linear(4, 5))
"""
SIZE = 16
RUN = """
import resource, sys
from camcli.cli.app import main
try: main()
finally: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def planted(path: Path, count: int) -> Path:
    """A tar of so many pictures, no two alike."""
    noise = np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), np.uint8)
    with tarfile.open(path, "w") as tar:
        for number, pixels in enumerate(noise):
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, "png")
            info = tarfile.TarInfo(f"{number // 1000:03}/{number:06}.png")
            info.size = file.tell()
            file.seek(0)
            tar.addfile(info, file)
    return path


@pytest.fixture
def model(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "model.py").write_text(MODEL)
    return f"{tmp_path / 'model.py'}:small"


def command(pictures: Path, out: Path, model: str, shard_size: int) -> list[str]:
    half = "0.5,0.5,0.5"
    return [sys.executable, "-c", RUN, "explain", str(pictures), "-o", str(out), "--model", model,
            "--size", str(SIZE), "--mean", half, "--std", half, "--batch-size", "64", "-j", "2",
            "--sink", "tar", "--shard-size", str(shard_size), "--no-isolate", "-q"]  # fmt: skip


def peak(pictures: Path, out: Path, model: str, shard_size: int) -> int:
    """KiB."""
    run = command(pictures, out, model, shard_size)
    return int(subprocess.run(run, check=True, capture_output=True).stdout)


def killed_half_way(
    pictures: Path, out: Path, model: str, shard_size: int, count: int
) -> list[str]:
    """The keys that a run had committed before it was killed."""
    process = subprocess.Popen(command(pictures, out, model, shard_size))
    end = time.monotonic() + 1200
    while len(done := journalled(out / "results.jsonl")) < count // 2:
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.05)
    process.kill()
    process.wait()
    done = journalled(out / "results.jsonl")
    assert len(done) < count
    return [line["key"] for line in done]


@pytest.mark.parametrize(
    ("count", "shard_size"),
    [
        pytest.param(120, 20, marks=pytest.mark.slow),
        pytest.param(10_000, 1000, marks=pytest.mark.soak),
    ],
)
def test_many_pictures_of_a_tar_go_into_tars(
    tmp_path: Path, model: str, count: int, shard_size: int
) -> None:
    pictures = planted(tmp_path / "pictures.tar", count)
    largest = peak(pictures, tmp_path / "whole", model, shard_size)
    assert len(list((tmp_path / "whole" / "tars").iterdir())) == count // shard_size
    if count == 10_000:
        fewer = planted(tmp_path / "fewer.tar", 2_000)
        assert largest < 1.03 * peak(fewer, tmp_path / "fewer", model, shard_size)
    out = tmp_path / "out"
    before = killed_half_way(pictures, out, model, shard_size, count)
    assert len(before) % shard_size == 0
    peak(pictures, out, model, shard_size)
    keys = [line["key"] for line in journalled(out / "results.jsonl")]
    assert keys[: len(before)] == before
    assert len(keys) == len(set(keys)) == count
    assert outputs(out) == outputs(tmp_path / "whole")
    assert [*Audit(out).findings()] == []
