"""Every method once more: the paper's equation as slow float64 loops, one picture at a time.

Nothing here is shared with the package, so that a mistake would have to be made twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Replica = Callable[[Array, Array], Array]
"""(C, h, w) activation, (C, h, w) gradient -> (h, w), the raw signed map."""
Layers = list[tuple[Array, Array]]
ReplicaOfLayers = Callable[[Layers, tuple[int, int]], Array]
"""Activation and gradient of each layer, size of the view -> the fused map."""


def hirescam(activation: Array, gradient: Array) -> Array:
    """Draelos & Carin 2020, eq. 7: sum over the features f of (dy/dA^f) ⊙ A^f."""
    channels, height, width = activation.shape
    cam = np.zeros((height, width))
    for i in range(height):
        for j in range(width):
            for f in range(channels):
                cam[i, j] += gradient[f, i, j] * activation[f, i, j]
    return cam


def weighted(weights: list[float], activation: Array) -> Array:
    """What Grad-CAM and its kin share: the channels' sum, each times its weight."""
    cam = np.zeros(activation.shape[1:])
    for weight, channel in zip(weights, activation, strict=True):
        cam += weight * channel
    return cam


def gradcam(activation: Array, gradient: Array) -> Array:
    """Selvaraju et al. 2017, eq. 1: alpha_k = 1/Z sum_ij dy/dA^k_ij; eq. 2, before its ReLU."""
    channels, height, width = activation.shape
    alpha = [0.0] * channels
    for k in range(channels):
        for i in range(height):
            for j in range(width):
                alpha[k] += gradient[k, i, j]
        alpha[k] /= height * width
    return weighted(alpha, activation)


def gradcampp(activation: Array, gradient: Array) -> Array:
    """Chattopadhay et al. 2018, for Y = exp(s): eq. 19, alpha = G² / (2 G² + sum_ab A_ab G³);
    eq. 5 with the derivative of s, w = sum_ij alpha relu(G). The sum has positive A only, so that
    2 G² + S G³ has no zero where G > 0.
    """
    weights = []
    for a, g in zip(activation, gradient, strict=True):
        total, weight = 0.0, 0.0
        for value in a.flat:
            total += max(value, 0.0)
        for slope in g.flat:
            if slope > 0:
                weight += slope**2 / (2 * slope**2 + total * slope**3) * slope
        weights.append(weight)
    return weighted(weights, activation)


def xgradcam(activation: Array, gradient: Array) -> Array:
    """Fu et al. 2020: every gradient counts by its place's part of the channel's activation."""
    weights = []
    for a, g in zip(activation, gradient, strict=True):
        total, weight = math.fsum(a.flat), 0.0
        for value, slope in zip(a.flat, g.flat, strict=True):
            if total != 0:
                weight += value / total * slope
        weights.append(weight)
    return weighted(weights, activation)


def layercam(activation: Array, gradient: Array) -> Array:
    """Jiang et al. 2021: every place has its own weight relu(g); before the outer ReLU."""
    channels, height, width = activation.shape
    cam = np.zeros((height, width))
    for i in range(height):
        for j in range(width):
            for k in range(channels):
                cam[i, j] += max(gradient[k, i, j], 0.0) * activation[k, i, j]
    return cam


def elementwisegradcam(activation: Array, gradient: Array) -> Array:
    """pytorch-grad-cam's GradCAMElementWise: what a channel adds at a place, where it adds."""
    channels, height, width = activation.shape
    cam = np.zeros((height, width))
    for i in range(height):
        for j in range(width):
            for k in range(channels):
                cam[i, j] += max(gradient[k, i, j] * activation[k, i, j], 0.0)
    return cam


def like(cam: Array, reference: Array) -> Array:
    """The cam or its negative, whichever agrees with the reference."""
    return -cam if float(np.sum(cam * reference)) < 0 else cam


def eigencam(activation: Array, _gradient: Array) -> Array:
    """Muhammad & Yeasin 2020: O = U S V', L = O v_1; not centred."""
    rows = np.stack([activation[:, i, j] for i, j in np.ndindex(activation.shape[1:])])
    _, _, right = np.linalg.svd(rows, full_matrices=False)
    cam = np.array([float(np.dot(row, right[0])) for row in rows])
    return like(cam.reshape(activation.shape[1:]), activation.mean(axis=0))


def eigengradcam(activation: Array, gradient: Array) -> Array:
    """Eigen-CAM on what every channel adds at every place."""
    return eigencam(activation * gradient, gradient)


def kpcacam(activation: Array, _gradient: Array) -> Array:
    """Karmani et al. 2024: kernel PCA (Schölkopf 1998) of the places with tanh(x·y / C + 1)."""
    channels, height, width = activation.shape
    places = [activation[:, i, j] - activation.mean(axis=(1, 2))
              for i in range(height) for j in range(width)]  # fmt: skip
    count = len(places)
    kernel = np.zeros((count, count))
    for m, one in enumerate(places):
        for n, other in enumerate(places):
            kernel[m, n] = math.tanh(float(np.dot(one, other)) / channels + 1)
    centring = np.eye(count) - np.full((count, count), 1 / count)
    values, vectors = np.linalg.eigh(centring @ kernel @ centring)
    largest = int(np.argmax(values))
    cam = math.sqrt(max(values[largest], 0.0)) * vectors[:, largest]
    return like(cam.reshape(height, width), activation.mean(axis=0))


def fem(activation: Array, _gradient: Array) -> Array:
    """Fuad et al. 2020: B_k = [A_k > mu_k + 2 sigma_k], L = sum_k mu_k B_k."""
    cam = np.zeros(activation.shape[1:])
    for channel in activation:
        mean = math.fsum(channel.flat) / channel.size
        deviation = math.sqrt(math.fsum((v - mean) ** 2 for v in channel.flat) / channel.size)
        for place in np.ndindex(channel.shape):
            if channel[place] > mean + 2 * deviation:
                cam[place] += mean
    return cam


def factors(activation: Array) -> tuple[Array, Array]:
    """V ~ W H by the updates of Lee & Seung 2001, H first; four factors from NNDSVD (Boutsidis &
    Gallopoulos 2008), zeros lifted by a thousandth of the mean's root.
    """
    table = np.maximum(activation, 0).reshape(len(activation), -1).T
    left, strengths, right = np.linalg.svd(table, full_matrices=False)
    columns, rows = [], []
    for strength, u, v in list(zip(strengths, left.T, right, strict=True))[:4]:
        pairs = [(np.maximum(s * u, 0), np.maximum(s * v, 0)) for s in (1, -1)]
        positive, negative = (np.linalg.norm(a) * np.linalg.norm(b) for a, b in pairs)
        column, row = pairs[0] if positive >= negative else pairs[1]
        columns.append(math.sqrt(strength) * column)
        rows.append(math.sqrt(strength) * row)
    lift = 1e-3 * math.sqrt(table.mean())
    W, H = np.stack(columns, axis=1) + lift, np.stack(rows) + lift
    for _ in range(200):
        H = ratio(H * np.dot(W.T, table), np.dot(np.dot(W.T, W), H))
        W = ratio(W * np.dot(table, H.T), np.dot(np.dot(W, H), H.T))
    return W, H


def ratio(above: Array, below: Array) -> Array:
    """Where a factor has dwindled to nothing, it stays nothing."""
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)


def dff(activation: Array, _gradient: Array) -> Array:
    """Collins et al. 2018: the places of the factor that holds most of the activation."""
    if not (activation > 0).any():
        return np.zeros(activation.shape[1:])
    W, H = factors(activation)
    parts = [np.outer(column, row) for column, row in zip(W.T, H, strict=True)]
    best = int(np.argmax([np.linalg.norm(part) for part in parts]))
    return (W[:, best] * np.linalg.norm(H[best])).reshape(activation.shape[1:])


def up(cam: Array, size: tuple[int, int]) -> Array:
    """Bilinear between the centres of pixels; beyond the outermost centres they are repeated."""
    shown = np.zeros(size)
    for i, j in np.ndindex(size):
        (top, bottom, v), (before, after, h) = (
            neighbours(place, old, new)
            for place, old, new in zip((i, j), cam.shape, size, strict=True)
        )
        above = (1 - h) * cam[top, before] + h * cam[top, after]
        below = (1 - h) * cam[bottom, before] + h * cam[bottom, after]
        shown[i, j] = (1 - v) * above + v * below
    return shown


def neighbours(place: int, old: int, new: int) -> tuple[int, int, float]:
    """Of a pixel of the new size, the two of the old one it lies between and how far along."""
    centre = min(max((place + 0.5) * old / new - 0.5, 0.0), old - 1.0)
    low = math.floor(centre)
    return low, min(low + 1, old - 1), centre - low


def stretched(cam: Array) -> Array:
    low, high = cam.min(), cam.max()
    return (cam - low) / (high - low) if high > low else np.zeros_like(cam)


def finest(layers: Layers) -> tuple[int, int]:
    return max(((a.shape[1], a.shape[2]) for a, _ in layers), key=lambda size: size[0] * size[1])


def layercam_fusion(layers: Layers, _view: tuple[int, int]) -> Array:
    """Jiang et al. 2021, eq. 9 on every layer with gamma = 2, then the maximum of all."""
    size = finest(layers)
    fused = np.zeros(size)
    for activation, gradient in layers:
        cam = np.maximum(layercam(activation, gradient), 0)
        if cam.max() > 0:
            fused = np.maximum(fused, up(np.tanh(2 * cam / cam.max()), size))
    return fused


def refinecam(layers: Layers, view: tuple[int, int]) -> Array:
    """arXiv 2605.14641: the product of the layers' Grad-CAM++, enlarged, then from 0 to 1."""
    product = np.ones(view)
    for activation, gradient in layers:
        product = product * stretched(up(np.maximum(gradcampp(activation, gradient), 0), view))
    return product


def winsorcam(layers: Layers, _view: tuple[int, int]) -> Array:
    """arXiv 2507.10846: importances that are positive are cut at their 90 % quantile and brought
    to 0.1..1; Grad-CAMs from 0 to 1 are enlarged, weighted and added.
    """
    size = finest(layers)
    importance = [float(np.mean([g.mean() for g in gradient])) for _, gradient in layers]
    positive = sorted(value for value in importance if value > 0)
    fused = np.zeros(size)
    if not positive:
        return fused
    position = 0.9 * (len(positive) - 1)
    low = math.floor(position)
    high = min(low + 1, len(positive) - 1)
    cut = positive[low] + (position - low) * (positive[high] - positive[low])
    least, most = min(positive[0], cut), cut
    for value, (activation, gradient) in zip(importance, layers, strict=True):
        if value > 0:
            share = (min(value, cut) - least) / (most - least) if most > least else 1.0
            cam = stretched(np.maximum(gradcam(activation, gradient), 0))
            fused += (0.1 + 0.9 * share) * up(cam, size)
    return fused


OF_ONE_LAYER: dict[str, Replica] = {
    "hirescam": hirescam,
    "gradcam": gradcam,
    "gradcampp": gradcampp,
    "xgradcam": xgradcam,
    "layercam": layercam,
    "elementwisegradcam": elementwisegradcam,
    "eigengradcam": eigengradcam,
    "eigencam": eigencam,
    "kpcacam": kpcacam,
    "fem": fem,
    "dff": dff,
}
OF_LAYERS: dict[str, ReplicaOfLayers] = {
    "layercam_fusion": layercam_fusion,
    "refinecam": refinecam,
    "winsorcam": winsorcam,
}
REPLICAS: dict[str, Replica | ReplicaOfLayers] = {**OF_ONE_LAYER, **OF_LAYERS}
