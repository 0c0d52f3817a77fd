"""One 2x2 case that every method's map was worked out for by hand.

Channel by channel, what it is there for:
  0  both signs in activation and gradient, and a zero on either side
  1  a gradient that averages to zero: Grad-CAM cannot see this channel, HiResCAM can
  2  no gradient at all: the channel must not matter, however bright it is
"""

from __future__ import annotations

ACTIVATION = [
    [[1, -2], [0, 3]],
    [[2, 0], [-1, 1]],
    [[5, 5], [5, -5]],
]
GRADIENT = [
    [[1, 0], [-2, 4]],  # mean 3/4
    [[-1, 2], [0, -1]],  # mean 0
    [[0, 0], [0, 0]],
]
MAPS = {
    # 1*1 + 2*-1,  -2*0 + 0*2
    # 0*-2 + -1*0,  3*4 + 1*-1
    "hirescam": [[-1, 0], [0, 11]],
    # 3/4 of channel 0
    "gradcam": [[0.75, -1.5], [0, 2.25]],
}
