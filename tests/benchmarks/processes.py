"""What processes cost, from their start to their end, and folders of photographs to give them."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

# Nothing here may import torch: a process's peak memory is at least that of the one it came from.
ROOT = Path(__file__).parents[2]


class FailedError(Exception):
    """A contender that ended with an error; the message is its last line."""


class Cost(NamedTuple):
    seconds: float
    peak: int
    """Bytes of memory, resident at once."""


def cost(command: Sequence[str]) -> Cost:
    """The time and the peak memory of a process, from its start to its end."""
    with tempfile.TemporaryFile() as told:
        started = time.perf_counter()
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL,
                                   stdout=subprocess.DEVNULL, stderr=told)  # fmt: skip
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            told.seek(0)
            lines = told.read().decode(errors="replace").strip().splitlines()
            raise FailedError(lines[-1] if lines else f"exit status {process.returncode}")
    unit = 1 if sys.platform == "darwin" else 1024
    return Cost(seconds, usage.ru_maxrss * unit)


def told(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def publish(lines: Iterable[str], output: Path | None) -> None:
    """Print lines as they come, and write them to a file where one is wanted."""
    kept = []
    for line in lines:
        print(line, flush=True)
        kept.append(line)
        if output is not None:  # after every line, because a table can take an hour
            output.parent.mkdir(parents=True, exist_ok=True)
            output.write_text("\n".join(kept) + "\n", encoding="utf-8")


def sources() -> list[Path]:
    """The photographs that are repeated."""
    folder = Path(os.environ.get("CAMCLI_PHOTOS", ROOT / "samples"))
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png"))


@contextmanager
def planted(originals: Sequence[Path], count: int) -> Iterator[Path]:
    """A folder of so many pictures: hard links to copies, which the file cache then holds."""
    with tempfile.TemporaryDirectory(prefix="camcli-benchmark-") as scratch:
        folder, copies = Path(scratch, "pictures"), Path(scratch, "originals")
        folder.mkdir()
        copies.mkdir()
        for number, original in enumerate(originals[:count]):
            shutil.copyfile(original, copies / f"{number:03d}{original.suffix}")
        kept = sorted(copies.iterdir())
        for number in range(count):
            source = kept[number % len(kept)]
            os.link(source, folder / f"{number:06d}{source.suffix}")
        yield folder


def hardware(facts: dict[str, Any]) -> str:
    """What the figures were measured on."""
    processor = platform.processor()
    if os.path.exists("/proc/cpuinfo"):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        processor = named[0] if named else processor
    cores = f"{os.cpu_count()} cores of {processor or platform.machine()}"
    gpu = f"{facts['gpu']}, " if facts["gpu"] else ""
    return f"{gpu}{cores}, {facts['threads']} threads, torch {facts['torch']}"
