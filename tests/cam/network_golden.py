"""One 2x2 picture on networks of whole numbers, for which every map was worked out by hand.

    red       green     blue
    2  0      0  1      1  1
    0  1      0  0      3  0

The convolutional network: z0 = red - green, z1 = green + blue - 1, A = relu(z), then global
average pooling and logits y = (sum A0 - sum A1 + 1, sum A1, 1):

    z0        z1        A0        A1          y = (3 - 3 + 1, 3, 1) = (1, 3, 1)
    2 -1      0  1      2  0      0  1        the gradient of y0 is 1 on A0, -1 on A1
    0  1      2 -1      0  1      2  0

The map is that of class 0 where nothing else is said.
"""

from __future__ import annotations

from math import exp

import torch
import torch.nn.functional as F  # noqa: N812 (the field's name for it)
from torch import Tensor, nn

VIEW = [[[2, 0], [0, 1]], [[0, 1], [0, 0]], [[1, 1], [3, 0]]]


def convolutional() -> nn.Sequential:
    body = nn.Sequential(
        nn.Conv2d(3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 3)
    )
    weights = {
        "0.weight": [[[[1]], [[-1]], [[0]]], [[[0]], [[1]], [[1]]]],
        "0.bias": [0, -1],
        "4.weight": [[4, -4], [0, 4], [0, 0]],  # of means over four places
        "4.bias": [1, 0, 1],
    }
    body.load_state_dict({name: torch.tensor(value).float() for name, value in weights.items()})
    return body


class EvenBlock(nn.Module):
    """Every token attends to all alike: x_q + sum_k x_k / 4."""

    def forward(self, x: Tensor) -> Tensor:
        alike = 0 * x[:, None]
        return x + F.scaled_dot_product_attention(alike, alike, x[:, None])[:, 0]


class Attentive(nn.Module):
    """Four tokens, each a pixel's three colours; two blocks; logits of the mean token."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(EvenBlock(), EvenBlock())
        self.head = nn.Linear(3, 3)
        with torch.no_grad():
            self.head.weight.copy_(torch.tensor([[4, 0, -4], [0, 1, 0], [1, 1, 1]]))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.blocks(x.flatten(2).mT).mean(dim=1))
        return logits


def both(first: float, second: float) -> list[list[float]]:
    """first * A0 + second * A1."""
    return [[2 * first, second], [2 * second, first]]


def chance(*logits: float) -> float:
    """The probability of class 0."""
    return exp(logits[0]) / sum(map(exp, logits))


P0, P1 = chance(1, 3, 1), chance(3, 1, 1)
# Score-CAM. Masks: A0 / 2 and A1 / 2.
#   The first leaves red 2 0, 0 1/2 and blue 1 0, 0 0: sums of A 5/2 and 0, y0 = 7/2.
#   The second leaves green 0 1/2, 0 0 and blue 0 1/2, 3 0: sums of A 0 and 2, y0 = -1.
SCORE_CAM = chance(7 / 2, -1)
# IS-CAM. Masks times n/10. First: y0 = 1 + (5/2) n/10, on the average 1 + (5/2) (11/20).
#   Second: z1 is n/10 - 1 above, never open, and 3 n/10 - 1 below, open from n = 4 on: the sum is
#   3 (4.9) - 7 = 7.7, so that y0 is on the average 1 - 0.77.
IS_CAM = chance(2.375, 0.23)
# Group-CAM. Two groups of one channel. m0 = A0, sorted 0 0 1 2, of which 70 % lie below 1.1:
#   M0 = 1 0, 0 0. m1 = relu(-A1) = 0: M1 = 0. Blurred with even taps, mirrored at the edges (own
#   pixel 1/3, the other 2/3, on both axes; corner to corner 4/9):
#     red 6 6, 6 9; green 2 1, 4 2; blue 9 15, 9 12 (all ninths)
#   z0 = 4 5, 2 7, z1 = 2 7, 4 5 (ninths): y = (1, 2, 1). With the true pixel above left z0 = 2 and
#   z1 = 0 there: sums 32/9 and 16/9, y = (25/9, 16/9, 1).
GROUP_CAM = chance(25 / 9, 16 / 9, 1) - chance(1, 2, 1)

MAPS: dict[str, tuple[int, list[list[float]]]] = {
    # (4 A0 - 4 A1) / 4
    "cam": (0, both(1, -1)),
    # y0 - 0.6 (y1 + y2) / 2: 1 on A0, -1 - 0.3 on A1
    "finercam": (0, both(1, -1.3)),
    # U = 2 y0 - log sum exp y. G: 2 - p0 on A0, -2 + p0 - p1 on A1. J A = (0, 3, 0), of which
    # -(diag p - p p') makes (3 p0 p1, -3 p1 (1 - p1), ..), and J' makes 3 p0 p1 on A0 and
    # -3 p0 p1 - 3 p1 (1 - p1) on A1: H A. Half of it is taken off.
    "shapleycam": (
        0,
        both(2 - P0 - 1.5 * P0 * P1, -2 + P0 - P1 + 1.5 * P1 * (P0 + 1 - P1)),
    ),
    # The first four numbers of torch's generator seeded with 0.
    "random": (0, [[0.4962566, 0.7682218], [0.0884774, 0.1320305]]),
    "scorecam": (0, both(SCORE_CAM, 1 - SCORE_CAM)),
    # y = 1; without A0 it is -2, without A1 it is 4
    "ablationcam": (0, both(3, -3)),
    # Class 2 answers 1 whatever it is shown, noise too: both channels weigh 1/2.
    "sscam": (2, both(0.5, 0.5)),
    "iscam": (0, both(IS_CAM, 1 - IS_CAM)),
    # The head is linear, so that noise changes no gradient: Grad-CAM++, 4 * 1 / (2 + 3 * 1) for A0,
    # and nothing for A1, whose gradient is negative.
    "smoothgradcampp": (0, both(0.8, 0)),
    # One place after the other: A = (2, 0), (0, 1), (0, 2), (1, 0)
    "reciprocam": (0, [[chance(3, 0, 1), chance(0, 1, 1)], [chance(-1, 2, 1), chance(2, 0, 1)]]),
    "groupcam": (0, [[GROUP_CAM, 0], [0, 0]]),
    # z0 is open in 1 0, 0 1 and z1 in 0 1, 1 0. The gradient: red 1 0, 0 1; green -1 everywhere;
    # blue 0 -1, -1 0. Times the view: red 2 0, 0 1; green 0 -1, 0 0; blue 0 -1, -3 0.
    "gradient_x_input": (0, [[2, -2], [-3, 1]]),
    # -1 on A1 does not pass; 1 on A0 passes where z0 is open: red 1, green -1
    "guided_backprop": (0, [[2, 0], [0, 2]]),
    # and here whether z0 is open or not
    "deconvnet": (0, [[2, 2], [2, 2]]),
    # Grad-CAM is A0 - A1, rectified A0; HiResCAM is the same after global average pooling
    "guided_gradcam": (0, [[4, 0], [0, 2]]),
    "guided_hirescam": (0, [[4, 0], [0, 2]]),
    # Gradient times view, absolute, over all colours from 0 to 3: red 2 0, 0 1; green 0 1, 0 0;
    # blue 0 1, 3 0, all divided by 3. Biases of the convolution times gradient: 0 and, where z1 is
    # open, -1 * -1. The head's bias has no place.
    "fullgrad": (0, [[2 / 3, 2 / 3 + 1], [1 + 1, 1 / 3]]),
    # The score of a block's mean token changes with the attention of query q to key k by
    # w . x_k / 4, w = (4, 0, -4). First block: w . x = 4 (red - blue) = 4 -4, -12 4, so 1 0, 0 1.
    # Second block: x + mean x, and w . mean x = -2: w . x = 2 -6, -14 2, so 1/2 0, 0 1/2.
    "legrad": (0, [[0.75, 0], [0, 0.75]]),
}
