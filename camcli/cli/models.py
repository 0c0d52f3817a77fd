"""`camcli models`"""

from __future__ import annotations

from typing import Annotated

import typer


def command(
    pattern: Annotated[str, typer.Argument(help="Only names that contain this.")] = "",
) -> None:
    """List the models that --model knows, and their weights, the default first.

    Example: camcli models resnet
    """
    from camcli.models import builtin, torchvision

    rows = [(builtin.NAME, "built in, works offline")]
    rows += [(name, " ".join(torchvision.weights_names(name))) for name in torchvision.builders()]
    for name, weights in rows:
        if pattern in name:
            print(f"{name:<20} {weights}")
