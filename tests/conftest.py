"""What several test files share: two threads at most, lived-in networks, pictures on disk."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from PIL import Image
from torch import nn

from camcli.cam.targets import Classes
from camcli.images.decode import DecodeSettings, from_picture
from camcli.images.preprocess import Preprocessing
from camcli.models.eager import EagerNetwork
from camcli.models.fallback import import_torchvision
from camcli.models.loaded import LoadedModel
from camcli.records import Decoded, ImageRef
from tests import client
from tests.serving import Server

# The same examples everywhere, and no complaint about a machine that is busy.
settings.register_profile(
    "camcli", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("camcli")

import_torchvision()
torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that tests start


def live_in(
    module: nn.Module, size: int = 64, seed: int = 0, pictures: torch.Tensor | None = None
) -> nn.Module:
    """Give a fresh network what training leaves: biases, affine terms, batch statistics.

    Freshly initialised networks have zero biases, which hides wrong mathematics. Statistics are
    those of `pictures` (N, 3, H, W), or of white noise.
    """
    generator = torch.Generator().manual_seed(seed)

    def noise(tensor: torch.Tensor, mean: float, std: float) -> None:
        tensor.copy_(mean + std * torch.randn(tensor.shape, generator=generator))

    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.endswith("bias"):
                noise(parameter, 0.0, 0.1)
            elif parameter.dim() == 1:
                noise(parameter, 1.0, 0.1)
            elif parameter.abs().max() <= 1e-6:  # a head, or a layer scale, not yet trained
                noise(parameter, 0.0, 0.02)
        norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        for norm in norms:
            norm.momentum = None  # a plain average over the calibration batches
        module.eval()
        for norm in norms:
            norm.reset_running_stats()
            norm.train()
        if norms:
            noisy = torch.randn(4, 3, size, size, generator=generator)
            module(noisy if pictures is None else pictures)
    return module.eval()


def as_model(module: nn.Module, classes: int, size: int = 64) -> LoadedModel:
    """A LoadedModel around any module that takes square pictures of that size."""
    half = (0.5, 0.5, 0.5)
    return LoadedModel(
        name="small",
        network=EagerNetwork(module),
        weights="none",
        weights_sha256=None,
        preprocessing=Preprocessing((size, size), size, half, half, "bilinear", "crop", "test"),
        classes=Classes(2 if classes == 1 else classes),
        labels="none",
        activation="sigmoid" if classes == 1 else "softmax",
        device=torch.device("cpu"),
    )


def noise_pictures(model: LoadedModel, count: int, seed: int = 0) -> list[Decoded]:
    """Pictures of seeded coarse noise, prepared for the model."""
    settings = DecodeSettings(model.preprocessing, None, 10**8)
    generator = np.random.default_rng(seed)
    prepared = []
    for number in range(count):
        coarse = Image.fromarray(generator.integers(0, 256, (6, 8, 3), np.uint8))
        image = coarse.resize((320, 240), Image.Resampling.BICUBIC)
        picture = from_picture(ImageRef(f"{number}.png", f"{number}.png"), image, settings)
        assert isinstance(picture, Decoded)
        prepared.append(picture)
    return prepared


@pytest.fixture(autouse=True)
def _limit_of_pillow() -> Iterator[None]:
    """The command line, whose process is its own otherwise, takes Pillow's limit away."""
    limit = Image.MAX_IMAGE_PIXELS
    yield
    Image.MAX_IMAGE_PIXELS = limit


@pytest.fixture(scope="session")
def photos() -> Path:
    """The folder of real labelled photographs that CAMCLI_PHOTOS names."""
    folder = os.environ.get("CAMCLI_PHOTOS")
    if not folder:
        pytest.skip("CAMCLI_PHOTOS is not set")
    return Path(folder)


@pytest.fixture
def picture(tmp_path: Path) -> Callable[..., Path]:
    """Writes a picture of seeded noise: `picture("a/b.jpg", size=(60, 40), seed=1)`."""

    def write(name: str, size: tuple[int, int] = (64, 48), seed: int = 0) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
        Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(path)
        return path

    return write


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Starts runs from a process that has torch loaded."""
    server = Server(tmp_path_factory.mktemp("server"))
    yield server
    server.close()


@pytest.fixture(scope="session")
def path_to_camcli(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder whose `camcli` behaves as a process of its own, and where it can starts at once."""
    command = f"'{sys.executable}' -m camcli"
    if sys.platform == "linux":
        server = request.getfixturevalue("server")
        command = f"'{sys.executable}' -IS '{client.__file__}' '{server.socket}'"
    folder = tmp_path_factory.mktemp("bin")
    (folder / "camcli").write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    (folder / "camcli").chmod(0o755)
    return folder


@pytest.fixture(scope="session")
def camcli(path_to_camcli: Path) -> Callable[..., subprocess.CompletedProcess[bytes]]:
    """Runs the command line: `camcli("explain", folder, "-o", out, check=0)`."""

    def run(
        *arguments: object, check: int | None = None, **options: object
    ) -> subprocess.CompletedProcess[bytes]:
        given = [a if isinstance(a, bytes | os.PathLike) else str(a) for a in arguments]
        command = [path_to_camcli / "camcli", *map(os.fspath, given)]
        options = {"capture_output": True, "timeout": 300, "stdin": subprocess.DEVNULL} | options
        done = subprocess.run(command, check=False, **options)
        if check is not None:
            assert done.returncode == check, (done.returncode, done.stdout, done.stderr)
        return done

    return run


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """Debian's Chromium, or the one that CAMCLI_CHROMIUM names."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = os.environ.get("CAMCLI_CHROMIUM") or shutil.which("chromium")
    if path is None:
        pytest.skip("no chromium: apt-get install chromium, or name one with CAMCLI_CHROMIUM")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=path, timeout=20_000)
        yield browser
        browser.close()
