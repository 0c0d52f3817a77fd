"""Two tiny networks written out by hand in float64 numpy, forwards and backwards, for replicas."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

Array = npt.NDArray[np.float64]
Rule = Literal["plain", "guided", "deconvnet"]


@dataclass(frozen=True)
class Convolutional:
    """view (3, H, W) -> 1x1 convolution -> batch norm -> ReLU -> means over blocks: the layer
    (C, 2, 2) -> flattened -> linear -> ReLU or softplus -> linear -> logits.

    Without `first`, the head is global average pooling and one linear layer.
    """

    conv: Array
    conv_bias: Array
    gamma: Array
    beta: Array
    mean: Array
    sigma: Array
    first: Array | None
    first_bias: Array | None
    soft: bool
    last: Array
    last_bias: Array

    def convolved(self, view: Array) -> Array:
        return np.einsum("kc,cij->kij", self.conv, view) + self.conv_bias[:, None, None]

    def normed(self, view: Array) -> Array:
        z = (self.convolved(view) - self.mean[:, None, None]) / self.sigma[:, None, None]
        return self.gamma[:, None, None] * z + self.beta[:, None, None]

    def layer(self, view: Array) -> Array:
        z = self.normed(view)
        block = z.shape[1] // 2
        maps = np.zeros((len(z), 2, 2))
        for i in range(z.shape[1]):
            for j in range(z.shape[2]):
                maps[:, i // block, j // block] += np.maximum(z[:, i, j], 0) / block**2
        return maps

    def hidden(self, maps: Array) -> Array:
        assert self.first is not None
        return self.first @ maps.reshape(-1) + self.first_bias

    def head(self, maps: Array) -> Array:
        if self.first is None:
            return self.last @ maps.mean(axis=(1, 2)) + self.last_bias
        h = self.hidden(maps)
        bent = np.log1p(np.exp(h)) if self.soft else np.maximum(h, 0)
        return self.last @ bent + self.last_bias

    def logits(self, view: Array) -> Array:
        return self.head(self.layer(view))

    def at_layer(self, maps: Array, onto: Array, rule: Rule = "plain") -> Array:
        """The gradient of onto . logits at the layer, (C, 2, 2)."""
        back = onto @ self.last
        if self.first is None:
            return np.broadcast_to(back[:, None, None] / 4, maps.shape)
        h = self.hidden(maps)
        back = back / (1 + np.exp(-h)) if self.soft else rectified(back, h, rule)
        return (back @ self.first).reshape(maps.shape)

    def at_norm(self, view: Array, onto: Array, rule: Rule = "plain") -> Array:
        """The same at the output of the batch norm, (C, H, W)."""
        z, maps = self.normed(view), self.layer(view)
        block = z.shape[1] // 2
        back = np.kron(self.at_layer(maps, onto, rule), np.full((block, block), 1 / block**2))
        return rectified(back, z, rule)

    def at_convolution(self, view: Array, onto: Array, rule: Rule = "plain") -> Array:
        return self.at_norm(view, onto, rule) * (self.gamma / self.sigma)[:, None, None]

    def at_view(self, view: Array, onto: Array, rule: Rule = "plain") -> Array:
        return np.einsum("kc,kij->cij", self.conv, self.at_convolution(view, onto, rule))


def rectified(back: Array, z: Array, rule: Rule) -> Array:
    """What passes back through a ReLU of z."""
    passed = {
        "plain": z > 0,
        "guided": (z > 0) & (back > 0),  # Springenberg et al. 2015, section 3.4
        "deconvnet": back > 0,  # Zeiler & Fergus 2014, section 2.1
    }
    return back * passed[rule]


@dataclass(frozen=True)
class Transformer:
    """torchvision's VisionTransformer of two-headed blocks, from its state dict."""

    weights: Mapping[str, Array]
    patch: int
    blocks: int
    heads: int = 2

    def tokens(self, view: Array) -> Array:
        kernel, side = self.weights["conv_proj.weight"], view.shape[1] // self.patch
        rows = [self.weights["class_token"][0, 0]]
        for i in range(side):
            for j in range(side):
                part = view[:, i * self.patch : (i + 1) * self.patch]
                part = part[:, :, j * self.patch : (j + 1) * self.patch]
                rows.append(np.einsum("dcuv,cuv->d", kernel, part))
                rows[-1] = rows[-1] + self.weights["conv_proj.bias"]
        return np.stack(rows) + self.weights["encoder.pos_embedding"][0]

    def norm(self, name: str, x: Array) -> Array:
        centred = x - x.mean(axis=-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-6)
        return scaled * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]

    def linear(self, name: str, x: Array) -> Array:
        return x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def attention(self, block: str, x: Array) -> tuple[Array, Array]:
        """Attention (heads, T, T) and values (heads, T, d)."""
        x = self.norm(f"{block}.ln_1", x)
        both = x @ self.weights[f"{block}.self_attention.in_proj_weight"].T
        both = both + self.weights[f"{block}.self_attention.in_proj_bias"]
        q, k, v = (
            part.reshape(len(x), self.heads, -1).swapaxes(0, 1)
            for part in np.split(both, 3, axis=1)
        )
        likeness = np.exp(q @ k.swapaxes(1, 2) / math.sqrt(q.shape[2]))
        return likeness / likeness.sum(axis=2, keepdims=True), v

    def block(self, block: str, x: Array, attention: Array, values: Array) -> Array:
        mixed = (attention @ values).swapaxes(0, 1).reshape(x.shape)
        x = x + self.linear(f"{block}.self_attention.out_proj", mixed)
        h = self.linear(f"{block}.mlp.0", self.norm(f"{block}.ln_2", x))
        h = h * (1 + np.vectorize(math.erf)(h / math.sqrt(2))) / 2
        return x + self.linear(f"{block}.mlp.3", h)

    def head(self, token: Array) -> Array:
        return self.linear("heads.head", self.norm("encoder.ln", token))


@dataclass(frozen=True)
class Case:
    network: Convolutional | Transformer
    view: Array
    onto: Array
    """The score as weights of the logits: 1 for the class, -1 for the class against it."""
    seed: int

    @property
    def cnn(self) -> Convolutional:
        assert isinstance(self.network, Convolutional)
        return self.network

    @property
    def activation(self) -> Array:
        return self.cnn.layer(self.view)

    def score(self, view: Array) -> float:
        return float(self.onto @ self.cnn.logits(view))

    def numbers(self, variant: int) -> torch.Generator:
        """Documented: seeded from the picture, one generator a variant."""
        return torch.Generator().manual_seed(self.seed + variant)
