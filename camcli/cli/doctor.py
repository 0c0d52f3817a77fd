"""`camcli doctor`"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version

import typer

import camcli

Check = tuple[str, bool, str]


def command() -> None:
    """Say what is installed, which devices and codecs work, and how to get what is missing.

    Exit status 1 if something that every run needs is missing.

    Example: camcli doctor
    """
    print(
        f"camcli {camcli.__version__}, Python {platform.python_version()}, {os.cpu_count()} cores"
    )
    broken = 0
    for check in (_torch, _torchvision, _builtin_model, _codecs, _ray):
        for name, works, text in _tried(check):
            print(f"{'ok  ' if works else 'MISS'} {name:<18} {text}")
            broken += not works and not name.startswith("optional")
    raise typer.Exit(1 if broken else 0)


def _tried(check: Callable[[], Iterator[Check]]) -> Iterator[Check]:
    """A check's lines; whatever it raises is a line too."""
    try:
        yield from check()
    except Exception as error:
        yield check.__name__.strip("_"), False, f"{type(error).__name__}: {error}"


def _torch() -> Iterator[Check]:
    import torch

    yield "torch", True, f"{torch.__version__}, {torch.get_num_threads()} threads"
    for index in range(torch.cuda.device_count()):
        yield f"cuda:{index}", True, torch.cuda.get_device_name(index)
    if torch.backends.mps.is_available():
        yield "mps", True, "Apple GPU"
    if not torch.cuda.is_available() and not torch.backends.mps.is_available():
        yield "cpu", True, "no GPU that torch can use; runs take place on the CPU"


def _torchvision() -> Iterator[Check]:
    from camcli.models.fallback import import_torchvision, operators_missing

    found = import_torchvision().__version__
    note = "models and transforms work; its compiled operators do not load beside this torch"
    yield "torchvision", True, f"{found}{', ' + note if operators_missing() else ''}"


def _builtin_model() -> Iterator[Check]:
    from camcli.models import builtin

    yield "built-in model", True, f"{builtin.NAME}, {builtin.weights_file().stat().st_size:,} bytes"


def _codecs() -> Iterator[Check]:
    from PIL import features

    yield "pillow", True, version("pillow")
    for codec, what in (("jpg", "JPEG"), ("zlib", "PNG")):
        works = bool(features.check(codec))
        yield what, works, "reads and writes" if works else "pip install --upgrade pillow"
    for codec, what in (("webp", "WebP"), ("avif", "AVIF"), ("jpg_2000", "JPEG 2000"),
                        ("libtiff", "compressed TIFF"), ("littlecms2", "LAB")):  # fmt: skip
        works = bool(features.check(codec))
        text = what if works else f"{what} needs another build of Pillow"
        yield f"optional {codec}", works, text


def _ray() -> Iterator[Check]:
    try:
        yield "optional ray", True, f"{version('ray')}, for --ray"
    except PackageNotFoundError:
        yield "optional ray", False, "--ray needs it: pip install 'camcli[ray]'"
