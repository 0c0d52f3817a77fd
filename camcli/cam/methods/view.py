"""Methods whose maps have the view's resolution: gradients that reach the network's input."""

from __future__ import annotations

from typing import TYPE_CHECKING

from camcli.cam.methods.gradient import gradcam, hirescam
from camcli.registry import method

if TYPE_CHECKING:
    from torch import Tensor

    from camcli.cam.capture import LayerCapture


@method(title="gradient × input", paper="arXiv 1605.01713", needs="input", units="score",
        scope="network")  # fmt: skip
def gradient_x_input(capture: LayerCapture) -> Tensor:
    """L = sum_c G_c * x_c, x the normalised view and G the score's gradient at it (Shrikumar 2016,
    arXiv 1605.01713): HiResCAM at the network's input.

    Units of the score.

    Cost: one forward pass recorded from the input on, and its gradient.
    Guaranteed: on a network without biases, of ReLUs, pooling and linear layers, the map sums
    exactly to the score.
    Known to get wrong: biases are left out, and a pixel whose normalised value is zero shows
    nothing whatever depends on it.
    """
    return capture.product


@method(title="guided backpropagation", paper="arXiv 1412.6806", needs="input", scope="network")
def guided_backprop(capture: LayerCapture) -> Tensor:
    """L = sum_c |R_c|, R the gradient at the input with R [z > 0] [R > 0] at every ReLU of z
    (Springenberg 2015, arXiv 1412.6806).

    Cost: one forward pass recorded from the input on, and its gradient.
    Guaranteed: nothing about the score.
    Known to get wrong: the class: it shows edges of the picture nearly whatever the target and
    even with random weights (Adebayo 2018, arXiv 1810.03292).
    """
    return capture.further.input_gradient("guided").abs()


@method(title="deconvnet", paper="arXiv 1311.2901", needs="input", scope="network")
def deconvnet(capture: LayerCapture) -> Tensor:
    """L = sum_c |R_c|, R the gradient at the input with R [R > 0] at every ReLU, whatever passed it
    forwards (Zeiler & Fergus 2014, arXiv 1311.2901).

    Cost: one forward pass recorded from the input on, and its gradient.
    Guaranteed: nothing about the score.
    Known to get wrong: the class, as guided backpropagation; without max pooling it hardly
    depends on the picture.
    """
    return capture.further.input_gradient("deconvnet").abs()


@method(title="guided Grad-CAM", paper="arXiv 1610.02391", needs="input")
def guided_gradcam(capture: LayerCapture) -> Tensor:
    """L = sum_c |R_c| * up(relu(Grad-CAM)), R as in guided backpropagation, up bilinear to the view
    (Selvaraju 2017, section 3.2, arXiv 1610.02391).

    Cost: one forward pass recorded from the input on, and its gradient.
    Guaranteed: nothing about the score; it is zero where Grad-CAM is.
    Known to get wrong: within the region of Grad-CAM it shows edges, used or not.
    """
    return _guided(capture, gradcam(capture))


@method(title="guided HiResCAM", paper="arXiv 2011.08891", needs="input")
def guided_hirescam(capture: LayerCapture) -> Tensor:
    """L = sum_c |R_c| * up(relu(HiResCAM)), R as in guided backpropagation, up bilinear to the
    view: guided Grad-CAM (arXiv 1610.02391) on the map of arXiv 2011.08891.

    Cost: one forward pass recorded from the input on, and its gradient.
    Guaranteed: nothing about the score; it is zero where HiResCAM is.
    Known to get wrong: within the region of HiResCAM it shows edges, used or not.
    """
    return _guided(capture, hirescam(capture))


@method(title="FullGrad", paper="arXiv 1905.00780", needs="input", scope="network")
def fullgrad(capture: LayerCapture) -> Tensor:
    """L = p(G * x) + sum_l p(b_l G_l), the gradient at the input times the input, and at every
    layer times its bias; p = sum over channels of the absolute values, stretched from 0 to 1 over
    all channels of the layer, bilinear to the view (Srinivas & Fleuret 2019, eqs. 4 and 9, arXiv
    1905.00780). A batch normalisation adds beta - mu gamma / sigma.

    Cost: two forward passes recorded from the input on, and their gradients.
    Guaranteed: before p, the terms of a network of ReLUs sum exactly to the score; of the map
    itself nothing is.
    Known to get wrong: every layer counts up to 1 whatever it adds to the score; biases in places
    that have no map (linear layers after the pooling) and of curved activations are left out.
    """
    from camcli.cam.masks import enlarged, unit

    def shown(part: Tensor) -> Tensor:
        heat = unit(part.abs(), (1, 2, 3)).sum(dim=1, keepdim=True)
        return enlarged(heat, capture.further.size)[:, 0]

    total = shown(capture.product)
    for part in capture.further.bias_gradients():
        total = total + shown(part)
    return total


@method(title="LeGrad", paper="arXiv 2404.03214", needs="attention", scope="network")
def legrad(capture: LayerCapture) -> Tensor:
    """L = mean_l mean_hq relu(d s_l / d W_l), W_l the attention (heads h, queries q, keys) of block
    l, s_l the score of the class head on the mean of that block's own tokens, keys laid out as the
    grid (Bousselham 2024, arXiv 2404.03214).

    All blocks count alike, as in the paper; the map has the grid of the patches.

    Cost: one forward pass recorded from the input on, and a gradient of one block for each block.
    Guaranteed: nothing about the score.
    Known to get wrong: the head is asked about tokens it was not trained on, in every block but
    the last.
    """
    blocks = [
        capture.further.tokens_to_grid(gradient.relu().mean(dim=(1, 2)))
        for gradient in capture.further.attention_gradients()
    ]
    return sum(blocks[1:], blocks[0]) / len(blocks)


def _guided(capture: LayerCapture, contributions: Tensor) -> Tensor:
    from camcli.cam.masks import enlarged

    gradient = capture.further.input_gradient("guided")
    shown = enlarged(contributions.sum(dim=1, keepdim=True).relu(), capture.further.size)
    return gradient.abs() * shown
