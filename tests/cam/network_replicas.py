"""The methods that need a network, once more: slow float64 numpy from the papers.

Nothing is shared with the package, so that a mistake would have to be made twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch

from tests.cam.handmade import Array, Case, Transformer


def softmax(values: Array) -> Array:
    shares = np.exp(values - values.max())
    return shares / shares.sum()


def enlarged(cam: Array, height: int, width: int) -> Array:
    """Bilinear between cell centres, constant beyond the outermost ones."""
    out = np.zeros((height, width))
    for i in range(height):
        for j in range(width):
            y = min(max((i + 0.5) * cam.shape[0] / height - 0.5, 0), cam.shape[0] - 1)
            x = min(max((j + 0.5) * cam.shape[1] / width - 0.5, 0), cam.shape[1] - 1)
            for u in range(cam.shape[0]):
                for v in range(cam.shape[1]):
                    out[i, j] += max(0, 1 - abs(y - u)) * max(0, 1 - abs(x - v)) * cam[u, v]
    return out


def unit(values: Array) -> Array:
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else np.zeros_like(values)


def weighted(weights: Array, maps: Array) -> Array:
    return sum((w * a for w, a in zip(weights, maps, strict=True)), np.zeros(maps.shape[1:]))


def masks(case: Case) -> list[Array]:
    return [unit(enlarged(a, *case.view.shape[1:])) for a in case.activation]


def cam(case: Case) -> Array:
    """Zhou et al. 2016, eq. 2: M_c = sum_k w_ck f_k, divided by the 4 places of the pooling."""
    assert case.cnn.first is None
    return weighted(case.onto @ case.cnn.last / 4, case.activation)


def nearest(case: Case) -> list[int]:
    """The 3 classes whose logits are nearest to that of the class itself."""
    z = case.cnn.logits(case.view)
    own = int(np.abs(case.onto).argmax())
    others = [d for d in range(len(z)) if d != own]
    return sorted(others, key=lambda d: abs(z[d] - z[own]))[:3]


def finercam(case: Case) -> Array:
    """Zhang et al. 2025: Grad-CAM of the mean over d of y_c - 0.6 y_d."""
    total = np.zeros(case.activation.shape[0])
    for d in nearest(case):
        onto = case.onto.copy()
        onto[d] -= 0.6 * case.onto.sum()  # in a contrast the same is taken from both classes
        total += case.cnn.at_layer(case.activation, onto).mean(axis=(1, 2)) / 3
    return weighted(total, case.activation)


def shapleycam(case: Case) -> Array:
    """Cai 2025: weights mean_ij (G - H A / 2) of the utility U = z_c + log p_c; H A by central
    differences of U's gradient along A.
    """

    def gradient(maps: Array) -> Array:
        p = softmax(case.cnn.head(maps))
        # d (z_c + z_c - logsumexp z) / dz = 2 e_c - p, and p cancels in a contrast.
        return case.cnn.at_layer(maps, 2 * case.onto - case.onto.sum() * p)

    a, step = case.activation, 1e-5
    bend = (gradient(a + step * a) - gradient(a - step * a)) / (2 * step)
    return weighted((gradient(a) - bend / 2).mean(axis=(1, 2)), a)


def random(case: Case) -> Array:
    """Uniform numbers from the picture's own generator."""
    return torch.empty(2, 2).uniform_(generator=case.numbers(0)).double().numpy()


def scorecam(case: Case) -> Array:
    """Wang et al. 2020, algorithm 1: softmax over channels of f(X o s(Up(A_k)))."""
    scores = [case.score(case.view * mask) for mask in masks(case)]
    return weighted(softmax(np.array(scores)), case.activation)


def ablationcam(case: Case) -> Array:
    """Desai & Ramaswamy 2020, eq. 2: w_k = (y - y_k) / y; the package keeps the sign of y out."""
    y = case.score(case.view)
    weights = []
    for k in range(len(case.activation)):
        without = case.activation.copy()
        without[k] = 0
        weights.append((y - float(case.onto @ case.cnn.head(without))) / abs(y))
    return weighted(np.array(weights), case.activation)


def sscam(case: Case) -> Array:
    """Wang et al. 2020b: the mean score over 10 masks with noise of deviation 2, then softmax.
    Variant 10 k + n is the n-th noise of channel k.
    """
    scores = []
    for k, mask in enumerate(masks(case)):
        total = 0.0
        for n in range(10):
            noise = torch.empty(1, *mask.shape).normal_(0, 2, generator=case.numbers(10 * k + n))
            total += case.score(case.view * (mask + noise.double().numpy()[0]))
        scores.append(total / 10)
    return weighted(softmax(np.array(scores)), case.activation)


def iscam(case: Case) -> Array:
    """Naidu et al. 2020: the mean score over masks faded in as n / N, N = 10, then softmax."""
    scores = [
        sum(case.score(n / 10 * mask * case.view) for n in range(1, 11)) / 10
        for mask in masks(case)
    ]
    return weighted(softmax(np.array(scores)), case.activation)


def smoothgradcampp(case: Case) -> Array:
    """Omeiza et al. 2019: alpha of Grad-CAM++ from averages over noisy views, each of a
    derivative's power; with D2 above the bar, and S D3 not below zero, as the package states.
    """
    gradients = []
    for n in range(4):
        noise = torch.empty(case.view.shape).normal_(generator=case.numbers(n)).double().numpy()
        gradients.append(case.cnn.at_layer(case.cnn.layer(case.view + 0.3 * noise), case.onto))
    d1, d2, d3 = (sum(g**power for g in gradients) / 4 for power in (1, 2, 3))
    weights = np.zeros(len(case.activation))
    for k, a in enumerate(case.activation):
        for i in range(2):
            for j in range(2):
                if d2[k, i, j] > 0:
                    below = 2 * d2[k, i, j] + max(np.maximum(a, 0).sum() * d3[k, i, j], 0)
                    weights[k] += d2[k, i, j] / below * max(d1[k, i, j], 0)
    return weighted(weights, case.activation)


def reciprocam(case: Case) -> Array:
    """Byun & Lee 2022: the class's probability with the features of one place alone."""
    heat = np.zeros((2, 2))
    for i in range(2):
        for j in range(2):
            alone = np.zeros_like(case.activation)
            alone[:, i, j] = case.activation[:, i, j]
            heat[i, j] = case.onto @ softmax(case.cnn.head(alone))
    return heat


def blurred(view: Array) -> Array:
    """A Gaussian of 51 pixels, deviation 50; a smaller picture is mirrored once at its edges."""
    reach = min(25, view.shape[1] - 1)
    taps = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * 50**2))
    taps /= taps.sum()
    for axis in (1, 2):
        pad = [(reach, reach) if a == axis else (0, 0) for a in range(3)]
        wide = np.pad(view, pad, mode="reflect")
        view = np.apply_along_axis(lambda line: np.convolve(line, taps, "valid"), axis, wide)
    return view


def groupcam(case: Case) -> Array:
    """Zhang et al. 2021: 32 groups of neighbouring channels (fewer where they do not divide),
    each the mask of a picture whose rest is blurred, weighted by the gain in probability.
    """
    a, g = case.activation, case.cnn.at_layer(case.activation, case.onto)
    base = blurred(case.view)
    chance = case.onto @ softmax(case.cnn.logits(base))
    heat = np.zeros(case.view.shape[1:])
    each = math.ceil(len(a) / 32)
    for start in range(0, len(a), each):
        group = range(start, min(start + each, len(a)))
        share = np.maximum(sum((g[k].mean() * a[k] for k in group), np.zeros((2, 2))), 0)
        share[share <= np.percentile(share, 70)] = 0
        mask = unit(enlarged(share, *heat.shape))
        mixed = case.cnn.logits(case.view * mask + base * (1 - mask))
        heat += (case.onto @ softmax(mixed) - chance) * mask
    return heat


def gradient_x_input(case: Case) -> Array:
    """Shrikumar et al. 2016: the gradient at the input times the input."""
    return (case.cnn.at_view(case.view, case.onto) * case.view).sum(axis=0)


def guided_backprop(case: Case) -> Array:
    return np.abs(case.cnn.at_view(case.view, case.onto, "guided")).sum(axis=0)


def deconvnet(case: Case) -> Array:
    return np.abs(case.cnn.at_view(case.view, case.onto, "deconvnet")).sum(axis=0)


def guided_gradcam(case: Case) -> Array:
    """Selvaraju et al. 2017, section 3.2: guided backpropagation times the upsampled Grad-CAM."""
    g = case.cnn.at_layer(case.activation, case.onto)
    shown = np.maximum(weighted(g.mean(axis=(1, 2)), case.activation), 0)
    return guided_backprop(case) * enlarged(shown, *case.view.shape[1:])


def guided_hirescam(case: Case) -> Array:
    g = case.cnn.at_layer(case.activation, case.onto)
    shown = np.maximum((g * case.activation).sum(axis=0), 0)
    return guided_backprop(case) * enlarged(shown, *case.view.shape[1:])


def fullgrad(case: Case) -> Array:
    """Srinivas & Fleuret 2019, eqs. 4 and 9: gradient x input and every bias x gradient, each
    stretched by absolute value over all its channels and summed.
    """
    net = case.cnn
    implicit = net.beta - net.mean * net.gamma / net.sigma
    terms = [
        net.at_view(case.view, case.onto) * case.view,
        net.at_convolution(case.view, case.onto) * net.conv_bias[:, None, None],
        net.at_norm(case.view, case.onto) * implicit[:, None, None],
    ]
    return sum((unit(np.abs(t)).sum(axis=0) for t in terms), np.zeros(case.view.shape[1:]))


def legrad(case: Case) -> Array:
    """Bousselham et al. 2024: per block, relu of the gradient of the score of the block's mean
    token with respect to the block's attention, averaged over heads and queries; the class
    token's key left out. Gradients by central differences.
    """
    net = case.network
    assert isinstance(net, Transformer)
    x, step, heat = net.tokens(case.view), 1e-5, 0.0
    for number in range(net.blocks):
        name = f"encoder.layers.encoder_layer_{number}"
        attention, values = net.attention(name, x)
        gradient = np.zeros_like(attention)
        for place in np.ndindex(*attention.shape):
            scores = []
            for sign in (1, -1):
                moved = attention.copy()
                moved[place] += sign * step
                scores.append(case.onto @ net.head(net.block(name, x, moved, values).mean(axis=0)))
            gradient[place] = (scores[0] - scores[1]) / (2 * step)
        heat = heat + np.maximum(gradient, 0).mean(axis=(0, 1))[1:] / net.blocks
        x = net.block(name, x, attention, values)
    side = math.isqrt(len(x) - 1)
    return np.reshape(heat, (side, side))


REPLICAS: dict[str, Callable[[Case], Array]] = {
    replica.__name__: replica
    for replica in (
        cam, finercam, shapleycam, random, scorecam, ablationcam, sscam, iscam, smoothgradcampp,
        reciprocam, groupcam, gradient_x_input, guided_backprop, deconvnet, guided_gradcam,
        guided_hirescam, fullgrad, legrad,
    )
}  # fmt: skip
