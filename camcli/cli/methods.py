"""`camcli methods`"""

from __future__ import annotations

from typing import Annotated

import typer

from camcli.cam import methods as _registered
from camcli.registry import (
    ALL_GRADIENT,
    METHODS,
    Method,
    Needs,
    Scope,
    Units,
    all_gradient,
    find_methods,
)

__all__ = ["COSTS", "SCOPES", "UNITS", "_registered", "command"]

COSTS: dict[Needs, str] = {
    "gradient": "one backward pass through what follows the layer, shared by all such methods",
    "weights": "nothing beyond the forward pass: it reads the last layer's weights",
    "activation": "nothing beyond the forward pass",
    "forwards": "many further runs of the network, or of what follows the layer",
    "attention": "a pass that records the attention weights and their gradients",
    "input": "backward passes through the whole network, to the picture",
    "hessian": "a second derivative of what follows the layer",
}
UNITS: dict[Units, str] = {
    "score": "score units: a map's sum is meant to be the class score",
    "none": "no units: a map's sum means nothing, only its places do",
}
SCOPES: dict[Scope, str] = {
    "layer": "a map of one layer, for every --layer",
    "layers": "one map that fuses several layers: those of --layer, or one of every size",
    "network": "a map of the whole network; --layer has no part in it",
}


def command(
    name: Annotated[
        str | None, typer.Argument(help="Print this method's card; any usual spelling.")
    ] = None,
) -> None:
    """List the methods, or print the card of one: equation, paper, cost, what it guarantees.

    The columns are name, title, what it needs beyond one forward pass, whether its maps are in
    units of the score, and paper.

    Example: camcli methods gradcampp
    """
    if name is None:
        _list()
        return
    found = find_methods([name])
    if len(found) == 1:
        _card(found[0])
    else:
        print(f"{ALL_GRADIENT}: {_all_gradient()}")


def _list() -> None:
    names = max(len(name) for name in [*METHODS, ALL_GRADIENT])
    titles = max(len(card.title) for card in METHODS.values())
    for card in METHODS.values():
        units = "score units" if card.units == "score" else "no units"
        needs = f"{card.needs:<10}  {units:<11}"
        print(f"{card.name:<{names}}  {card.title:<{titles}}  {needs}  {card.paper}")
    print(f"{ALL_GRADIENT:<{names}}  {_all_gradient()}")


def _all_gradient() -> str:
    names = [card.name for card in all_gradient()]
    return f"the {len(names)} whose maps all come out of one forward pass: {', '.join(names)}"


def _card(card: Method) -> None:
    print(f"{card.name}: {card.title}, {card.paper}")
    print(f"needs {card.needs}: {COSTS[card.needs]}")
    print(UNITS[card.units])
    print(f"scope {card.scope}: {SCOPES[card.scope]}\n\n{card.doc}")
