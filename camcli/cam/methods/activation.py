"""Methods that look at the activation alone, and the random map every comparison needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from camcli.registry import method

if TYPE_CHECKING:
    from torch import Tensor

    from camcli.cam.capture import LayerCapture


@method(title="Eigen-CAM", paper="arXiv 2008.00299", needs="activation")
def eigencam(capture: LayerCapture) -> Tensor:
    """L = M v_1, M the (places, channels) matrix of A and v_1 its first right singular vector
    (Muhammad & Yeasin 2020, eqs. 2-3, arXiv 2008.00299).

    M is not centred, as in the paper; the sign, which a singular vector leaves open, is the one
    that agrees with the mean activation.

    Cost: no gradient; one eigenproblem of (places x places) a picture.
    Guaranteed: nothing about any class: every target has the same map.
    Known to get wrong: it shows the strongest pattern, whether or not the score depends on it.
    """
    from camcli.cam.spectral import first_component

    return first_component(capture.activation)


@method(title="KPCA-CAM", paper="arXiv 2410.00267", needs="activation")
def kpcacam(capture: LayerCapture) -> Tensor:
    """L = sqrt(l_1) u_1, the first kernel principal component of the places: k(a, b) =
    tanh(a b / C + 1) of the centred rows of M, (places, channels), the kernel matrix centred
    (Karmani 2024, arXiv 2410.00267; kernel and its constants as in pytorch-grad-cam).

    The sign is the one that agrees with the mean activation.

    Cost: no gradient; one eigenproblem of (places x places) a picture, at most 4,096 places.
    Guaranteed: nothing about any class: every target has the same map.
    Known to get wrong: as Eigen-CAM; the kernel's constants decide a good part of the map.
    """
    from camcli.cam.spectral import first_kernel_component

    return first_kernel_component(capture.activation)


@method(title="FEM", paper="Fuad 2020", needs="activation")
def fem(capture: LayerCapture) -> Tensor:
    """L = sum_k m_k [A_k > m_k + 2 s_k], m_k and s_k the mean and the standard deviation of a
    channel over its places (Fuad et al. 2020, feature explanation method, IPTA).

    Cost: no gradient.
    Guaranteed: nothing about any class: every target has the same map.
    Known to get wrong: on small maps nearly nothing lies two deviations above the mean.
    """
    activation = capture.activation
    mean = activation.mean(dim=(2, 3), keepdim=True)
    # Compared as distances from the mean: a constant channel stays below whatever way it rounds.
    above = activation - mean
    deviation = above.square().mean(dim=(2, 3), keepdim=True).sqrt()
    return mean * (above > 2 * deviation)


@method(title="DFF", paper="arXiv 1806.10206", needs="activation")
def dff(capture: LayerCapture) -> Tensor:
    """L = the strongest column of W in relu(M) ~ W H, W and H not negative, 4 factors, M the
    (places, channels) matrix of one picture (Collins 2018, arXiv 1806.10206), times the length of
    its row in H.

    Factored picture by picture, from the singular vectors (NNDSVD) and by 200 multiplicative
    updates, so that the result depends on the picture alone and on no random start.

    Cost: no gradient; 200 small matrix products.
    Guaranteed: nothing about any class: every target has the same map.
    Known to get wrong: the strongest factor is often the background; the paper looks at all.
    """
    from camcli.cam.spectral import strongest_factor

    return strongest_factor(capture.activation.relu(), rank=4, updates=200)


@method(title="random map", paper="baseline", needs="activation")
def random(capture: LayerCapture) -> Tensor:
    """L_ij = u_ij, uniform in [0, 1) and seeded from the picture's SHA-256.

    What any method has to be better than.

    Cost: nothing.
    Guaranteed: to know nothing about the network; the same picture has the same map.
    Known to get wrong: everything.
    """
    activation, further = capture.activation, capture.further
    maps = activation.new_zeros(activation.shape[0], *activation.shape[2:])
    for n in range(further.count):
        maps[n].copy_(maps.new_empty(maps.shape[1:], device="cpu").uniform_(
            generator=further.generator(n)))  # fmt: skip
    return maps
