"""Small networks in files of every form: what models hold that the well-known ones do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree

from camcli.models.inspection import layers_of
from tests.models.files import (
    Keyed,
    Small,
    assert_same_maps,
    exported,
    frozen,
    maps,
    opened,
    scripted,
    small,
    traced,
)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("make", [traced, scripted, frozen, exported])
def test_a_file_of_half_precision_is_fed_what_it_takes(make: Any, dtype: Any, tmp_path) -> None:
    model = small()
    expected = maps(model, "relu")
    model.network.module.to(dtype)
    file = opened(model, make(model), tmp_path / "half.pt2")
    for one, other in zip(maps(file, "auto"), expected, strict=True):
        for own, true in zip(one.cams, other.cams, strict=True):
            rounding = 2 * torch.finfo(dtype).eps * np.abs(true.cam).max()
            np.testing.assert_allclose(own.cam, true.cam, rtol=0, atol=rounding)


class PartlyHalf(Small):
    """Its middle computes in bfloat16, between two casts."""

    def __init__(self) -> None:
        super().__init__()
        self.narrow = nn.Conv2d(8, 8, 1, dtype=torch.bfloat16)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.narrow(self.features(x).to(torch.bfloat16)).float().mean(dim=(2, 3)))


@pytest.mark.parametrize("make", [traced, scripted, frozen, exported])
def test_casts_inside_a_file_are_followed(make: Any, tmp_path: Path) -> None:
    model = small(PartlyHalf)
    file = opened(model, make(model), tmp_path / "cast.pt2")
    before, behind = [layer.name for layer in layers_of(file)][-2:]
    assert_same_maps(maps(file, "auto"), maps(model, "auto"))
    assert_same_maps(maps(file, before, behind), maps(model, "relu", "narrow"))


def test_a_trace_made_under_autocast_computes_as_it_did_then(tmp_path: Path) -> None:
    model = small()
    with torch.autocast("cpu", torch.bfloat16):
        module = traced(model)
    got = maps(opened(model, module, tmp_path / "auto.pt"), "relu")
    for one, other in zip(got, maps(model, "relu"), strict=True):
        gap = np.abs(one.cams[0].cam - other.cams[0].cam).max() / np.abs(other.cams[0].cam).max()
        assert 1e-5 < gap < 2 * torch.finfo(torch.bfloat16).eps


class Pair(NamedTuple):
    logits: Tensor
    features: Tensor


# torch.export asks for it.
_pytree._register_namedtuple(Pair, serialized_type_name="tests.Pair")


class Named(Small):
    def forward(self, x: Tensor) -> Pair:
        features = self.features(x)
        return Pair(self.fc(features.mean(dim=(2, 3))), features)


class Paired(Small):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.features(x)
        return features, self.fc(features.mean(dim=(2, 3)))


@pytest.mark.parametrize("make", [traced, scripted, frozen, exported])
@pytest.mark.parametrize("kind", [Keyed, Named, Paired])
def test_the_logits_are_found_among_several_answers(kind: Any, make: Any, tmp_path) -> None:
    model = small(kind)
    file = opened(model, make(model), tmp_path / "several.pt2")
    assert_same_maps(maps(file, "auto"), maps(small(), "auto"))


@pytest.mark.parametrize("make", [traced, scripted, exported])
def test_every_call_of_a_module_is_a_layer_also_where_it_works_in_place(make, tmp_path) -> None:
    model = small()
    file = opened(model, make(model), tmp_path / "twice.pt2")
    assert [layer.name for layer in layers_of(file)] == [
        "conv", "relu:0", "more.0", "more.1", "more", "relu",
    ]  # fmt: skip
    assert_same_maps(maps(file, "conv", "relu:0", "relu"), maps(model, "conv", "relu:0", "relu"))


@pytest.mark.parametrize("make", [traced, scripted, exported])
@pytest.mark.parametrize("method", ["fullgrad", "gradient_x_input", "scorecam", "cam"])
def test_methods_that_ask_for_more_than_a_gradient_are_served(make, method: str, tmp_path) -> None:
    model = small()
    layer = "relu" if method == "cam" else "more"
    file = opened(model, make(model), tmp_path / "small.pt2")
    assert_same_maps(maps(file, layer, methods=(method,)), maps(model, layer, methods=(method,)))


@pytest.mark.parametrize("make", [traced, scripted, exported])
def test_parameters_are_found_by_name(make: Any, tmp_path: Path) -> None:
    model = small()
    file = opened(model, make(model), tmp_path / "small.pt2").network
    torch.testing.assert_close(file.classifier(), model.network.classifier())
    torch.testing.assert_close(file.biases(), model.network.biases())
