"""How alike two maps of one picture are, and how much is in one. (h, w) each, raw and signed."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Map = npt.NDArray[np.floating]
_WINDOW = 7
_BINS = 100


def rank_correlation(one: Map, other: Map) -> float:
    """Spearman's: the correlation of ranks, ties at their mean rank, -1 to 1.

    0 where either map is constant: it has nothing in common with anything.
    """
    a, b = (_ranks(values) for values in (one, other))
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / scale if scale else 0.0


def structural_similarity(one: Map, other: Map) -> float:
    """SSIM of the maps as they are drawn, rectified and divided by their maximum, over uniform
    windows of 7x7 places, fewer where the grid has fewer (Wang 2004, equation 13, with K = 0.01 and
    0.03 and a range of 1), -1 to 1.
    """
    a, b = (_windows(_drawn(values)) for values in (one, other))
    mean_a, mean_b = a.mean(axis=-1), b.mean(axis=-1)
    da, db = a - mean_a[..., None], b - mean_b[..., None]
    var_a, var_b = (da * da).mean(axis=-1), (db * db).mean(axis=-1)
    shared = (da * db).mean(axis=-1)
    c1, c2 = 0.01**2, 0.03**2
    local = ((2 * mean_a * mean_b + c1) * (2 * shared + c2)) / (
        (mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)
    )
    return float(local.mean())


def complexity(values: Map) -> float:
    """The entropy, in nats, of a map's values in 100 equal bins from its least to its largest
    (Hedström 2024, arXiv 2405.02383, section 4.2); 0 for a constant map.
    """
    counts, _ = np.histogram(values.astype(np.float64), bins=_BINS)
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum()) + 0.0


def complexity_rise(before: Map, after: Map) -> float | None:
    """(H(after) - H(before)) / H(before), eMPRT; None where the first map has no entropy."""
    own = complexity(before)
    return (complexity(after) - own) / own if own > 0 else None


def _ranks(values: Map) -> npt.NDArray[np.float64]:
    """Centred mean ranks."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = counts.cumsum() - (counts - 1) / 2
    found = ranks[places.ravel()]
    return np.asarray(found - found.mean(), np.float64)


def _drawn(values: Map) -> npt.NDArray[np.float64]:
    heat = np.maximum(values.astype(np.float64), 0)
    return heat / (heat.max() or 1.0)


def _windows(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    sides = min(_WINDOW, values.shape[0]), min(_WINDOW, values.shape[1])
    found = np.lib.stride_tricks.sliding_window_view(values, sides)
    return found.reshape(*found.shape[:2], -1)
