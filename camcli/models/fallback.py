"""`import torchvision` where its compiled operators do not load beside this torch."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

from camcli.errors import ModelError

_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_kept: list[Any] = []


def import_torchvision() -> ModuleType:
    """The torchvision package, whether or not its compiled operators can be loaded.

    A torchvision built for CUDA refuses to import beside a CPU torch because the operator `nms`
    is missing. Models and transforms never call it, so on exactly that error its schema is
    declared, without an implementation, and the import is tried again. Declaring it first would
    abort the process where the operators do load.
    """
    try:
        return importlib.import_module("torchvision")
    except ImportError as error:
        raise ModelError(
            f"torchvision cannot be imported ({error}); install the release that goes with torch"
        ) from error
    except RuntimeError as error:
        if "torchvision::nms does not exist" not in str(error):
            raise
    _declare_operators()
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    return importlib.import_module("torchvision")


def operators_missing() -> bool:
    """Whether the schemas had to be declared (after `import_torchvision`)."""
    return bool(_kept)


def _declare_operators() -> None:
    import torch

    library: Any = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for operator in ("nms", "qnms"):
        library.define(operator + _SCHEMA)
    _kept.append(library)  # the declarations live as long as the object
