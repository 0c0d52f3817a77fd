"""Methods that need one gradient of the head: any number of them for one forward pass."""

from __future__ import annotations

from typing import TYPE_CHECKING

from camcli.registry import method

if TYPE_CHECKING:
    from torch import Tensor

    from camcli.cam.capture import LayerCapture


@method(title="HiResCAM", paper="arXiv 2011.08891", needs="gradient", units="score")
def hirescam(capture: LayerCapture) -> Tensor:
    """L = sum_k G_k * A_k, element by element (Draelos & Carin 2020, eq. 7, arXiv 2011.08891).

    Elsewhere called gradient x activation. Units of the score.

    Cost: one gradient of the head.
    Guaranteed: on a network that ends in one linear layer on A, the map plus that layer's bias
    sums exactly to the score, and every cell holds what the network added up there.
    Known to get wrong: elsewhere it is the first-order view of a curved function; where a
    normalisation follows the layer, its sum is zero whatever the picture.
    """
    return capture.product


@method(title="Grad-CAM", paper="arXiv 1610.02391", needs="gradient", units="score")
def gradcam(capture: LayerCapture) -> Tensor:
    """L = sum_k a_k A_k, a_k = mean_ij G_kij (Selvaraju 2017, eqs. 1-2, arXiv 1610.02391).

    The paper rectifies L; the raw map is kept here. Units of the score.

    Cost: one gradient of the head.
    Guaranteed: where global average pooling and one linear layer follow A, it is HiResCAM.
    Known to get wrong: elsewhere, averaging the gradient moves the map away from what the network
    used, and can show places that it did not use at all.
    """
    return capture.gradient.mean(dim=(2, 3), keepdim=True) * capture.activation


@method(title="Grad-CAM++", paper="arXiv 1710.11063", needs="gradient")
def gradcampp(capture: LayerCapture) -> Tensor:
    """L = sum_k w_k A_k, w_k = sum_ij relu(G) / (2 + S_k relu(G)), S_k = sum_ij A_k
    (Chattopadhay 2018, eq. 19 with eqs. 10 and 5, arXiv 1710.11063).

    The paper's weights are alpha relu(Y G) for the score exp(s) = Y, with alpha = G² / (2 G² +
    S G³): G² cancels, which leaves no small constant to choose, and the common positive factor Y
    is left out.

    Cost: one gradient of the head.
    Guaranteed: nothing about the score; weights are never negative.
    Known to get wrong: evidence against the class cannot appear. On signed activations S could
    meet the pole at -2 / G, so relu(A) stands in S there, which is not in the paper.
    """
    activation, pull = capture.activation, capture.gradient.relu()
    total = activation.relu().sum(dim=(2, 3), keepdim=True)
    weight = (pull / (2 + total * pull)).sum(dim=(2, 3), keepdim=True)
    return weight * activation


@method(title="XGrad-CAM", paper="arXiv 2008.02312", needs="gradient", units="score")
def xgradcam(capture: LayerCapture) -> Tensor:
    """L = sum_k a_k A_k, a_k = sum_ij G_kij A_kij / sum_ij A_kij (Fu 2020, eq. 8,
    arXiv 2008.02312).

    Units of the score: each channel sums to what HiResCAM gives it.

    Cost: one gradient of the head.
    Guaranteed: the map's sum is HiResCAM's, so it accounts for the score where HiResCAM does;
    where global average pooling follows, it is the same map.
    Known to get wrong: places, as Grad-CAM does. A channel of signed values can sum to nearly
    zero and make its weight arbitrarily large; one that sums to exactly zero is left out.
    """
    activation = capture.activation
    total = activation.sum(dim=(2, 3), keepdim=True)
    share = (capture.gradient * activation).sum(dim=(2, 3), keepdim=True)
    weight = (share / total).where(total != 0, 0.0)
    return weight * activation


@method(title="LayerCAM", paper="IEEE TIP 2021", needs="gradient")
def layercam(capture: LayerCapture) -> Tensor:
    """L = sum_k relu(G_k) * A_k (Jiang 2021, eqs. 7-8, IEEE TIP 30, 10.1109/TIP.2021.3089943).

    Cost: one gradient of the head.
    Guaranteed: nothing about the score; it keeps its detail on early layers.
    Known to get wrong: evidence against the class is dropped cell by cell, so that what remains
    looks like more evidence than there is.
    """
    return capture.gradient.relu() * capture.activation


@method(title="element-wise Grad-CAM", paper="pytorch-grad-cam", needs="gradient")
def elementwisegradcam(capture: LayerCapture) -> Tensor:
    """L = sum_k relu(G_k * A_k): HiResCAM rectified channel by channel, before the sum.

    Known from the library pytorch-grad-cam (GradCAMElementWise); there is no paper.

    Cost: one gradient of the head.
    Guaranteed: nothing about the score; the map is never negative.
    Known to get wrong: what speaks against the class does not cancel what speaks for it.
    """
    return capture.product.relu()


@method(title="EigenGrad-CAM", paper="pytorch-grad-cam", needs="gradient")
def eigengradcam(capture: LayerCapture) -> Tensor:
    """L = first principal direction of G * A: M v_1, M the (places, channels) matrix G * A of a
    picture and v_1 its first right singular vector, turned so that L agrees with sum_k G_k * A_k.

    Eigen-CAM (arXiv 2008.00299) made to depend on the class; known from pytorch-grad-cam, which
    centres M and leaves the sign to chance. As in Eigen-CAM's paper, M is not centred here.

    Cost: one gradient of the head and one eigenproblem of (places x places) a picture.
    Guaranteed: nothing about the score.
    Known to get wrong: it shows the strongest pattern of the contributions, not their sum.
    """
    from camcli.cam.spectral import first_component

    return first_component(capture.product)


@method(title="Finer-CAM", paper="arXiv 2501.11309", needs="gradient")
def finercam(capture: LayerCapture) -> Tensor:
    """L = sum_k a_k A_k, a_k = mean_ij of the gradient of y_c - g mean_d y_d, d the 3 classes whose
    logits are nearest to y_c, g = 0.6: Grad-CAM of that difference (Zhang 2025, arXiv 2501.11309,
    several references with equal weights).

    What tells a class from those that look like it. In a contrast A-B the references cancel, and
    the map is Grad-CAM's.

    Cost: one more gradient of the head.
    Guaranteed: nothing about the class's own score: the map is of a difference of scores.
    Known to get wrong: places, as Grad-CAM does; with few classes the nearest ones are not alike.
    """
    further = capture.further
    own = [t.index if t.index is not None else t.against or 0 for t in further.targets]
    rows = range(len(own))
    distance = (further.logits - further.logits[rows, own][:, None]).abs()
    distance[rows, own] = float("inf")
    similar = distance.argsort(dim=1, stable=True)[:, : min(3, distance.shape[1] - 1)]

    def finer(logits: Tensor) -> Tensor:
        return logits - 0.6 * logits.gather(1, similar).mean(dim=1, keepdim=True)

    return further.gradient_of(finer).mean(dim=(2, 3), keepdim=True) * capture.activation


@method(title="Shapley-CAM", paper="arXiv 2501.06261", needs="hessian")
def shapleycam(capture: LayerCapture) -> Tensor:
    """L = sum_k w_k A_k, w_k = mean_ij (G - H A / 2), with gradient G and Hessian H of the utility
    y_c + log p_c, p the softmax of the logits (Cai 2025, arXiv 2501.06261: a Shapley value by the
    second-order expansion of what removing a part of A does; the utility is its ReST).

    Cost: a second forward pass, two gradients of the head and one Hessian-vector product.
    Guaranteed: nothing about the logit: the map is of another utility.
    Known to get wrong: places, as Grad-CAM does. With the plain logit it would be Grad-CAM on any
    network of ReLUs, whose curvature is zero; the utility is what makes the difference.
    """

    def rest(logits: Tensor) -> Tensor:
        return logits + logits.log_softmax(dim=1)

    gradient = capture.further.gradient_of(rest)
    bend = capture.further.curvature(rest, capture.activation)
    return (gradient - bend / 2).mean(dim=(2, 3), keepdim=True) * capture.activation


@method(title="CAM", paper="arXiv 1512.04150", needs="weights", units="score")
def cam(capture: LayerCapture) -> Tensor:
    """L = sum_k w_ck A_k / (h w), w_c the linear layer's row for the class (Zhou 2016, eq. 2,
    arXiv 1512.04150; divided by the number of places, so that it sums to the score).

    Units of the score.

    Cost: no gradient; it is read from the last layer's weights.
    Guaranteed: where global average pooling and one linear layer follow A, which it demands, the
    map plus the bias sums exactly to the score.
    Known to get wrong: nothing there; on any other layer it does not exist and is refused.
    """
    activation = capture.activation
    places = activation.shape[2] * activation.shape[3]
    return capture.further.class_weights()[:, :, None, None] * activation / places
