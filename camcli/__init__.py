"""Grad-CAM and HiResCAM over folders of pictures, from the command line or from Python.

    import camcli

    model = camcli.open_model("resnet50")
    for outcome in camcli.explain(["cat.jpg", "dog.jpg"], model=model, method="hirescam"):
        ...  # camcli.Explanation, or camcli.Failure for a picture that could not be read

Nothing is imported until it is used, so that `import camcli` is cheap.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from camcli.errors import CamcliError
    from camcli.models.opening import open_model
    from camcli.outputs.record import record
    from camcli.pipeline import explain
    from camcli.records import Explanation, Failure

__version__ = "0.1.0"
__all__ = ["CamcliError", "Explanation", "Failure", "explain", "open_model", "record"]

_HOMES = {
    "CamcliError": "camcli.errors",
    "Explanation": "camcli.records",
    "Failure": "camcli.records",
    "explain": "camcli.pipeline",
    "open_model": "camcli.models.opening",
    "record": "camcli.outputs.record",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'camcli' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)
