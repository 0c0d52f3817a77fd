"""From a model's name to a LoadedModel on a device."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal

import torch

from camcli.errors import ModelError, ModelWarning, UsageError
from camcli.models.loaded import LoadedModel
from camcli.records import ModelRequest
from camcli.registry import SOURCES


def open_model(
    name: str = "efficientnet_lite0",
    *,
    weights: str = "DEFAULT",
    labels: str | None = None,
    device: str = "auto",
    arch: str | None = None,
    trust: bool = False,
    output: str | int | None = None,
    activation: Literal["auto", "softmax", "sigmoid"] = "auto",
    **preprocessing: object,
) -> LoadedModel:
    """Load a model, ready to be explained: by name, from a file, or from Python code.

    `weights` is DEFAULT, the name of a weights entry, a state-dict file, or none (seeded random).
    `arch` is the architecture of a file of weights; `trust` lets a pickled model run its code;
    `output` is the key or place of the logits in what the model returns. Other keyword arguments
    override fields of its `Preprocessing`. Raises UsageError for a name that does not exist and
    ModelError for a file or weights that cannot be had.
    """
    return open_request(
        ModelRequest(name, weights, labels, device, preprocessing, arch, trust, output, activation)
    )


def open_request(request: ModelRequest) -> LoadedModel:
    """The model that was asked for; what it warns of while it is opened is among its remarks."""
    with _heard() as told:
        loaded = _loaded(request)
    return replace(loaded, remarks=(*loaded.remarks, *dict.fromkeys(told)))


@contextmanager
def _heard() -> Iterator[list[str]]:
    """The sentences of ModelWarnings, which are not shown; other warnings are as usual."""
    told: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("always", ModelWarning)
        usual = warnings.showwarning

        def show(message: Any, category: type[Warning], *where: Any, **more: Any) -> None:
            if issubclass(category, ModelWarning):
                told.append(str(message))
            else:
                usual(message, category, *where, **more)

        warnings.showwarning = show
        yield told


def _loaded(request: ModelRequest) -> LoadedModel:
    for source in SOURCES.values():
        if source.opens(request.name):
            if request.arch is not None and source.name != "checkpoint":
                raise UsageError(
                    f"--arch {request.arch} is for files of weights, and --model {request.name} "
                    "has its own architecture; leave it away"
                )
            loaded: LoadedModel = source.load(request)
            return loaded
    raise UsageError(f"'{request.name}' is no model that camcli knows. List them: camcli models")


def find_device(name: str) -> torch.device:
    """`auto` is the first GPU where there is one; a device that is not there is a ModelError."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda:0")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"--device {name} cannot be used ({reason}); see camcli doctor") from error
    return device
