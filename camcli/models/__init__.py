"""Model sources: one file each. A source turns a name into a LoadedModel that can capture.

Importing this package loads no torch; `camcli.models.opening` opens a model.
"""

from __future__ import annotations

# A name is offered to the sources in this order.
from camcli.models import builtin as _builtin
from camcli.models import torchvision as _torchvision

__all__ = ["_builtin", "_torchvision"]
