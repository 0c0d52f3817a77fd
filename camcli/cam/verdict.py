"""The sentences that say what the maps of a run are worth."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from camcli.records import Cam
from camcli.registry import METHODS

if TYPE_CHECKING:
    from camcli.cam.worth import Probe


@dataclass
class _Tally:
    """What is counted over the maps of one method on one layer. Bounded, whatever their number."""

    maps: int = 0
    faithful: int = 0
    incomplete: float = 0.0
    misplaced: float = 0.0
    ratios: Counter[float] = field(default_factory=Counter)
    """Sum of the map / score change, rounded to two digits."""


class Verdict:
    """Collects maps, and says in a sentence per method and layer what they account for."""

    def __init__(self, probes: dict[str, Probe]) -> None:
        self.probes = probes
        self._tallies: dict[tuple[str, str], _Tally] = {}

    def add(self, cam: Cam) -> None:
        """Count one map."""
        tally = self._tallies.setdefault((cam.method, cam.layer), _Tally())
        tally.maps += 1
        tally.faithful += cam.faithful
        tally.incomplete = max(tally.incomplete, cam.completeness_error or 0.0)
        tally.misplaced = max(tally.misplaced, cam.location_error or 0.0)
        if cam.baseline is not None and cam.remainder is not None and cam.score != cam.baseline:
            ratio = (cam.score - cam.remainder) / (cam.score - cam.baseline)
            tally.ratios[float(f"{ratio:.2g}")] += 1

    def sentences(self) -> list[str]:
        """One sentence per method and layer, and one where methods coincide."""
        lines = [
            self._sentence(method, layer, tally)
            for (method, layer), tally in self._tallies.items()
            if METHODS[method].units == "score"
        ]
        pooled = dict.fromkeys(
            layer
            for method, layer in self._tallies
            if METHODS[method].units == "score" and self.probes[layer].pooled
        )
        lines += [
            f"Global average pooling follows '{layer}': HiResCAM, Grad-CAM, XGrad-CAM and CAM "
            "are the same map there."
            for layer in pooled
        ]
        return lines

    def _sentence(self, method: str, layer: str, tally: _Tally) -> str:
        title, score = METHODS[method].title, self.probes[layer].score
        if score == "bypassed":
            return (
                f"{title} at '{layer}' is a first-order view of one path: part of the score "
                "passes the layer by (a residual connection or a class token), so how much the "
                "maps account for cannot be said."
            )
        if score == "scale_invariant":
            return (
                f"{title} at '{layer}': a normalisation follows, so the sum of a map is zero "
                "for any picture and carries no information; read each map relative to itself."
            )
        if score == "first_order":
            low, high = _middle(tally.ratios)
            span = f"{low:g}" if low == high else f"{low:g}\u2013{high:g}"
            return (
                f"{title} at '{layer}' is a first-order view: sums are {span}\u00d7 the score "
                "change."
            )
        text = f"{tally.faithful:,} of {tally.maps:,} {title} maps at '{layer}' account for the "
        if tally.faithful == tally.maps:
            return text + f"class score exactly (largest error {tally.incomplete:.1g})."
        return text + (
            f"class score exactly (sums miss by up to {tally.incomplete:.1g} of the score change, "
            f"places by up to {tally.misplaced:.1g})."
        )


def _middle(ratios: Counter[float]) -> tuple[float, float]:
    """The range that holds the middle nine tenths."""
    total = sum(ratios.values())
    low = high = next(iter(ratios), 0.0)
    seen = 0
    for ratio in sorted(ratios):
        if seen <= 0.05 * total:
            low = ratio
        if seen < 0.95 * total:
            high = ratio
        seen += ratios[ratio]
    return low, high
