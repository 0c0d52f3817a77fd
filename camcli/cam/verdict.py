"""The sentences that say what the maps of a run are worth."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from camcli.records import Cam, CamStatus
from camcli.registry import METHODS

if TYPE_CHECKING:
    from camcli.cam.worth import Probe

_STATUSES: dict[CamStatus, str] = {
    "all_negative": "negative everywhere: nothing speaks for the class there; "
    "see camcli render --signed.",
    "constant": "the same everywhere: no place stands out.",
    "nonfinite": "not finite (NaN or infinity) and cannot be read.",
}


@dataclass
class _Tally:
    """What is counted over the maps of one method on one layer. Bounded, whatever their number."""

    maps: int = 0
    faithful: int = 0
    unmeasured: int = 0
    """Maps whose errors or ratios are NaN or infinite; left out of the figures below."""
    incomplete: float = 0.0
    misplaced: float = 0.0
    ratios: Counter[float] = field(default_factory=Counter)
    """Sum of the map / score change, rounded to two digits."""

    def add(self, cam: Cam) -> None:
        """Count one map in units of the score."""
        self.maps += 1
        self.faithful += cam.faithful
        measured = [cam.score, cam.remainder, cam.baseline, cam.completeness_error,
                    cam.location_error]  # fmt: skip
        if cam.status == "nonfinite" or not all(
            math.isfinite(v) for v in measured if v is not None
        ):
            self.unmeasured += 1
            return
        self.incomplete = max(self.incomplete, cam.completeness_error or 0.0)
        self.misplaced = max(self.misplaced, cam.location_error or 0.0)
        if cam.baseline is not None and cam.remainder is not None and cam.score != cam.baseline:
            ratio = (cam.score - cam.remainder) / (cam.score - cam.baseline)
            self.ratios[float(f"{ratio:.2g}")] += 1


class Verdict:
    """Collects maps, and says in a sentence per method and layer what they account for."""

    def __init__(self, probes: dict[str, Probe]) -> None:
        self.probes = probes
        self._tallies: dict[tuple[str, str], _Tally] = {}
        self._silent: dict[str, None] = {}
        self._smoothed: dict[str, None] = {}
        self._statuses: Counter[CamStatus] = Counter()

    def add(self, cam: Cam) -> None:
        """Count one map."""
        self._statuses[cam.status] += 1
        if cam.smoothing:
            self._smoothed[",".join(cam.smoothing)] = None
        elif METHODS[cam.method].units == "score":
            self._tallies.setdefault((cam.method, cam.layer), _Tally()).add(cam)
        else:
            self._silent[METHODS[cam.method].title] = None

    def sentences(self) -> list[str]:
        """What maps in units of the score account for, what coincides, and what shows nothing."""
        lines = [
            self._sentence(method, layer, tally) + _unmeasured(tally)
            for (method, layer), tally in self._tallies.items()
        ]
        pooled = dict.fromkeys(layer for _, layer in self._tallies if self.probes[layer].pooled)
        lines += [
            f"Global average pooling follows '{layer}': HiResCAM, Grad-CAM, XGrad-CAM and CAM "
            "are the same map there."
            for layer in pooled
        ]
        lines += [
            f"Maps are smoothed (--smooth {given}): no guarantee of any method holds for them, and "
            "nothing is claimed about how much of the score they account for."
            for given in self._smoothed
        ]
        if self._silent:
            lines.append(
                f"{', '.join(self._silent)}: not in units of the score; nothing is claimed about "
                "how much of it they account for."
            )
        total = sum(self._statuses.values())
        lines += [
            f"{count:,} of {total:,} maps {'is' if count == 1 else 'are'} {what}"
            for status, what in _STATUSES.items()
            if (count := self._statuses[status])
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
            view = f"{title} at '{layer}' is a first-order view"
            if tally.unmeasured == tally.maps:
                return f"{view}."
            if not tally.ratios:
                return (
                    f"{view}, and no map changes the score: it is the same with the layer at zero."
                )
            low, high = _middle(tally.ratios)
            span = f"{low:g}" if low == high else f"{low:g}\u2013{high:g}"
            return f"{view}: sums are {span}\u00d7 the score change."
        text = f"{tally.faithful:,} of {tally.maps:,} {title} maps at '{layer}' account for the "
        measured = tally.maps - tally.unmeasured
        if not measured:
            return text + "class score exactly."
        if tally.faithful == measured:
            return text + f"class score exactly (largest error {tally.incomplete:.1g})."
        return text + (
            f"class score exactly (sums miss by up to {tally.incomplete:.1g} of the score change, "
            f"places by up to {tally.misplaced:.1g})."
        )


def _unmeasured(tally: _Tally) -> str:
    """What is added where errors could not be measured: they are never a small error."""
    if not tally.unmeasured:
        return ""
    return f" Not measured: {tally.unmeasured:,} whose map or score is NaN or infinite."


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
