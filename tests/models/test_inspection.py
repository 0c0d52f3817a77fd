"""What is found out about a network before the first picture: layers and their worth."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

import camcli
from camcli.engine import Engine
from camcli.errors import ModelError, UsageError
from camcli.models.inspection import (
    chosen_layers,
    default_layer,
    layers_of,
    probe,
    synthetic_pictures,
)
from camcli.models.loaded import LoadedModel
from tests.conftest import as_model, live_in

CLASSES = 10


def lived_in(*layers: nn.Module) -> LoadedModel:
    torch.manual_seed(0)
    return as_model(live_in(nn.Sequential(*layers)), CLASSES)


def pooled_to(channels: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, CLASSES)]


def test_synthetic_pictures_are_the_same_every_time_and_differ_from_each_other() -> None:
    model = lived_in(nn.Conv2d(3, 8, 8, 8), nn.ReLU(), *pooled_to(8))
    one, other = synthetic_pictures(model), synthetic_pictures(model)
    assert one.shape == (2, 3, 64, 64)
    assert torch.equal(one, other)
    assert float((one[0] - one[1]).abs().mean()) > 0.1


def test_layers_are_listed_in_the_order_in_which_they_are_computed() -> None:
    model = lived_in(
        nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.BatchNorm2d(8), nn.ReLU(inplace=True)),
        nn.MaxPool2d(2),
        nn.Sequential(nn.Conv2d(8, 12, 1), nn.Dropout()),
        *pooled_to(12),
    )
    layers = layers_of(model)
    assert [layer.names for layer in layers] == [("0.0",), ("0.1",), ("0", "0.2"), ("2", "2.0")]
    assert [str(layer.grid) for layer in layers] == ["16x16", "16x16", "16x16", "8x8"]
    assert default_layer(model, layers).name == "2"


def test_a_network_without_a_map_cannot_be_explained() -> None:
    model = lived_in(nn.Flatten(), nn.Linear(3 * 64 * 64, CLASSES))
    with pytest.raises(ModelError, match=r"^small has no feature map with more than one place to"):
        chosen_layers(model, ["auto"])


def test_a_head_of_zeros_cannot_be_explained() -> None:
    model = lived_in(nn.Conv2d(3, 8, 8, 8), nn.ReLU(), *pooled_to(8))
    with torch.no_grad():
        model.network.module[4].weight.zero_()
    with pytest.raises(ModelError, match=r"the score of small \(none\) depends on none of its lay"):
        chosen_layers(model, ["auto"])


class Aside(nn.Module):
    """Computes a map that nothing depends on after the one that counts."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 8, 8), nn.ReLU())
        self.aside = nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.body(x)
        self.aside(maps)
        return self.head(maps.mean(dim=(2, 3)))


def test_the_default_layer_is_one_that_the_score_depends_on() -> None:
    model = as_model(live_in(Aside()), CLASSES)
    assert [layer.name for layer in layers_of(model)] == ["body.0", "body", "aside"]
    assert [layer.name for layer in chosen_layers(model, ["auto"])] == ["body"]
    with pytest.raises(UsageError) as caught:
        chosen_layers(model, ["aside"])
    assert str(caught.value) == (
        "the score of small does not depend on the places of 'aside' (their gradient is zero); "
        "use --layer body"
    )


@pytest.mark.parametrize(
    ("builder", "layer", "score"),
    [
        (models.resnet18, "auto", "exact"),
        (models.resnet18, "layer3", "first_order"),
        (models.resnet18, "layer4.1.bn2", "bypassed"),  # the residual passes it by
        (models.resnet18, "layer4.1.relu:0", "bypassed"),
        (models.squeezenet1_1, "auto", "first_order"),
        (models.mobilenet_v3_small, "auto", "first_order"),
    ],
)
def test_the_probe_knows_what_follows_a_layer(
    builder: Callable[..., nn.Module], layer: str, score: str
) -> None:
    torch.manual_seed(0)
    model = as_model(live_in(builder(num_classes=CLASSES)), CLASSES)
    (chosen,) = chosen_layers(model, [layer])
    assert probe(model, chosen).score == score


def test_the_probes_baseline_is_the_score_without_the_layer() -> None:
    model = as_model(live_in(models.resnet18(num_classes=CLASSES)), CLASSES)
    (layer,) = chosen_layers(model, ["auto"])
    found = probe(model, layer)
    assert found.baseline is not None
    torch.testing.assert_close(found.baseline, model.network.module.fc.bias.detach())


@pytest.mark.parametrize(
    ("head", "pooled"),
    [
        (pooled_to(8), True),
        ([*pooled_to(8)[:2], nn.Linear(8, 16), nn.Hardswish(), nn.Linear(16, CLASSES)], True),
        ([nn.Flatten(), nn.Linear(8 * 64, CLASSES)], False),
        ([nn.Conv2d(8, 8, 3), nn.ReLU(), *pooled_to(8)], False),
        ([nn.Conv2d(8, CLASSES, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()], False),
    ],
    ids=["linear", "two layers", "flattened", "convolution", "class maps"],
)
def test_the_probe_knows_whether_global_average_pooling_follows(head, pooled) -> None:
    model = lived_in(nn.Conv2d(3, 8, 8, 8), nn.ReLU(), *head)
    (layer,) = chosen_layers(model, ["1"])
    assert probe(model, layer).pooled is pooled


@pytest.mark.parametrize("name", ["vit_b_32", "inception_v3"])
def test_a_size_that_a_network_cannot_take_is_one_sentence(name: str) -> None:
    model = camcli.open_model(name, weights="none", size=(32, 32), resize=32)
    with pytest.raises(ModelError) as caught:
        Engine(model)
    message = str(caught.value)
    assert message.startswith(f"{name} cannot be run on pictures of 32x32 (")
    assert message.endswith("; where --size was given, leave it away")
    assert "\n" not in message


def light_state(name: str, **options: int) -> dict[str, Tensor]:
    """A state dict of the right shapes that takes no room in a file."""
    with torch.device("meta"):
        own = models.get_model_builder(name)(weights=None, **options).state_dict()
    return {key: torch.full((1,), 0.01).expand(value.shape) for key, value in own.items()}


def test_a_transformer_takes_the_size_that_its_weights_were_trained_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = light_state("vit_b_16", image_size=384)
    torch.save(state, tmp_path / "mine.pth")
    mine = camcli.open_model("vit_b_16", weights=str(tmp_path / "mine.pth"))
    assert (mine.preprocessing.size, mine.preprocessing.resize) == ((384, 384), 384)

    entry = models.ViT_B_16_Weights.IMAGENET1K_SWAG_E2E_V1  # for 384 pixels; DEFAULT is for 224
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    torch.save(state, tmp_path / "checkpoints" / entry.url.rpartition("/")[2])
    published = camcli.open_model("vit_b_16", weights="IMAGENET1K_SWAG_E2E_V1")
    assert (published.preprocessing.size, published.preprocessing.resize) == ((384, 384), 384)
    with torch.no_grad():
        assert published.logits(synthetic_pictures(published)[:1]).shape == (1, 1000)


@pytest.mark.slow
def test_the_largest_transformer_without_weights_takes_pictures_of_224_pixels() -> None:
    """Its default entry's recipe is for 518."""
    model = camcli.open_model("vit_h_14", weights="none")
    assert (model.preprocessing.size, model.preprocessing.resize) == ((224, 224), 224)
    with torch.no_grad():
        assert model.logits(synthetic_pictures(model)[:1]).shape == (1, 1000)
