"""The trunk in a lower precision: maps stay near and exact, in every kind of model file."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision import models
from typer.testing import CliRunner

from camcli.cli.app import app
from camcli.engine import Engine
from camcli.models import inspection
from camcli.models.exported import ExportedNetwork
from camcli.models.loaded import LoadedModel
from camcli.models.torchscript import ScriptNetwork
from camcli.records import Cam
from tests.conftest import as_model, live_in, noise_pictures

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
CPU = torch.device("cpu")
# In radians; between unrelated maps it is about 1.6. Inside a block what the channels add nearly
# cancels, and rounding shows.
ANGLE = {"bf16": 0.5, "fp16": 0.2}
NEAR = 0.1


@cache
def resnet() -> LoadedModel:
    torch.manual_seed(0)
    return as_model(live_in(models.resnet18(num_classes=10)), 10)


def cams(model: LoadedModel, precision: Any, layer: str = "auto") -> list[Cam]:
    engine = Engine(replace(model, precision=precision), layers=[layer], target="3", batch_size=2)
    with engine.prepared():
        return [one.cams[0] for one in engine.explain(noise_pictures(model, 2))]


def gap(one: Cam, other: Cam) -> float:
    return float(np.abs(one.cam - other.cam).max() / np.abs(other.cam).max())


def angle(one: Cam, other: Cam) -> float:
    """In radians, between two maps as vectors."""
    a, b = one.cam.ravel().astype(np.float64), other.cam.ravel().astype(np.float64)
    return float(np.arccos(np.clip(a @ b / np.linalg.norm(a) / np.linalg.norm(b), -1, 1)))


@pytest.mark.parametrize("precision", ANGLE)
# Around a layer inside a block, and around one branch of several, goes what is not float32.
@pytest.mark.parametrize("layer", ["auto", "layer4.0.conv1", "layer3"])
def test_maps_are_near_those_of_float32_and_nothing_stays_switched_on(
    precision: str, layer: str
) -> None:
    for low, full in zip(
        cams(resnet(), precision, layer), cams(resnet(), "fp32", layer), strict=True
    ):
        assert gap(low, full) > 1e-4
        assert angle(low, full) < ANGLE[precision]
    assert not torch.is_autocast_enabled("cpu")
    assert torch.overrides._get_current_function_mode() is None


def test_what_follows_the_layer_is_computed_in_float32() -> None:
    for low in cams(resnet(), "bf16"):
        assert low.completeness_error < 1e-4
        assert low.faithful
        assert np.unique(low.cam.view(np.uint32) & 0xFFFF).size > 1  # more digits than bfloat16


def traced() -> Any:
    with torch.no_grad():
        return torch.jit.trace(
            resnet().network.module, torch.zeros(2, 3, 64, 64), check_trace=False
        )


FORMS: dict[str, Callable[[], Any]] = {
    "traced": lambda: ScriptNetwork(traced(), CPU),
    "scripted": lambda: ScriptNetwork(torch.jit.script(resnet().network.module), CPU),
    "frozen": lambda: ScriptNetwork(torch.jit.freeze(traced()), CPU),
    "exported": lambda: ExportedNetwork(
        torch.export.export(
            resnet().network.module,
            (torch.zeros(2, 3, 64, 64),),
            dynamic_shapes=({0: torch.export.Dim("n")},),
        ),
        CPU,
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_files_are_run_in_a_lower_precision_too(form: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file = replace(resnet(), network=FORMS[form]())
    # Freezing has folded batch norms into weights, which then round otherwise.
    near = NEAR if form == "frozen" else 1e-3
    expected = zip(cams(file, "bf16"), cams(resnet(), "bf16"), cams(file, "fp32"), strict=True)
    for low, eager, full in expected:
        assert gap(low, eager) < near
        assert 1e-3 < gap(low, full) < NEAR


class Choosy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu, self.fc = nn.Conv2d(3, 8, 8, stride=8), nn.ReLU(), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        features = self.conv(x)
        if features.dtype == torch.bfloat16:
            raise RuntimeError("no bfloat16 here\nand more")
        return self.fc(self.relu(features).mean(dim=(2, 3)))


def test_a_network_that_cannot_is_run_as_it_is_and_the_run_says_so() -> None:
    torch.manual_seed(0)
    model = as_model(Choosy().eval(), 10)
    engine = Engine(replace(model, precision="bf16"), layers=["relu"], batch_size=2)
    assert engine.model.precision == "fp32"
    assert engine.model.remarks == (
        "small cannot be run in bf16 (no bfloat16 here); its maps are in its own precision",
    )


@pytest.mark.parametrize("has_none", [True, False])
def test_a_cpu_that_is_slower_so_is_named(has_none: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "emulated", lambda precision, device: has_none)
    engine = Engine(replace(resnet(), precision="bf16"), batch_size=2)
    assert engine.model.precision == "bf16"
    said = ("This CPU has no instructions for bf16 and is faster with --precision fp32.",)
    assert engine.model.remarks == (said if has_none else ())


def test_a_run_records_its_precision_and_keeps_it(picture: Any, tmp_path: Path) -> None:
    picture("in/a.png")
    run = ["explain", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--model", "resnet18",
           "--weights", "none", "--size", "64", "--resize", "64", "--batch-size", "1"]  # fmt: skip
    done = CliRunner().invoke(app, [*run, "--precision", "bf16"])
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "out/run.json").read_text())["precision"] == "bf16"
    picture("in/b.png", seed=1)
    refused = CliRunner().invoke(app, run)
    assert "holds maps made with another precision" in refused.stderr
