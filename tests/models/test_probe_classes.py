"""What the sum of a map can mean on real networks, with the weights that training leaves."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import nn
from torchvision import models

import camcli
from camcli.engine import Engine
from camcli.models.inspection import chosen_layers, default_layer, layers_of, probe, stages
from camcli.models.loaded import LoadedModel
from tests.conftest import as_model, live_in

CLASSES = 10
SIZES = {"maxvit_t": 224, "vit_b_32": 64}
OPTIONS = {"vit_b_32": {"image_size": 64}}


@cache
def lived_in(name: str) -> LoadedModel:
    """A builder's network with few classes, for pictures as small as it takes."""
    torch.manual_seed(0)
    size = SIZES.get(name, 64)
    module: nn.Module = models.get_model(name, num_classes=CLASSES, **OPTIONS.get(name, {}))
    return as_model(live_in(module, size), CLASSES, size)


@pytest.mark.parametrize(
    ("name", "layer", "found", "score", "pooled"),
    [
        ("resnet18", "auto", "layer4", "exact", True),
        ("resnet18", "layer3", "layer3", "first_order", False),
        ("densenet121", "auto", "features", "exact", False),  # a ReLU lies between
        ("swin_t", "auto", "permute", "exact", True),
        ("vgg11", "auto", "features.19", "first_order", False),
        ("convnext_tiny", "auto", "features", "scale_invariant", True),
        ("maxvit_t", "auto", "blocks.3", "scale_invariant", True),
        ("vit_b_32", "auto", "encoder.layers.encoder_layer_11.ln_1", "bypassed", False),
    ],
)
def test_the_probe_tells_what_follows_the_layer(
    name: str, layer: str, found: str, score: str, pooled: bool
) -> None:
    model = lived_in(name)
    (chosen,) = chosen_layers(model, [layer])
    assert chosen.name == found
    known = probe(model, chosen)
    assert (known.score, known.pooled) == (score, pooled)
    assert (known.baseline is None) == (score == "bypassed")


def test_the_built_in_model_is_exact_at_its_default_layer() -> None:
    model = camcli.open_model()
    (layer,) = chosen_layers(model, ["auto"])
    known = probe(model, layer)
    assert (layer.name, known.score, known.pooled) == ("bn2", "exact", True)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet18", ["relu 32x32", "layer1 16x16", "layer2 8x8", "layer3 4x4", "layer4 2x2"]),
        ("vgg11", ["features.1 64x64", "features.4 32x32", "features.9 16x16", "features.14 8x8",
                   "features.19 4x4"]),
        ("swin_t", ["features.1 16x16", "features.3 8x8", "features.5 4x4", "permute 2x2"]),
        ("vit_b_32", ["encoder.layers.encoder_layer_11.ln_1 2x2 + 1"]),
        # Not the one path through the next stage that still has the size of this one.
        ("resnet50", ["relu 32x32", "layer1 16x16", "layer2 8x8", "layer3 4x4", "layer4 2x2"]),
    ],
)  # fmt: skip
def test_the_layers_to_fuse_are_the_last_of_every_size(name: str, expected: list[str]) -> None:
    model = lived_in(name)
    layers = layers_of(model)
    found = stages(model, layers, default_layer(model, layers))
    assert [f"{layer.name} {layer.grid}" for layer in found] == expected


def test_the_layers_to_fuse_end_with_the_one_asked_for() -> None:
    engine = Engine(lived_in("resnet18"), methods=["layercam_fusion"], layers=["layer2"])
    assert [layer.name for layer in engine._stages] == ["relu", "layer1", "layer2"]
    several = Engine(lived_in("resnet18"), methods=["layercam_fusion"], layers=["layer4", "layer2"])
    assert [layer.name for layer in several._stages] == ["layer4", "layer2"]


class Aside(nn.Module):
    """Its coarse map on the side decides nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.early = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.ReLU())
        self.side = nn.Conv2d(8, 8, 4, 4)
        self.late = nn.Sequential(nn.Conv2d(8, 8, 2, 2), nn.ReLU())
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = self.early(x)
        self.side(maps)
        return self.head(self.late(maps).mean(dim=(2, 3)))


def test_a_map_that_the_score_does_not_depend_on_is_not_fused() -> None:
    model = as_model(live_in(Aside()), CLASSES)
    engine = Engine(model, methods=["layercam_fusion"])
    assert "side" in [layer.name for layer in layers_of(model)]
    assert [layer.name for layer in engine._stages] == ["early", "late"]


def head(*layers: nn.Module) -> Callable[[], LoadedModel]:
    def build() -> LoadedModel:
        torch.manual_seed(0)
        body = [nn.Conv2d(3, 8, 8, 8), nn.ReLU()]
        return as_model(live_in(nn.Sequential(*body, *layers)), CLASSES)

    return build


def test_the_input_of_a_network_with_biases_is_a_first_order_view() -> None:
    pooled = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES)]
    engine = Engine(head(*pooled)(), methods=["gradient_x_input", "hirescam"])
    assert {layer.name: known.score for layer, known in engine.probes.items()} == {
        "1": "exact",
        "input": "first_order",
    }


def test_without_biases_the_input_is_exact_as_the_paper_says() -> None:
    pooled = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES, bias=False)]
    model = head(*pooled)()
    with torch.no_grad():
        model.network.module[0].bias.zero_()
    engine = Engine(model, methods=["gradient_x_input"])
    assert {layer.name: known.score for layer, known in engine.probes.items()}["input"] == "exact"
