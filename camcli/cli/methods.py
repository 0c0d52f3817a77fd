"""`camcli methods`"""

from __future__ import annotations

from typing import Annotated

import typer

from camcli.cam import methods as _registered
from camcli.registry import METHODS, find_method

__all__ = ["_registered", "command"]


def command(
    name: Annotated[str | None, typer.Argument(help="Print this method's card.")] = None,
) -> None:
    """List the methods, or print the card of one: equation, paper, units, what it guarantees.

    Example: camcli methods hirescam
    """
    if name is not None:
        card = find_method(name)
        print(f"{card.name}: {card.title}, {card.paper}")
        print(f"needs: {card.needs}; units: {card.units}\n\n{card.doc}")
        return
    for card in METHODS.values():
        units = "score units" if card.units == "score" else "no units"
        print(f"{card.name:<12} {card.title:<14} {card.needs:<10} {units:<12} {card.paper}")
