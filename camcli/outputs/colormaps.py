"""Colour scales as 256-entry tables.

Tables are interpolated between 33 colours at the levels round(255 i / 32): within 3 of 255 of
matplotlib's (6 at one bend of cividis). inferno, viridis, cividis: CC0, Smith, van der Walt,
Nunez et al.; turbo: Mikhailov; jet and the diverging scale are piecewise linear by definition.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Table = npt.NDArray[np.uint8]

_COLOURS = {
    "inferno": """
        000004 040312 0b0724 150b37 210c4a 2f0a5b 3d0965 4a0c6b 57106e 64156e 71196e 7d1e6d 8a226a
        972766 a32c61 b0315b bc3754 c63d4d d04545 da4e3c e35933 eb6429 f1711f f67e14 f98c0a fb9b06
        fcaa0f fbba1f f9c932 f5d949 f2e865 f3f586 fcffa4""",
    "viridis": """
        440154 470d60 48186a 482374 472d7b 453781 424086 3e4989 3b528b 375b8d 33638d 2f6b8e 2c728e
        297a8e 26828e 23898e 21918c 1f978b 1f9f88 21a685 27ad81 31b57b 3dbc74 4cc26c 5cc863 6ece58
        81d34d 95d840 aadc32 c0df25 d5e21a eae51a fde725""",
    "cividis": """
        00224e 00285b 002e6a 053371 1a386f 273e6e 32436d 3b496c 434e6c 4b546c 535a6d 5a5f6e 61656f
        686a71 6f7073 767676 7d7c78 838179 8b8778 928d78 9a9376 a29975 aaa073 b3a670 bbad6d c3b369
        ccba64 d4c15f ddc858 e6d051 efd748 f8df3c fee838""",
    "turbo": """
        30123b 392a73 4040a2 4456c7 466be3 4680f6 4294ff 37a8fa 28bceb 1ccdd8 18ddc2 1fe9af 32f298
        4ef97d 6dfe62 8bff4b a4fc3c b7f735 cbed34 dde037 ecd13a f7c13a fdae35 fe992c fb8122 f56918
        ec530f e14109 d23105 c12302 ac1701 950d01 7a0403""",
    "jet": "000080 0000ff 0080ff 00ffff 80ff80 ffff00 ff8000 ff0000 800000",
}
DIVERGING = "2166ac 67a9cf d1e5f0 f7f7f7 fddbc7 ef8a62 b2182b"
NAMES = tuple(_COLOURS)


def table(name: str) -> Table:
    """The colours of the levels 0 to 255, (256, 3) uint8."""
    return _interpolated(_COLOURS[name])


def diverging() -> Table:
    """Blue below zero (level 0), white at zero (level 127.5), red above."""
    return _interpolated(DIVERGING)


def _interpolated(colours: str) -> Table:
    import numpy as np  # late: the names alone are asked for by --help

    knots = np.array([list(bytes.fromhex(colour)) for colour in colours.split()], np.float64)
    at = np.round(np.linspace(0, 255, len(knots)))
    levels = np.arange(256)
    return np.stack(
        [np.round(np.interp(levels, at, knots[:, c])) for c in range(3)], axis=1
    ).astype(np.uint8)
