"""When a map is decided by the mathematics, and what rounding may then do to it.

Some methods divide by what can nearly cancel, or pick the stronger of what can be nearly equal.
There the true map changes at once with the input, and no arithmetic gives the same one twice:
each condition below says where that is not so, for one picture in float64.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tests.cam import replicas
from tests.cam.replicas import Array, Layers

GAP = 1e-2


def decided(name: str, layers: Layers) -> bool:
    if name in OF_LAYERS:
        return OF_LAYERS[name](layers)
    return OF_ONE_LAYER[name](*layers[0]) if name in OF_ONE_LAYER else True


def rounding(name: str, layers: Layers) -> float:
    """What float32 may lose: 1e-5 of the largest sum that can arise, more where a condition lets
    a division make it up to 1 / GAP times as large; float64 inside, 1e-6 of the largest.
    """
    activation, gradient = (max(float(abs(layer[n]).max()) for layer in layers) for n in (0, 1))
    channels, height, width = layers[0][0].shape
    norm = np.sqrt(channels * height * width)
    product = 1e-5 * channels * activation * gradient
    return {
        "gradcampp": product * height * width,
        "xgradcam": product / GAP,
        "eigencam": 1e-6 * norm * activation,
        "eigengradcam": 1e-6 * norm * activation * gradient,
        "kpcacam": 1e-6,
        "fem": 1e-5 * channels * activation,
        "dff": 1e-6 * norm * activation,
        "layercam_fusion": 1e-5 / GAP,
        "refinecam": 1e-5 / GAP * len(layers),
        "winsorcam": 1e-5 / GAP * len(layers),
    }.get(name, product)


def xgradcam(activation: Array, _gradient: Array) -> bool:
    """No channel's values nearly cancel: they are divided by their sum."""
    total = np.abs(activation.sum(axis=(1, 2)))
    return bool((total >= GAP * np.abs(activation).sum(axis=(1, 2))).all())


def apart(values: Array, count: int) -> bool:
    """Whether the first `count` of values in falling order are alone, each without a near equal."""
    return all(values[n] - values[n + 1] > GAP * values[0] for n in range(len(values) - 1)[:count])


def turned(cam: Array, reference: Array) -> bool:
    """Whether the sign that agrees with the reference is clear."""
    agreement = abs(float(np.sum(cam * reference)))
    return agreement > GAP * float(np.linalg.norm(cam) * np.linalg.norm(reference))


def eigencam(activation: Array, gradient: Array) -> bool:
    """One strongest singular vector, which is not orthogonal to the mean activation."""
    if not activation.any():
        return True
    values = np.linalg.svd(activation.reshape(len(activation), -1), compute_uv=False)
    cam = replicas.eigencam(activation, gradient)
    return apart(values, 1) and turned(cam, activation.mean(axis=0))


def eigengradcam(activation: Array, gradient: Array) -> bool:
    """As Eigen-CAM, of what the channels add."""
    return eigencam(activation * gradient, gradient)


def kpcacam(activation: Array, gradient: Array) -> bool:
    """One strongest component, which is not orthogonal to the mean activation and not what
    rounding leaves of places that are nearly alike."""
    if (activation == activation[:, :1, :1]).all():
        return True
    rows = activation.reshape(len(activation), -1).T
    rows = rows - rows.mean(axis=0)
    kernel = np.tanh(rows @ rows.T / len(activation) + 1)
    centred = kernel - kernel.mean(axis=0)
    values = np.linalg.eigvalsh(centred - centred.mean(axis=1)[:, None])[::-1]
    cam = replicas.kpcacam(activation, gradient)
    reference = activation.mean(axis=0)
    return values[0] > 1e-6 and apart(values, 1) and turned(cam, reference - reference.mean())


def fem(activation: Array, _gradient: Array) -> bool:
    """No value lies at the bar of two deviations, save that of a channel that has none."""
    above = activation - activation.mean(axis=(1, 2), keepdims=True)
    deviation = np.sqrt((above**2).mean(axis=(1, 2), keepdims=True))
    constant = (activation == activation[:, :1, :1]).all(axis=(1, 2))
    near = np.abs(above - 2 * deviation) < GAP * deviation
    return not near[~constant].any()


def dff(activation: Array, _gradient: Array) -> bool:
    """Singular vectors that stand alone and have a clear stronger sign; one strongest part."""
    if not (activation > 0).any():
        return True
    table = np.maximum(activation, 0).reshape(len(activation), -1).T
    left, values, right = np.linalg.svd(table, full_matrices=False)
    W, H = replicas.factors(activation)
    parts = np.sort(np.linalg.norm(W, axis=0) * np.linalg.norm(H, axis=1))[::-1]
    return (
        apart(values, 4)
        and all(one_sided(u, v) for u, v in list(zip(left.T, right, strict=True))[:4])
        and (len(values) < 4 or values[min(3, len(values) - 1)] > GAP * values[0])
        and apart(parts, 1)
    )


def one_sided(u: Array, v: Array) -> bool:
    positive, negative = (
        float(np.linalg.norm(np.maximum(s * u, 0)) * np.linalg.norm(np.maximum(s * v, 0)))
        for s in (1, -1)
    )
    return abs(positive - negative) > GAP * max(positive, negative)


def clear_top(terms: Array) -> bool:
    """Whether the maximum of a sum over channels is far from zero beside what cancels in it, or
    every place is clearly not positive."""
    total, size = terms.sum(axis=0), np.abs(terms).sum(axis=0)
    return bool(total.max() > GAP * size.max() or (total <= -GAP * size).all())


def contrast(terms: Array) -> bool:
    """Whether a rectified sum over channels is not nearly the same everywhere."""
    total, size = np.maximum(terms.sum(axis=0), 0), np.abs(terms).sum(axis=0)
    empty = bool((terms.sum(axis=0) <= -GAP * size).all())
    return empty or total.size == 1 or float(total.max() - total.min()) > GAP * float(size.max())


def layercam_fusion(layers: Layers) -> bool:
    """Every layer's map has a maximum to divide by, or is empty."""
    return all(clear_top(np.maximum(g, 0) * a) for a, g in layers)


def refinecam(layers: Layers) -> bool:
    """Every layer's map has a range to stretch."""

    def terms(activation: Array, gradient: Array) -> Array:
        total = np.maximum(activation, 0).sum(axis=(1, 2), keepdims=True)
        pull = np.maximum(gradient, 0)
        return (pull / (2 + total * pull)).sum(axis=(1, 2), keepdims=True) * activation

    return all(contrast(terms(a, g)) for a, g in layers)


def winsorcam(layers: Layers) -> bool:
    """As Refine-CAM; and no importance is nearly zero, no two that are cut nearly equal."""
    maps = [g.mean(axis=(1, 2), keepdims=True) * a for a, g in layers]
    importance = [float(g.mean()) for _, g in layers]
    size = [float(np.abs(g).mean()) for _, g in layers]
    positive = np.sort([value for value in importance if value > 0])[::-1]
    return (
        all(contrast(one) for one in maps)
        and all(abs(v) > GAP * s or s == 0 for v, s in zip(importance, size, strict=True))
        and apart(positive, len(positive))
    )


OF_ONE_LAYER: dict[str, Callable[[Array, Array], bool]] = {
    "xgradcam": xgradcam,
    "eigencam": eigencam,
    "eigengradcam": eigengradcam,
    "kpcacam": kpcacam,
    "fem": fem,
    "dff": dff,
}
OF_LAYERS: dict[str, Callable[[Layers], bool]] = {
    "layercam_fusion": layercam_fusion,
    "refinecam": refinecam,
    "winsorcam": winsorcam,
}
