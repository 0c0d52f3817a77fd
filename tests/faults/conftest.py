"""Runs in hostile surroundings, and the file systems to have them on."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from camcli.outputs.audit import Audit
from tests.serving import Ended, Server, Started
from tests.written import journalled, outputs

RESULTS = "results.jsonl"
SLOW, SOAK = pytest.mark.slow, pytest.mark.soak
SMALL = ("--model", "squeezenet1_1", "--weights", "none", "--size", "64", "--batch-size", "2")


@pytest.fixture
def start(server: Server) -> Callable[..., Started]:
    """Starts one command: `start("explain", images, "-o", out, limits={"NOFILE": 30})`."""
    return server.start


@pytest.fixture
def explain(server: Server) -> Callable[..., Ended]:
    """Explains a folder with a small network: `explain(images, out, "-q", cwd=folder)`."""

    def run(images: Path, out: Path, *arguments: object, **options: Any) -> Ended:
        command = ("explain", images, "-o", out, *SMALL, "-j", "2", *arguments)
        return server.start(*command, **options).wait()

    return run


@pytest.fixture
def fault(server: Server) -> Callable[..., dict[str, str]]:
    """The environment in which system calls fail: `fault("write", "/maps/", errno.EIO, 3)`."""
    if server.shim is None:
        pytest.skip("a fault injector is compiled with gcc, for Linux")

    def environment(call: str, path: str, number: int, after: int = 0, times: int = 10**6):
        names = ("CALL", "PATH", "ERRNO", "AFTER", "TIMES")
        values = (call, path, number, after, times)
        return {f"FAULT_{name}": str(value) for name, value in zip(names, values, strict=True)}

    return environment


def mounted(*arguments: object) -> None:
    """Mount, or skip where that is not allowed."""
    if sys.platform != "linux" or os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("file systems are mounted by root, on Linux")
    done = subprocess.run(["mount", *map(str, arguments)], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"mount: {done.stderr.decode().strip()}")


@contextmanager
def tmpfs(place: Path, options: str) -> Iterator[Path]:
    """A file system in memory, with its own limits."""
    place.mkdir()
    mounted("-t", "tmpfs", "-o", options, "tmpfs", place)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def formatted(image: Path, megabytes: int) -> Path:
    """A file that holds an empty ext4 file system."""
    if shutil.which("mkfs.ext4") is None:
        pytest.skip("no mkfs.ext4")
    with open(image, "wb") as file:
        file.truncate(megabytes * 2**20)
    subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
    return image


@contextmanager
def ext4(image: Path, place: Path, options: str = "rw") -> Iterator[Path]:
    """A disk's image, mounted; what its journal holds is replayed first."""
    place.mkdir(exist_ok=True)
    mounted("-o", f"loop,{options}", image, place)
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty small pictures, no two alike."""
    folder = tmp_path_factory.mktemp("faults") / "images"
    folder.mkdir()
    for number in range(30):
        draw(folder / f"{number:02}.png", number)
    return folder


def draw(path: Path, seed: int, size: int = 110) -> None:
    """A small picture of noise."""
    noise = np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8)
    Image.fromarray(noise).save(path)


@pytest.fixture(scope="session")
def whole(images: Path, server: Server) -> dict[str, bytes]:
    """What a run writes that nothing happens to."""
    out = images.parent / "whole"
    done = server.start("explain", images, "-o", out, *SMALL, "-j", "2", "-q").wait()
    assert done == Ended(0, "", "")
    return outputs(out)


def committed(out: Path) -> list[str]:
    """The keys in the journal."""
    return [line["key"] for line in journalled(out / RESULTS)]


def until(out: Path, count: int) -> None:
    """Wait until a run has committed so many inputs."""
    end = time.monotonic() + 60
    while len(committed(out)) < count:
        assert time.monotonic() < end
        time.sleep(0.002)


def sentence(ended: Ended) -> str:
    """The one line that a fatal fault is told in."""
    assert "Traceback" not in ended.stderr, ended.stderr
    (line,) = ended.stderr.splitlines()
    assert line.startswith("camcli: ")
    return line


def faults(out: Path) -> list[object]:
    """What `camcli verify --deep` finds."""
    return [*Audit(out, deep=True).findings()]
