"""Cases small enough to be worked out by hand, for every method of activation and gradient.

The shared case, channel by channel, and what it is there for:
  0  both signs in activation and gradient, and a zero on either side
  1  a gradient that averages to zero: Grad-CAM cannot see this channel, HiResCAM can
  2  no gradient at all: the channel must not matter, however bright it is
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt, tanh

Maps = list[list[list[float]]]

ACTIVATION: Maps = [
    [[1, -2], [0, 3]],
    [[2, 0], [-1, 1]],
    [[5, 5], [5, -5]],
]
GRADIENT: Maps = [
    [[1, 0], [-2, 4]],  # mean 3/4
    [[-1, 2], [0, -1]],  # mean 0
    [[0, 0], [0, 0]],
]


@dataclass(frozen=True)
class Case:
    """Activation and gradient of each layer of one picture, (C, h, w), and the map, (h, w)."""

    layers: list[tuple[Maps, Maps]]
    cam: list[list[float]]
    rounded: bool = False
    """Whether the numbers below are not exact in float32: then they hold to 1e-6."""
    view: tuple[int, int] = (2, 2)


def shared(cam: list[list[float]], rounded: bool = False) -> Case:
    return Case([(ACTIVATION, GRADIENT)], cam, rounded)


def of(activation: Maps, gradient: Maps, cam: list[list[float]], rounded: bool = False) -> Case:
    return Case([(activation, gradient)], cam, rounded)


def unseen(activation: Maps, cam: list[list[float]], rounded: bool = False) -> Case:
    """For methods that do not look at the gradient, which is therefore broken here."""
    nowhere = [[[float("nan") for _ in row] for row in channel] for channel in activation]
    return Case([(activation, nowhere)], cam, rounded)


MAPS: dict[str, list[Case]] = {
    # 1*1 + 2*-1,  -2*0 + 0*2
    # 0*-2 + -1*0,  3*4 + 1*-1
    "hirescam": [shared([[-1, 0], [0, 11]])],
    # 3/4 of channel 0
    "gradcam": [shared([[0.75, -1.5], [0, 2.25]])],
    "gradcampp": [
        # channel 0: S = 1 + 3 = 4, gradients upwards 1 and 4: w = 1/(2+4) + 4/(2+16) = 7/18
        # channel 1: S = 2 + 1 = 3, gradient upwards 2: w = 2/(2+6) = 1/4
        # 7/18 + 2/4,  -2*7/18
        # -1/4,  3*7/18 + 1/4
        shared([[8 / 9, -7 / 9], [-1 / 4, 17 / 12]], rounded=True),
        # S = 3; eq. 19: alpha = 4/(8+3*8) = 1/8 and 1/(2+3*1) = 1/5; w = 2/8 + 1/5 = 9/20
        of([[[1, 0], [0, 2]]], [[[2, -1], [0, 1]]], [[0.45, 0], [0, 0.9]], rounded=True),
    ],
    "xgradcam": [
        # channel 0: (1 + 12) / (1 - 2 + 3) = 6.5; channel 1: (-2 - 1) / (2 - 1 + 1) = -1.5
        # 6.5 - 3,  -13
        # 1.5,  19.5 - 1.5
        shared([[3.5, -13], [1.5, 18]]),
        # A channel that sums to zero has no weight.
        of([[[1, -1], [0, 0]]], [[[7, 5], [3, 1]]], [[0, 0], [0, 0]]),
    ],
    "layercam": [
        # 1*1 + 2*0,  -2*0 + 0*2
        # 0*0 + -1*0,  3*4 + 1*0
        shared([[1, 0], [0, 12]]),
        # -1*0,  -2*1
        # 1*0,  2*2
        of([[[-1, -2], [1, 2]]], [[[-3, 1], [-1, 2]]], [[0, -2], [0, 4]]),
    ],
    "elementwisegradcam": [
        # 1 + 0 (of -2),  0 + 0
        # 0 + 0,  12 + 0 (of -1)
        shared([[1, 0], [0, 12]]),
        # products 3, -2, -1, 4
        of([[[-1, -2], [1, 2]]], [[[-3, 1], [-1, 2]]], [[3, 0], [0, 4]]),
    ],
    "eigengradcam": [
        # G * A has the channels 3u and -4u with u = (1, 2; 0, -2): v = (3, -4)/5, M v = 5u;
        # the channels' sum is -u, so the map is turned round.
        of(
            [[[3, -2], [5, 6]], [[-1, 4], [0, 2]]],
            [[[1, -3], [0, -1]], [[4, -2], [7, 4]]],
            [[-5, -10], [0, 10]],
            rounded=True,
        ),
        of([[[1, 2], [3, 4]]], [[[0, 0], [0, 0]]], [[0, 0], [0, 0]]),
    ],
    "eigencam": [
        # Channels 3u and 4u, u = (1, 2; 0, 2): v = (3, 4)/5, M v = 5u.
        unseen([[[3, 6], [0, 6]], [[4, 8], [0, 8]]], [[5, 10], [0, 10]], rounded=True),
        # Channels 3u and -4u sum to -u: the map is -5u.
        unseen([[[3, 6], [0, -6]], [[-4, -8], [0, 8]]], [[-5, -10], [0, 10]], rounded=True),
        # One channel is its own map, more places than channels or not.
        unseen([[[-1, -3], [2, 0]]], [[-1, -3], [2, 0]], rounded=True),
        unseen([[[0, 0], [0, 0]]], [[0, 0], [0, 0]]),
    ],
    "kpcacam": [
        # Centred: s = (1, -1; -1, 1). The kernel is tanh(1+1) = t between equal places and
        # tanh(-1+1) = 0 between others: t/2 + t/2 s s'. Centring leaves t/2 s s', whose
        # eigenvector is s/2 and eigenvalue 4 t/2: sqrt(2t)/2 s.
        unseen(
            [[[3, 1], [1, 3]]],
            [[sqrt(tanh(2) / 2), -sqrt(tanh(2) / 2)], [-sqrt(tanh(2) / 2), sqrt(tanh(2) / 2)]],
            rounded=True,
        ),
        # The same places turned upside down: the sign follows the activation.
        unseen(
            [[[-3, -1], [-1, -3]]],
            [[-sqrt(tanh(2) / 2), sqrt(tanh(2) / 2)], [sqrt(tanh(2) / 2), -sqrt(tanh(2) / 2)]],
            rounded=True,
        ),
        # Places that are all alike have no component.
        unseen([[[0.3, 0.3], [0.3, 0.3]]], [[0, 0], [0, 0]]),
    ],
    "fem": [
        # Of four places none can lie two deviations above the mean: sqrt(4 - 1) is the most.
        unseen(ACTIVATION, [[0, 0], [0, 0]]),
        # channel 0: mean 1, deviation sqrt(5): 6 > 5.5, the place gets the mean
        # channel 1: mean -1: 0 < 3.5, no place
        # channel 2: constant, deviation 0: no place is above its own mean
        # channel 3: mean 2, deviation sqrt(20): 12 > 10.9
        # channel 4: mean -5, deviation sqrt(5): 0 > -0.5, the place gets -5
        unseen(
            [
                [[0, 0, 6], [0, 0, 0]],
                [[0, -6, 0], [0, 0, 0]],
                [[2, 2, 2], [2, 2, 2]],
                [[0, 0, 12], [0, 0, 0]],
                [[-6, -6, -6], [0, -6, -6]],
            ],
            [[0, 0, 3], [-5, 0, 0]],
        ),
    ],
    "dff": [
        # Of one channel the only factor is what of it is not negative.
        unseen([[[3, -1], [0, 4]]], [[3, 0], [0, 4]], rounded=True),
        unseen([[[-3, -1], [0, -4]], [[0, 0], [0, 0]]], [[0, 0], [0, 0]]),
    ],
    "layercam_fusion": [
        # layer 1: 1, -3, 0, 4 -> 1/4, 0, 0, 1; layer 2: 2, 1 -> 1, 1/2 in both rows;
        # tanh of the double: tanh(1/2), 0, 0, tanh(2) against tanh(2), tanh(1)
        Case(
            [
                ([[[1, -3], [5, 4]]], [[[1, 1], [-2, 1]]]),
                ([[[2, 1]]], [[[1, 1]]]),
            ],
            [[tanh(2), tanh(1)], [tanh(2), tanh(2)]],
            rounded=True,
        ),
        # A layer without any gradient leaves the other as it is.
        Case(
            [
                ([[[1, -3], [5, 4]]], [[[1, 1], [-2, 1]]]),
                ([[[2, 1]]], [[[0, 0]]]),
            ],
            [[tanh(0.5), 0], [0, tanh(2)]],
            rounded=True,
        ),
    ],
    "refinecam": [
        # One channel: the weight is positive and cancels, relu(A) remains. Two places become
        # four at a, (3a+b)/4, (a+3b)/4, b:
        # layer 1: 2, 3/2, 1/2, 0 and 1, 7/4, 13/4, 4; divided by 4
        # layer 2: 5, 4, 2, 1 in both rows; less 1, divided by 4: 1, 3/4, 1/4, 0
        Case(
            [
                ([[[2, -3], [1, 4]]], [[[1, 0], [-1, 2]]]),
                ([[[5, 1]]], [[[3, -1]]]),
            ],
            [[1 / 2, 9 / 32, 1 / 32, 0], [1 / 4, 21 / 64, 13 / 64, 0]],
            rounded=True,
            view=(2, 4),
        ),
        # A layer that is the same everywhere empties the product.
        Case(
            [
                ([[[2, -3], [1, 4]]], [[[1, 0], [-1, 2]]]),
                ([[[5, 5]]], [[[3, 3]]]),
            ],
            [[0, 0], [0, 0]],
        ),
    ],
    "winsorcam": [
        # importances 1, 3, -2; the 0.9 quantile of 1 and 3 is 2.8; 1 and 2.8 become 0.1 and 1
        # layer 1: A from 0 to 1: 1/2, 0, 1/4, 1; layer 2: 3, 0 (of -3) -> 1, 0 in both rows
        # 0.1 * 1/2 + 1,  0
        # 0.1 * 1/4 + 1,  0.1
        Case(
            [
                ([[[2, 0], [1, 4]]], [[[2, 0], [-1, 3]]]),
                ([[[1, -1]]], [[[2, 4]]]),
                ([[[1, 7]]], [[[-1, -3]]]),
            ],
            [[1.05, 0], [1.025, 0.1]],
            rounded=True,
        ),
        # importances 1, 2, 11, -20; of the first three the quantile is 2 + 0.8 * 9 = 9.2;
        # 2 becomes 0.1 + 0.9 * 1/8.2
        Case(
            [
                ([[[1, 0]]], [[[1, 1]]]),
                ([[[0, 1]]], [[[2, 2]]]),
                ([[[1, 0]]], [[[11, 11]]]),
                ([[[0, -1]]], [[[-20, -20]]]),
            ],
            [[1.1, 0.1 + 0.9 / 8.2]],
            rounded=True,
        ),
        # No layer counts.
        Case([([[[1, 0]]], [[[-1, -1]]]), ([[[3, 4]]], [[[0, 0]]])], [[0, 0]]),
    ],
}
