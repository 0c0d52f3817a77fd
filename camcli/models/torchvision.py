"""torchvision's classification builders, with their published or the user's own weights."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from camcli.errors import ModelError, UsageError, did_you_mean
from camcli.records import ModelRequest
from camcli.registry import source

if TYPE_CHECKING:
    from torch import nn

    from camcli.models.loaded import LoadedModel
    from camcli.models.weights import StateDict

# Auxiliary classifiers feed the loss in training only; published files carry their weights.
_AUXILIARY = re.compile(r"^(aux1|aux2|AuxLogits)\.")


@dataclass(frozen=True)
class _Chosen:
    """Weights, where they come from, and the entry that says how pictures are prepared."""

    state: StateDict | None
    origin: str
    sha256: str | None
    entry: Any
    labels: tuple[str, ...] | None
    labels_origin: str = "none"
    remarks: tuple[str, ...] = ()

    @property
    def recipe_origin(self) -> str:
        """Whose way of preparing pictures is used."""
        return f"{self.entry} (assumed)" if self.remarks else str(self.entry)


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
    from camcli.models.assembly import assembled, recipe_of
    from camcli.models.eager import EagerNetwork
    from camcli.models.weights import head_size, load_into

    known = builders()
    if request.name not in known:
        hint = did_you_mean(request.name, [*known, "efficientnet_lite0"]) or "."
        raise UsageError(f"no model '{request.name}'{hint} List them: camcli models")
    chosen = _choose(request.name, request.weights)
    count, state = 1000, chosen.state
    if state is not None:
        sized = partial(build, request.name)
        count = head_size(sized, state, chosen.origin, request.name)
    side = _only_side(request.name, state)
    module = build(request.name, count, state is not None, side)
    if state is not None:
        load_into(module, without_auxiliary(state), chosen.origin, request.name)
    known_recipe = _preprocessing(chosen.entry)
    if side is not None and known_recipe["size"] != (side, side):
        known_recipe |= {"size": (side, side), "resize": side}
    return assembled(
        request,
        EagerNetwork(module, request.output),
        name=request.name,
        weights=chosen.origin,
        sha256=chosen.sha256,
        recipe=recipe_of(request, known_recipe, chosen.recipe_origin),
        count=count,
        labels=(chosen.labels, chosen.labels_origin),
        remarks=chosen.remarks,
    )


def build(
    name: str, classes: int = 1000, transform_input: bool = False, side: int | None = None
) -> nn.Module:
    """An architecture with seeded random weights, without auxiliary classifiers.

    `transform_input` is how GoogLeNet and Inception redo the normalisation that their published
    weights expect; weights trained from them keep it. `side` is that of a transformer's pictures.
    """
    from torchvision import models

    from camcli.models.weights import seeded

    builder = models.get_model_builder(name)
    options: dict[str, Any] = {} if side is None else {"image_size": side}
    if name in ("googlenet", "inception_v3"):
        options = {"aux_logits": False, "init_weights": True, "transform_input": transform_input}
    return seeded(lambda: builder(weights=None, num_classes=classes, **options))


def without_auxiliary(state: StateDict) -> StateDict:
    """A state dict without the auxiliary classifiers of GoogLeNet and Inception."""
    return {key: tensor for key, tensor in state.items() if not _AUXILIARY.match(key)}


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

    from camcli.models.labels import ASSUMED
    from camcli.models.weights import SEED, fetch, file_sha256, read_state_dict

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
    remark = f"Pictures are prepared as for {default}: {path} does not say how."
    return _Chosen(
        read_state_dict(path), str(path), file_sha256(path), default, labels, ASSUMED, (remark,)
    )


def _preprocessing(entry: Any) -> dict[str, Any]:
    """The recipe a weights entry was evaluated with."""
    recipe = entry.transforms()
    (size,), (resize,) = recipe.crop_size, recipe.resize_size
    return {
        "size": (size, size),
        "resize": resize,
        "mean": tuple(recipe.mean),
        "std": tuple(recipe.std),
        "interpolation": recipe.interpolation.value,
        "fit": "crop",
    }
