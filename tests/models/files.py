"""What the tests of model files share: networks, their files in every form, and their maps."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torchvision import models

from camcli.engine import Engine
from camcli.models.exported import open_exported
from camcli.models.loaded import LoadedModel
from camcli.models.torchscript import open_script
from camcli.records import Explanation
from tests.conftest import as_model, live_in, noise_pictures

CLASSES = 10
CPU = torch.device("cpu")


class Small(nn.Module):
    """Two maps and a linear head; a module that works in place is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 8, stride=8)
        self.relu = nn.ReLU(inplace=True)
        self.more = nn.Sequential(
            nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU6(), nn.Dropout()
        )
        self.fc = nn.Linear(8, CLASSES)

    def features(self, x: Tensor) -> Tensor:
        return self.relu(self.more(self.relu(self.conv(x))) - 0.1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x).mean(dim=(2, 3)))


class TwoInputs(Small):
    def forward(self, x: Tensor, age: Tensor) -> Tensor:
        return self.fc(self.features(x).mean(dim=(2, 3))) + age


class Keyed(Small):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.features(x).mean(dim=(2, 3))
        return {"features": features, "logits": self.fc(features)}


def small(kind: type[nn.Module] = Small) -> LoadedModel:
    torch.manual_seed(0)
    module = kind()
    module.forward = Small.forward.__get__(module)  # to calibrate
    live_in(module)
    del module.__dict__["forward"]
    return as_model(module, CLASSES)


def small_vit() -> nn.Module:
    return models.VisionTransformer(
        image_size=64, patch_size=16, num_layers=3, num_heads=4, hidden_dim=48, mlp_dim=96,
        num_classes=CLASSES,
    )  # fmt: skip


def example(model: LoadedModel, rows: int = 1) -> Tensor:
    width, height = model.preprocessing.size
    weights = next(model.network.module.parameters())
    return torch.zeros(rows, 3, height, width, dtype=weights.dtype)


def traced(model: LoadedModel, rows: int = 1) -> Any:
    with quiet():
        return torch.jit.trace(
            model.network.module, example(model, rows), check_trace=False, strict=False
        )


def scripted(model: LoadedModel) -> Any:
    with quiet():
        return torch.jit.script(model.network.module)


def frozen(model: LoadedModel) -> Any:
    with quiet():
        return torch.jit.freeze(traced(model))


def exported(model: LoadedModel, form: str = "dynamic", rows: int = 2) -> ExportedProgram:
    """A program for any number of pictures, or a `static` one; `decomposed` where it says so."""
    dynamic = None if "static" in form else ({0: Dim("pictures")},)
    with quiet():
        program = torch.export.export(
            model.network.module, (example(model, rows),), dynamic_shapes=dynamic
        )
        return program.run_decompositions() if "decomposed" in form else program


def saved(made: Any, path: Path, **options: Any) -> Path:
    save = torch.export.save if isinstance(made, ExportedProgram) else torch.jit.save
    with quiet():
        save(made, str(path), **options)
    return path


def opened(model: LoadedModel, made: Any, path: Path, **options: Any) -> LoadedModel:
    """A LoadedModel around the file of what was made from a model."""
    open_file = open_exported if isinstance(made, ExportedProgram) else open_script
    return replace(model, name=path.name, network=open_file(saved(made, path), CPU, **options))


@contextmanager
def quiet() -> Any:
    """Without torch's warnings about tracing, and that torch.jit is deprecated."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


Edit = Callable[[str, bytes], bytes]


def rewritten(path: Path, edit: Edit, **added: bytes) -> Path:
    """A copy of a file whose members are edited, and to which some are added."""
    target = path.with_name(f"bad-{path.name}")
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(target, "w") as copy:
        for name in source.namelist():
            copy.writestr(name, edit(name, source.read(name)))
        root = source.namelist()[0].partition("/")[0]
        for name, content in added.items():
            copy.writestr(f"{root}/{name.replace('__', '/')}", content)
    return target


def in_code(old: str, new: str) -> Edit:
    """Replaces text in a file's graph, or its code, where it has to stand somewhere."""

    def edit(name: str, content: bytes) -> bytes:
        if name.endswith(".json") and "/models/" in name:
            assert old.encode() in content
        elif not name.endswith(".py"):
            return content
        return content.replace(old.encode(), new.encode())

    return edit


def maps(
    model: LoadedModel,
    *layers: str,
    methods: tuple[str, ...] = ("hirescam", "gradcam++"),
    target: str = "top:3",
) -> list[Explanation]:
    engine = Engine(model, methods=methods, layers=layers, target=target, batch_size=2)
    with engine.prepared():
        return engine.explain(noise_pictures(model, 2))


def assert_same_maps(
    got: list[Explanation], expected: list[Explanation], near: float = 1e-5
) -> None:
    """Maps to `near` of their maximum, and the figures that say what they are worth."""
    for one, other in zip(got, expected, strict=True):
        assert len(one.cams) == len(other.cams) > 0
        for own, true in zip(one.cams, other.cams, strict=True):
            assert own.target == true.target
            scale = float(np.abs(true.cam).max())
            assert scale > 0
            np.testing.assert_allclose(own.cam, true.cam, rtol=0, atol=near * scale)
            for figure in ("completeness_error", "location_error", "baseline", "outside_grid"):
                mine, theirs = getattr(own, figure), getattr(true, figure)
                assert mine == (
                    None if theirs is None else pytest.approx(theirs, rel=1e-4, abs=1e-4)
                )
