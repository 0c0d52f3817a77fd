"""A run to export: two methods, two classes a picture, a photo on its side, a failure."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests.cli.conftest import cli  # noqa: F401

SAMPLES = Path(__file__).parents[2] / "samples"
SMALL = ["--model", "squeezenet1_1", "--weights", "none", "--size", "64", "--batch-size", "2"]
HOSTILE = "=cmd|' ,\"\n.jpg"


@pytest.fixture(scope="session")
def explained(tmp_path_factory: pytest.TempPathFactory, camcli: Callable) -> Path:
    """A directory with the photos in `in` and the run in `out`; tests work on copies of it."""
    folder = tmp_path_factory.mktemp("exported")
    (folder / "in").mkdir()
    shutil.copy(SAMPLES / "coffee.jpg", folder / "in")
    shutil.copy(SAMPLES / "helmet.jpg", folder / "in" / HOSTILE)
    exif = Image.Exif()
    exif[274] = 6
    with Image.open(SAMPLES / "rocket.jpg") as photo:
        photo.save(folder / "in" / "rocket.jpg", exif=exif)
    (folder / "in" / "text.jpg").write_text("no picture")
    which = ["-m", "hirescam,layercam", "--target", "top:2"]
    camcli("explain", folder / "in", "-o", folder / "out", *which, *SMALL, check=3)
    return folder


@pytest.fixture
def out(explained: Path, tmp_path: Path) -> Path:
    """The run, beside its photos, to do with what a test likes."""
    shutil.copytree(explained / "out", tmp_path / "out", symlinks=True)
    return tmp_path / "out"
