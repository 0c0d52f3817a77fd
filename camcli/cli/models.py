"""`camcli models`"""

from __future__ import annotations

from typing import Annotated

import typer

from camcli.errors import UsageError


def command(
    pattern: Annotated[str, typer.Argument(help="Only names that contain this.")] = "",
) -> None:
    """List the models that --model knows, and their weights, the default first.

    Example: camcli models resnet
    """
    from camcli.models import builtin, torchvision

    rows = [(builtin.NAME, "built in, works offline")]
    rows += [(name, " ".join(torchvision.weights_names(name))) for name in torchvision.builders()]
    found = [row for row in rows if pattern in row[0]]
    if not found:
        raise UsageError(f"no model's name contains '{pattern}'. List them all: camcli models")
    for name, weights in found:
        print(f"{name:<20} {weights}")
