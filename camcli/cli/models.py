"""`camcli models`"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from camcli.cli.console import say
from camcli.errors import UsageError

_TIMM = "timm:"
Rows = Sequence[tuple[str, Sequence[str]]]


def command(
    pattern: Annotated[str, typer.Argument(help="Only names that contain this.")] = "",
) -> None:
    """List the models that --model knows by name, and their weights, the default first.

    Those of timm are listed for names that begin with timm: alone.

    Example: camcli models resnet
    """
    rows = _timm() if pattern.startswith(_TIMM) else _own()
    found = [row for row in rows if pattern in row[0]]
    if not found:
        raise UsageError(f"no model's name contains '{pattern}'. List them all: camcli models")
    width = max(20, *(len(name) for name, _ in found))
    for name, weights in found:
        print(f"{name:<{width}} {' '.join(weights)}".rstrip())
    if not pattern.startswith(_TIMM):
        say("camcli: --model also takes files, your own code, and timm's: camcli models timm:")


def _own() -> Rows:
    from camcli.models import builtin, torchvision

    builders = {name: torchvision.weights_names(name) for name in torchvision.builders()}
    return [(builtin.NAME, ["built in, works offline"]), *builders.items()]


def _timm() -> Rows:
    from camcli.models.timm import pretrained

    return [(_TIMM + name, tags) for name, tags in pretrained().items()]
