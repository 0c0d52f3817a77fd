"""From a model's name to a LoadedModel on a device."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import nn

from camcli.cam.targets import Classes
from camcli.errors import ModelError, ModelWarning, UsageError
from camcli.models.labels import named_remark
from camcli.models.loaded import LoadedModel
from camcli.records import ModelRequest, Precision
from camcli.registry import SOURCES


def open_model(
    model: str | nn.Module = "efficientnet_lite0",
    *,
    weights: str = "DEFAULT",
    labels: str | Sequence[str] | None = None,
    device: str = "auto",
    arch: str | None = None,
    trust: bool = False,
    output: str | int | None = None,
    activation: Literal["auto", "softmax", "sigmoid"] = "auto",
    precision: Precision = "fp32",
    **preprocessing: object,
) -> LoadedModel:
    """A model, ready to be explained: by name, from a file or Python code, or a module itself.

    A module stays where it is, and is put back as it was after every use. `labels` is imagenet1k,
    a file, or the names themselves; a `size` may be one number.

    `weights` is DEFAULT, the name of a weights entry, a state-dict file, or none (seeded random).
    `arch` is the architecture of a file of weights; `trust` lets a pickled model run its code;
    `output` is the key or place of the logits in what the model returns; `precision` is that of
    the operators in front of the layer. Other keyword arguments
    override fields of its `Preprocessing`. Raises UsageError for a name that does not exist and
    ModelError for a file or weights that cannot be had.
    """
    module, name = (None, model) if isinstance(model, str) else (model, type(model).__name__)
    file = labels if isinstance(labels, str) else None
    size = preprocessing.get("size")
    if isinstance(size, int):
        preprocessing["size"] = (size, size)
    opened = open_request(
        ModelRequest(
            name, weights, file, device, preprocessing, arch, trust, output, activation, precision
        ),
        module,
    )
    return opened if labels is None or isinstance(labels, str) else _named(opened, tuple(labels))


def open_request(request: ModelRequest, module: nn.Module | None = None) -> LoadedModel:
    """The model that was asked for; what it warns of while it is opened is among its remarks."""
    from camcli.models.python import of_object

    with _heard() as told:
        loaded = _loaded(request) if module is None else of_object(request, module)
    remarks = (*loaded.remarks, *dict.fromkeys(told))
    return replace(loaded, remarks=remarks, precision=request.precision)


def _named(model: LoadedModel, names: tuple[str, ...]) -> LoadedModel:
    """The model with the caller's names of its classes."""
    count = model.classes.count
    if len(names) != count:
        raise UsageError(f"labels names {len(names)} classes, but the model has {count}")
    unsaid = named_remark(model.classes, model.labels)
    remarks = tuple(sentence for sentence in model.remarks if sentence != unsaid)
    return replace(model, classes=Classes(count, names), labels="the caller", remarks=remarks)


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
    """`auto` is the first GPU where there is one; a device that is not there is a ModelError.

    Processes that torchrun started on a machine take one each.
    """
    if name == "auto":
        if torch.cuda.is_available():
            place = os.environ.get("LOCAL_RANK", "")
            number = int(place) if place.isascii() and place.isdigit() else 0
            return torch.device(f"cuda:{number % torch.cuda.device_count()}")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"--device {name} cannot be used ({reason}); see camcli doctor") from error
    return device
