"""Two methods of a run over five photos, and two models over the same photos."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import cli  # noqa: F401

SAMPLES = Path(__file__).parents[2] / "samples"
SMALL = ["--model", "squeezenet1_1", "--weights", "none", "--size", "64", "--batch-size", "2"]
HOSTILE = "<img src=x onerror=document.title='owned'>.jpg"
LABEL = "</script><img src=x onerror=\"document.title='owned'\">&quot;"


@pytest.fixture(scope="session")
def explained(tmp_path_factory: pytest.TempPathFactory, camcli: Callable) -> Path:
    """A run of two methods, whose classes and one photo have hostile names."""
    folder = tmp_path_factory.mktemp("secret-methods")
    shutil.copytree(SAMPLES, folder / "in", ignore=shutil.ignore_patterns(".*"))
    (folder / "in" / "rocket.jpg").rename(folder / "in" / HOSTILE)
    labels = folder / "labels.txt"
    labels.write_text("\n".join(f"{LABEL} {number}" for number in range(1000)))
    which = ["-m", "hirescam,eigencam", "--labels", labels, *SMALL]
    camcli("explain", folder / "in", "-o", folder / "out", *which, check=0)
    return folder / "out"
