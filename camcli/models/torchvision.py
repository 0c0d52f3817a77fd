"""torchvision's classification builders, with their published or the user's own weights."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from camcli.errors import ModelError, UsageError, did_you_mean
from camcli.images.preprocess import Preprocessing
from camcli.records import ModelRequest
from camcli.registry import source

if TYPE_CHECKING:
    from torch import nn

    from camcli.models.loaded import LoadedModel
    from camcli.models.weights import StateDict

# Auxiliary classifiers feed the loss in training only; published files carry their weights.
_AUXILIARY = re.compile(r"^(aux1|aux2|AuxLogits)\.")
SEED = 0


@dataclass(frozen=True)
class _Chosen:
    """Weights, where they come from, and the entry that says how pictures are prepared."""

    state: StateDict | None
    origin: str
    sha256: str | None
    entry: Any
    labels: tuple[str, ...] | None
    labels_origin: str = "none"


def builders() -> list[str]:
    """The names of all classification builders."""
    from camcli.models.fallback import import_torchvision

    import_torchvision()
    from torchvision import models

    return list(models.list_models(module=models))


def weights_names(name: str) -> list[str]:
    """The names of a builder's weights entries, its default first."""
    from torchvision import models

    entries = models.get_model_weights(name)
    default = entries["DEFAULT"].name
    return [default, *(entry.name for entry in entries if entry.name != default)]


@source(name="torchvision", opens=lambda name: name.isidentifier())
def load(request: ModelRequest) -> LoadedModel:
    """A builder by name; its head takes its size from the weights file."""
    from camcli.models.eager import EagerNetwork
    from camcli.models.labels import classes_of
    from camcli.models.loaded import LoadedModel
    from camcli.models.opening import find_device
    from camcli.models.weights import load_into

    known = builders()
    if request.name not in known:
        hint = did_you_mean(request.name, [*known, "efficientnet_lite0"]) or "."
        raise UsageError(f"no model '{request.name}'{hint} List them: camcli models")
    device = find_device(request.device)
    chosen = _choose(request.name, request.weights)
    count = 1000 if chosen.state is None else _head_size(request.name, chosen)
    side = _only_side(request.name, chosen.state)
    module = build(request.name, count, chosen.state is not None, side)
    if chosen.state is not None:
        state = {key: t for key, t in chosen.state.items() if not _AUXILIARY.match(key)}
        load_into(module, state, chosen.origin, request.name)
    classes, labels = classes_of(count, request.labels, chosen.labels, chosen.labels_origin)
    recipe = _preprocessing(chosen.entry)
    if side is not None and recipe.size != (side, side):
        recipe = replace(recipe, size=(side, side), resize=side)
    return LoadedModel(
        name=request.name,
        network=EagerNetwork(module.to(device)),
        weights=chosen.origin,
        weights_sha256=chosen.sha256,
        preprocessing=replace(recipe, **request.preprocessing),
        classes=classes,
        labels=labels,
        activation="sigmoid" if count == 1 else "softmax",
        device=device,
    )


def build(
    name: str, classes: int = 1000, transform_input: bool = False, side: int | None = None
) -> nn.Module:
    """An architecture with seeded random weights, without auxiliary classifiers.

    `transform_input` is how GoogLeNet and Inception redo the normalisation that their published
    weights expect; weights trained from them keep it. `side` is that of a transformer's pictures.
    """
    import torch
    from torch.nn import Linear
    from torch.nn.init import trunc_normal_
    from torchvision import models

    builder = models.get_model_builder(name)
    options: dict[str, Any] = {} if side is None else {"image_size": side}
    if name in ("googlenet", "inception_v3"):
        options = {"aux_logits": False, "init_weights": True, "transform_input": transform_input}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        module: nn.Module = builder(weights=None, num_classes=classes, **options)
        for layer in module.modules():
            if isinstance(layer, Linear) and not layer.weight.is_meta and not layer.weight.any():
                trunc_normal_(layer.weight, std=0.02)
    return module


def _only_side(name: str, state: StateDict | None) -> int | None:
    """The one size of picture that a vision transformer takes; None where any size goes.

    Its position embeddings tell: published entries differ (SWAG's are for 384 and 518 pixels).
    """
    if not name.startswith("vit_"):
        return None
    positions = None if state is None else state.get("encoder.pos_embedding")
    if positions is None:
        return 224
    patch = int(name.rpartition("_")[2])
    return patch * math.isqrt(positions.shape[1] - 1)


def _choose(name: str, weights: str) -> _Chosen:
    from torchvision import models

    from camcli.models.weights import fetch, file_sha256, read_state_dict

    entries = models.get_model_weights(name)
    default = entries["DEFAULT"]
    if weights == "none":
        return _Chosen(None, f"none (random, seed {SEED})", None, default, None)
    if weights == "DEFAULT" or weights in entries.__members__:
        entry = entries[weights]
        path = fetch(entry.url)
        labels = tuple(entry.meta["categories"]) if entry.meta["categories"] else None
        return _Chosen(
            read_state_dict(path), str(entry), file_sha256(path), entry, labels, str(entry)
        )
    if not Path(weights).exists():
        names = ", ".join(["DEFAULT", "none", *(entry.name for entry in entries)])
        raise UsageError(f"--weights {weights} is neither a file nor one of {names}")
    path = Path(weights)
    if not path.is_file():
        raise ModelError(f"--weights {weights} is not a regular file")
    # A file's own classes are not known; a head of 1,000 is taken for ImageNet's, and said so.
    labels = tuple(default.meta["categories"])
    assumed = "imagenet1k (assumed for 1,000 classes)"
    return _Chosen(read_state_dict(path), str(path), file_sha256(path), default, labels, assumed)


def _head_size(name: str, chosen: _Chosen) -> int:
    """The number of outputs in a state dict: the size of the tensor that depends on it."""
    import torch

    assert chosen.state is not None
    with torch.device("meta"):
        one, other = build(name, 8).state_dict(), build(name, 16).state_dict()
    for key, tensor in one.items():
        saved = chosen.state.get(key)
        if tensor.shape != other[key].shape and saved is not None and saved.numel():
            return int(saved.shape[0]) if saved.dim() else 1
    raise ModelError(
        f"{chosen.origin} does not fit {name}: it has no classifier under the names "
        f"{[key for key in one if one[key].shape != other[key].shape]}; "
        "choose the architecture the weights were saved from with --model"
    )


def _preprocessing(entry: Any) -> Preprocessing:
    """The recipe a weights entry was evaluated with."""
    recipe = entry.transforms()
    (size,), (resize,) = recipe.crop_size, recipe.resize_size
    return Preprocessing(
        size=(size, size),
        resize=resize,
        mean=tuple(recipe.mean),
        std=tuple(recipe.std),
        interpolation=recipe.interpolation.value,
        fit="crop",
        origin=str(entry),
    )
