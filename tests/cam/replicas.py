"""Every method once more: the paper's equation as slow float64 loops, one picture at a time.

Nothing here is shared with the package, so that a mistake would have to be made twice.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Replica = Callable[[Array, Array], Array]
"""(C, h, w) activation, (C, h, w) gradient -> (h, w), the raw signed map."""


def hirescam(activation: Array, gradient: Array) -> Array:
    """Draelos & Carin 2020, eq. 7: sum over the features f of (dy/dA^f) ⊙ A^f."""
    channels, height, width = activation.shape
    cam = np.zeros((height, width))
    for i in range(height):
        for j in range(width):
            for f in range(channels):
                cam[i, j] += gradient[f, i, j] * activation[f, i, j]
    return cam


def gradcam(activation: Array, gradient: Array) -> Array:
    """Selvaraju et al. 2017, eq. 1: alpha_k = 1/Z sum_ij dy/dA^k_ij; eq. 2, before its ReLU."""
    channels, height, width = activation.shape
    alpha = np.zeros(channels)
    for k in range(channels):
        for i in range(height):
            for j in range(width):
                alpha[k] += gradient[k, i, j]
        alpha[k] /= height * width
    cam = np.zeros((height, width))
    for i in range(height):
        for j in range(width):
            for k in range(channels):
                cam[i, j] += alpha[k] * activation[k, i, j]
    return cam


REPLICAS: dict[str, Replica] = {"hirescam": hirescam, "gradcam": gradcam}
