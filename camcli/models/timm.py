"""timm's classifiers by name: `timm:resnet50`, `timm:convnext_tiny.in12k_ft_in1k`."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from camcli.errors import ModelError, UsageError, did_you_mean
from camcli.records import ModelRequest
from camcli.registry import source

if TYPE_CHECKING:
    from torch import nn

    from camcli.models.loaded import LoadedModel

PREFIX = "timm:"
_INTERPOLATIONS = {"nearest": "nearest", "bilinear": "bilinear", "bicubic": "bicubic"}
_FITS = {"center": "crop", "squash": "squash", "border": "pad"}


@source(name="timm", opens=lambda name: name.startswith(PREFIX))
def load(request: ModelRequest) -> LoadedModel:
    """A timm model, with the preprocessing of its pretrained configuration."""
    from camcli.models.assembly import assembled, recipe_of
    from camcli.models.eager import EagerNetwork
    from camcli.models.fallback import import_torchvision
    from camcli.models.weights import (
        SEED,
        file_sha256,
        head_size,
        load_into,
        read_state_dict,
        seeded,
    )

    import_torchvision()  # timm imports it
    name = request.name.removeprefix(PREFIX)
    config = _config(name)
    remarks: tuple[str, ...] = ()
    sha256 = None
    if request.weights == "none":
        module, origin = seeded(partial(_create, name)), f"none (random, seed {SEED})"
    elif request.weights == "DEFAULT":
        module, origin = _pretrained(name), f"{request.name} as published"
        sha256 = module_sha256(module)
    else:
        path = Path(request.weights)
        if not path.is_file():
            raise UsageError(f"--weights {path} is neither a file nor DEFAULT nor none")
        state, origin, sha256 = read_state_dict(path), str(path), file_sha256(path)
        sized = partial(_create, name)
        count = head_size(lambda n: sized(num_classes=n), state, origin, request.name)
        module = seeded(partial(_create, name, num_classes=count))
        load_into(module, state, origin, request.name)
        remarks = (f"Pictures are prepared as for {request.name}: {path} does not say how.",)
    labels: tuple[tuple[str, ...] | None, str] = (None, "none")
    if request.weights != "none":
        labels = published_labels(config, name, sure=request.weights == "DEFAULT")
    return assembled(
        request,
        EagerNetwork(module, request.output),
        name=request.name,
        weights=origin,
        sha256=sha256,
        recipe=recipe_of(request, recipe_fields(config), f"timm's configuration of {name}"),
        labels=labels,
        remarks=remarks,
    )


def pretrained() -> dict[str, list[str]]:
    """Every architecture of timm, and the tags of its weights."""
    from camcli.models.fallback import import_torchvision

    import_torchvision()  # timm imports it
    import timm

    found: dict[str, list[str]] = {name: [] for name in timm.list_models()}
    for full in timm.list_pretrained():
        name, _, tag = full.partition(".")
        found.setdefault(name, []).append(tag)
    return found


def recipe_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    """A pretrained configuration's way of preparing pictures, as fields of Preprocessing.

    Its crop fraction is that of the view in the resized picture, as timm itself rounds it.
    """
    _, height, width = config["input_size"]
    fit = _FITS.get(config.get("crop_mode") or "center", "crop")
    share = config.get("crop_pct") or 0.875
    return {
        "size": (width, height),
        "resize": math.floor(max(width, height) / share) if fit == "crop" else max(width, height),
        "mean": tuple(config["mean"]),
        "std": tuple(config["std"]),
        "interpolation": _INTERPOLATIONS.get(config["interpolation"], "bicubic"),
        "fit": fit,
    }


def published_labels(
    config: Mapping[str, Any], name: str, *, sure: bool
) -> tuple[tuple[str, ...] | None, str]:
    """The names of the classes that a configuration is for, and where they are from.

    Not `sure` where the weights are others, which may have as many classes of their own.
    """
    from camcli.models.fallback import import_torchvision
    from camcli.models.labels import ASSUMED, imagenet_labels, listed

    if config.get("label_names"):
        said = config.get("label_descriptions") or {}
        names = tuple(str(said.get(label, label)) for label in listed(config["label_names"]))
        return names, f"the label_names of {name}"
    if config.get("num_classes") == 1000:
        return imagenet_labels(), "imagenet1k" if sure else ASSUMED
    import_torchvision()  # timm imports it
    from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset

    subset = infer_imagenet_subset(dict(config))
    if subset is None:
        return None, "none"
    names = tuple(ImageNetInfo(subset).label_descriptions())
    assumed = "" if sure else f" (assumed for {len(names):,} classes)"
    return names, f"timm's {subset}{assumed}"


def module_sha256(module: nn.Module) -> str:
    """The SHA-256 of a module's parameters and buffers, names and values."""
    import hashlib

    import torch

    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        values = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}".encode())
        digest.update(values.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _config(name: str) -> dict[str, Any]:
    """The pretrained configuration of a model; a name that does not exist is a UsageError."""
    import timm

    if name.startswith("hf-hub:"):
        return dict(_quietly(name, partial(timm.models.load_model_config_from_hf, name[7:]))[0])
    known = timm.list_models()
    if name.partition(".")[0] not in known:
        hint = did_you_mean(name, known) or "."
        raise UsageError(f"timm has no model '{name}'{hint} List them: camcli models timm:")
    try:
        found: Any = timm.get_pretrained_cfg(name, allow_unregistered=True)
    except RuntimeError:  # what follows the point is not one of its tags
        tags = timm.list_pretrained(name.partition(".")[0] + ".*")
        raise UsageError(
            f"timm has no weights '{name}'; it has {', '.join(tags) or 'none'}"
        ) from None
    return dict(found.to_dict())


def _create(name: str, **options: Any) -> nn.Module:
    import timm

    module: nn.Module = timm.create_model(name, pretrained=False, **options)
    if getattr(module, "num_classes", 1) == 0:
        raise ModelError(f"timm's {name} has no classifier, so there is no score to explain")
    return module


def _pretrained(name: str) -> nn.Module:
    import timm

    module: nn.Module = _quietly(name, partial(timm.create_model, name, pretrained=True))
    return module


def _quietly(name: str, fetch: Any) -> Any:
    """What `fetch` gets from timm's servers; a ModelError where it cannot be had."""
    try:
        return fetch()
    except Exception as error:  # of the hub, of http, of a cache that is not complete
        reason = (str(error) or type(error).__name__).strip().splitlines()[0]
        offline = " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE") else ""
        raise ModelError(
            f"the weights of timm's {name} cannot be downloaded{offline}: {reason}; download them "
            "elsewhere and give --weights FILE, or use --weights none for seeded random weights"
        ) from error
