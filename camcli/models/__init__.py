"""Model sources: one file each. A source turns a name into a LoadedModel that can capture.

Importing this package loads no torch; `camcli.models.opening` opens a model.
"""

from __future__ import annotations

# A name is offered to the sources in this order.
# isort: off
from camcli.models import builtin as _builtin
from camcli.models import torchvision as _torchvision
from camcli.models import timm as _timm
from camcli.models import python as _python
from camcli.models import checkpoint as _checkpoint
from camcli.models import archives as _archives

__all__ = ["_archives", "_builtin", "_checkpoint", "_python", "_timm", "_torchvision"]
