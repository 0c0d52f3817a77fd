"""The methods: one decorated function each, what the mathematics says and nothing else.

`A` is the activation of the target layer and `G` the gradient of the score with respect to it,
both (N, C, h, w) in float32. A method returns the raw signed map, (N, h, w): rectifying, scaling
and drawing come later and elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from camcli.registry import method

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class LayerCapture:
    """What a method is given for one layer and one target per picture."""

    activation: Tensor
    gradient: Tensor


@method(title="HiResCAM", paper="arXiv 2011.08891", needs="gradient", units="score")
def hirescam(capture: LayerCapture) -> Tensor:
    """L = sum_k G_k * A_k, element by element (Draelos & Carin 2020, eq. 7, arXiv 2011.08891).

    (N, C, h, w), (N, C, h, w) -> (N, h, w), in units of the score. On a network that ends in one
    linear layer on A, the map plus that layer's bias sums exactly to the score, and every cell
    holds what the network added up there.
    """
    return (capture.gradient * capture.activation).sum(dim=1)


@method(title="Grad-CAM", paper="arXiv 1610.02391", needs="gradient", units="score")
def gradcam(capture: LayerCapture) -> Tensor:
    """L = sum_k a_k * A_k, a_k = mean_ij G_kij (Selvaraju 2017, eqs. 1-2, arXiv 1610.02391).

    (N, C, h, w), (N, C, h, w) -> (N, h, w), in units of the score. The paper rectifies L; the raw
    map is kept here. Averaging the gradient moves the map away from what the network used, unless
    global average pooling follows the layer: then it equals HiResCAM.
    """
    alpha = capture.gradient.mean(dim=(2, 3), keepdim=True)
    return (alpha * capture.activation).sum(dim=1)
