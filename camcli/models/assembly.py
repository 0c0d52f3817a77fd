"""What all model sources end in: a network, a recipe and the names of classes become a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, cast

import torch

from camcli.errors import ModelError, UsageError
from camcli.images.preprocess import Preprocessing
from camcli.models.eager import EagerNetwork
from camcli.models.labels import ASSUMED, classes_of, named_remark
from camcli.models.loaded import LoadedModel, Network
from camcli.records import ModelRequest

_NEEDED = ("size", "mean", "std")
_USUAL = {"interpolation": "bilinear", "fit": "crop"}


def recipe_of(request: ModelRequest, known: Mapping[str, Any], origin: str) -> Preprocessing:
    """How pictures are prepared: the user's flags, then what is `known` from `origin`.

    Size, mean and standard deviation have no default: a wrong guess gives maps that look right.
    """
    given = dict(request.preprocessing)
    fields: dict[str, Any] = {**_USUAL, **known, **given}
    missing = [name for name in _NEEDED if name not in fields]
    if missing:
        raise UsageError(
            f"{request.name} does not say how pictures are prepared for it; give "
            f"{', '.join('--' + name for name in missing)} as in its training (ImageNet's usual "
            "values: --size 224 --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225)"
        )
    # The usual proportion of crop to picture, unless it is given too.
    if "resize" not in fields or ("size" in given and "resize" not in given):
        fields["resize"] = round(max(fields["size"]) / 0.875)
    said = [origin] if known else []
    if given:
        said.append("flags (" + ", ".join("--" + name for name in given) + ")")
    guessed = [name for name in _USUAL if name not in known and name not in given]
    if guessed:
        said.append("usual " + " and ".join(guessed))
    return Preprocessing(**fields, origin="; ".join(said))


def assembled(
    request: ModelRequest,
    network: Network,
    *,
    name: str,
    weights: str,
    sha256: str | None,
    recipe: Preprocessing,
    count: int | None = None,
    labels: tuple[tuple[str, ...] | None, str] = (None, "none"),
    remarks: tuple[str, ...] = (),
) -> LoadedModel:
    """The model, on its device. `count` is that of the logits; None: a forward pass tells.

    `labels` are those known without the user's word, and where from.
    """
    from camcli.models.opening import find_device

    device = find_device(request.device)
    if isinstance(network, EagerNetwork):
        network.module.to(device)
    if count is None:
        count = _count(network, recipe, device, name)
    if request.activation == "softmax" and count == 1:
        raise UsageError(f"--activation softmax needs two logits, and {name} has one; use sigmoid")
    usual = "sigmoid" if count == 1 else "softmax"
    activation = usual if request.activation == "auto" else request.activation
    classes, labels_from = classes_of(count, request.labels, *labels)
    guessed = labels_from in (ASSUMED, "none")
    if request.labels is None and request.weights != "none" and guessed:
        remarks += (named_remark(classes, labels_from),)
    return LoadedModel(
        name=name,
        network=network,
        weights=weights,
        weights_sha256=sha256,
        preprocessing=recipe,
        classes=classes,
        labels=labels_from,
        activation=cast("Literal['softmax', 'sigmoid']", activation),
        device=device,
        remarks=remarks,
    )


def prepared_remark(recipe: Preprocessing) -> str:
    """The sentence that says where a recipe comes from."""
    width, height = recipe.size
    return f"Pictures are prepared at {width}x{height} as said by {recipe.origin}."


def _count(network: Network, recipe: Preprocessing, device: torch.device, name: str) -> int:
    """The number of logits, from a forward pass of a grey picture."""
    width, height = recipe.size
    grey = torch.zeros(1, 3, height, width, device=device)
    with network.prepared(), torch.no_grad():
        try:
            return int(network.run(grey, {}).shape[1])
        except (RuntimeError, AssertionError, ValueError, TypeError) as error:
            reason = (str(error) or type(error).__name__).strip().splitlines()[-1]
            raise ModelError(
                f"{name} cannot be run on pictures of {width}x{height} ({reason}); "
                "give the size it was made for with --size"
            ) from error
