"""Files of weights: state dicts, training checkpoints, safetensors, and whole pickled models."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from camcli.errors import ModelError, UsageError
from camcli.models import files
from camcli.records import ModelRequest
from camcli.registry import SOURCES, source

if TYPE_CHECKING:
    from camcli.models.loaded import LoadedModel
    from camcli.models.weights import StateDict

_KINDS = ("checkpoint", "safetensors", "pickled")
_FAMILY = 0.9  # of the kinds of names of one variant, found in a file of another


@source(
    name="checkpoint",
    opens=lambda name: files.names_file(name) and files.kind_of(name) in _KINDS,
)
def load(request: ModelRequest) -> LoadedModel:
    """A file of weights in the architecture that `--arch` names, or that its keys give away."""
    path = Path(request.name)
    if request.weights != "DEFAULT":
        raise UsageError(
            f"--weights {request.weights}: the weights are those of --model {path}; leave it away, "
            "or name the architecture as --model"
        )
    if files.kind_of(request.name) == "pickled":
        return _pickled(request, path)
    from camcli.models.weights import plain, read_tensors, unwrapped

    state, entry = unwrapped(read_tensors(path), path)
    arch = request.arch or _recognised(plain(state), path)
    remarks: tuple[str, ...] = (
        (f"Of {path}, the weights under '{entry}' are used.",) if entry else ()
    )
    if request.arch is None:
        remarks += (f"{path} has the keys of {arch} (--arch names another architecture).",)
    return _filled(replace(request, name=arch, weights=request.name, arch=None), remarks)


def _filled(request: ModelRequest, remarks: tuple[str, ...]) -> LoadedModel:
    """An architecture by name with the weights of a file."""
    for name in ("timm", "torchvision"):
        if SOURCES[name].opens(request.name):
            loaded: LoadedModel = SOURCES[name].load(request)
            return replace(loaded, remarks=remarks + loaded.remarks)
    raise UsageError(
        f"--arch {request.name} is neither a torchvision model nor timm:NAME; "
        "list them: camcli models"
    )


def _pickled(request: ModelRequest, path: Path) -> LoadedModel:
    """A file that holds objects, which only code can bring to life."""
    names = files.foreign_names(request.name)
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    if not request.trust:
        raise ModelError(
            f"'{path}' is a whole pickled model or holds other objects ({shown}), and opening it "
            "can run any code; save the weights alone, torch.save(model.state_dict(), FILE), or "
            "give --trust-model if you trust where it comes from"
        )
    import torch
    from torch import nn

    from camcli.models.fallback import import_torchvision
    from camcli.models.python import of_module
    from camcli.models.weights import plain, unwrapped

    import_torchvision()  # the classes of most such files
    try:
        content = torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:  # it may raise anything: a class that is gone, code of its own
        reason = (str(error) or type(error).__name__).strip().splitlines()[0]
        raise ModelError(
            f"'{path}' cannot be unpickled ({type(error).__name__}: {reason}); the code that made "
            "it must be importable, in the version that made it"
        ) from error
    if isinstance(content, Mapping):
        held = [value for value in content.values() if isinstance(value, nn.Module)]
        content = held[0] if held else content
    if isinstance(content, nn.Module):
        if request.arch is not None:
            raise UsageError(f"--arch {request.arch}: '{path}' is a whole model; leave it away")
        return of_module(request, content, path.name, str(path))
    state, _ = unwrapped(content, path)
    arch = request.arch or _recognised(plain(state), path)
    return _filled(replace(request, name=arch, weights=request.name, arch=None), ())


def _recognised(state: StateDict, path: Path) -> str:
    """The one torchvision architecture whose state dict has these names and shapes."""
    likeness = dict(_candidates(state))
    exact = [name for name, share in likeness.items() if share == 1]
    if len(exact) == 1:
        return exact[0]
    best = exact or sorted(likeness, key=lambda name: -likeness[name])[:3]
    near = ", ".join(f"{name} ({likeness[name]:.0%} of its tensors)" for name in best)
    first = ", ".join(list(state)[:3])
    raise ModelError(
        f"'{path}' has the weights of no one architecture that camcli recognises ({len(state)} "
        f"tensors, first: {first}){'; closest: ' + near if near else ''}; "
        "name it with --arch NAME or --arch timm:NAME"
    )


def _candidates(state: StateDict) -> Iterator[tuple[str, float]]:
    """Architectures of the families that fit, with the share of tensors that are the same.

    The head may have any number of classes, and a transformer any size of picture.
    """
    from torchvision import models

    from camcli.models import torchvision

    families: dict[str, list[str]] = {}
    for name in torchvision.builders():
        families.setdefault(models.get_model_builder(name).__module__, []).append(name)
    state = torchvision.without_auxiliary(state)
    pattern = _pattern(state)
    for names in families.values():
        for name in names:
            own = _layout(name)
            kinds = _pattern(own)
            if len(kinds & pattern) < _FAMILY * max(len(kinds), len(pattern) / 2):
                if name == names[0]:
                    break  # the others of the family are built of the same parts
                continue
            yield name, _likeness(own, state)


@cache
def _layout(name: str) -> StateDict:
    """The state dict of a torchvision architecture, without values."""
    from camcli.models import torchvision
    from camcli.models.weights import Unfilled

    with Unfilled():
        return torchvision.build(name).state_dict()


def _pattern(state: Mapping[str, Any]) -> set[str]:
    """What modules are called, numbers apart."""
    return {re.sub(r"\d+", "", name) for name in state}


def _likeness(own: StateDict, state: StateDict) -> float:
    """The share of tensors that both have in the same shape; 1 only where nothing is left over."""
    same, heads = 0, Counter[int]()
    for name, tensor in own.items():
        saved = state.get(name)
        if saved is None:
            continue
        if saved.shape == tensor.shape or name == "encoder.pos_embedding":
            same += 1
        elif saved.dim() and saved.shape[1:] == tensor.shape[1:] and len(tensor) == 1000:
            heads[len(saved)] += 1
    # All tensors of a head have the same number of classes.
    same += max(heads.values(), default=0)
    return same / max(len(own), len(state))
