"""The networks that are compared on: what camcli says of a batch of photographs, and a tap of
its own on the same layer."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

import camcli
from camcli.engine import Engine
from camcli.images.decode import DecodeSettings, decode
from camcli.models.fallback import import_torchvision
from camcli.models.loaded import LoadedModel
from camcli.records import Decoded, Explanation, ImageRef
from tests.conftest import as_model, live_in

NETWORKS = ("resnet18", "vgg16", "densenet121", "mobilenet_v3_small", "convnext_tiny", "built-in")
PHOTOS = 3
CLASSES = 100
SIZE = 128
METHODS = ("gradcam", "hirescam", "layercam", "xgradcam", "eigencam")


@dataclass(frozen=True)
class Subject:
    """A network and a batch of photographs, each explained for its predicted class."""

    name: str
    model: LoadedModel
    pictures: list[Decoded]
    layer: str
    """The module behind the default layer."""
    classes: list[int]
    cams: dict[str, Tensor]
    """camcli's raw maps by method, (N, h, w)."""

    @property
    def module(self) -> nn.Module:
        """A copy in evaluation mode, for peers to change."""
        return copy.deepcopy(self.model.network.module).eval()

    @property
    def view(self) -> Tensor:
        return self.model.inputs([picture.view for picture in self.pictures])

    def tapped(self, layer: str | None = None) -> tuple[Tensor, Tensor]:
        """Activation and gradient of the module's output, (N, C, h, w), before what follows it."""
        module, kept = self.module, []

        def keep(_: nn.Module, _x: object, output: Tensor) -> Tensor:
            kept.append(output)
            return output.clone()  # what follows may work in place

        module.get_submodule(layer or self.layer).register_forward_hook(keep)
        logits = module(self.view)
        score = logits[range(len(self.classes)), self.classes].sum()
        (gradient,) = torch.autograd.grad(score, kept)
        return kept[0].detach(), gradient


def subject(name: str, photos: Path) -> Subject:
    """Photographs from the whole folder; statistics of batch normalisation are theirs."""
    if name == "built-in":
        model = camcli.open_model(size=(SIZE, SIZE), resize=SIZE)
    else:
        torch.manual_seed(0)
        module = import_torchvision().models.get_model(name, weights=None, num_classes=CLASSES)
        model = as_model(module, CLASSES, SIZE)
    pictures = _pictures(model, photos)
    view = model.inputs([picture.view for picture in pictures])
    if name != "built-in":
        live_in(module, pictures=view)
    engine = Engine(model, batch_size=PHOTOS)
    layer = engine.layers[0].module
    return Subject(name, model, pictures, layer, *explained(model, pictures, METHODS))


def explained(
    model: LoadedModel, pictures: list[Decoded], methods: Sequence[str], layer: str = "auto"
) -> tuple[list[int], dict[str, Tensor]]:
    """Predicted classes, and camcli's raw maps (N, h, w) for them by method."""
    engine = Engine(model, methods=methods, layers=[layer], batch_size=len(pictures))
    with engine.prepared():
        outcomes = engine.explain(pictures)
    assert all(isinstance(outcome, Explanation) for outcome in outcomes)
    cams = {
        method: torch.stack([torch.from_numpy(outcome.cams[k].cam) for outcome in outcomes])
        for k, method in enumerate(engine.methods)
    }
    return [o.predictions[0].index for o in outcomes], {m.name: c for m, c in cams.items()}


def _pictures(model: LoadedModel, photos: Path) -> list[Decoded]:
    paths = sorted(str(path) for path in photos.rglob("*.JPEG"))
    settings = DecodeSettings(model.preprocessing, None, 10**8)
    chosen = paths[:: max(1, len(paths) // PHOTOS)][:PHOTOS]
    pictures = [decode(ImageRef(path, path), settings) for path in chosen]
    assert all(isinstance(picture, Decoded) for picture in pictures)
    return pictures
