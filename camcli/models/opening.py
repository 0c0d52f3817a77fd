"""From a model's name to a LoadedModel on a device."""

from __future__ import annotations

import torch

from camcli.errors import ModelError, UsageError
from camcli.models.loaded import LoadedModel
from camcli.records import ModelRequest
from camcli.registry import SOURCES


def open_model(
    name: str = "efficientnet_lite0",
    *,
    weights: str = "DEFAULT",
    labels: str | None = None,
    device: str = "auto",
    **preprocessing: object,
) -> LoadedModel:
    """Load a model by name, ready to be explained.

    `weights` is DEFAULT, the name of a weights entry, a state-dict file, or none (seeded random).
    Keyword arguments beyond these override fields of its `Preprocessing`. Raises UsageError for a
    name that does not exist and ModelError for weights that cannot be had.
    """
    request = ModelRequest(name, weights, labels, device, preprocessing)
    for source in SOURCES.values():
        if source.opens(name):
            loaded: LoadedModel = source.load(request)
            return loaded
    raise UsageError(f"'{name}' is no model that camcli knows. List them: camcli models")


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
