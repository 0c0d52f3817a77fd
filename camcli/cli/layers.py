"""`camcli layers`"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from camcli.cli.console import say


def command(
    model: Annotated[str, typer.Argument(help="A model; see camcli models.")],
    weights: Annotated[
        str, typer.Option(help="As for explain; layers do not depend on them.")
    ] = "none",
    size: Annotated[
        int | None, typer.Option(help="Side of the network's view in pixels.", min=1)
    ] = None,
) -> None:
    """List the layers of a model that can be explained, with grid and channels.

    A star marks the one that --layer auto takes. A layer that is called several times is NAME:K
    for its K-th call. Names in brackets are other names of the same map.

    Example: camcli layers efficientnet_lite0
    """
    from camcli.models import builtin
    from camcli.models.inspection import default_layer, layers_of
    from camcli.models.opening import open_model

    overrides: dict[str, Any] = {} if size is None else {"size": (size, size), "resize": size}
    chosen = "DEFAULT" if model == builtin.NAME else weights
    loaded = open_model(model, weights=chosen, device="cpu", **overrides)
    layers = layers_of(loaded)
    default = default_layer(loaded, layers)
    width = max(len(layer.name) for layer in layers)
    for layer in layers:
        mark = "*" if layer == default else " "
        others = f"  ({', '.join(layer.names[1:])})" if layer.names[1:] else ""
        grid, channels = str(layer.grid), layer.grid.channels
        print(f"{mark} {layer.name:<{width}}  {grid:>9}  {channels:>5}  {layer.type}{others}")
    say(f"camcli: {len(layers)} layers of {loaded.name}; --layer auto is {default.name}")
