"""Whatever a layer puts out -> feature maps (N, C, h, w), for activation and gradient alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

Layout = Literal["NCHW", "NHWC", "tokens"]
_MOST_EXTRA_TOKENS = 16


@dataclass(frozen=True)
class Grid:
    """How a layer's output lies over the view: what the peers call `reshape_transform`.

    `height` x `width` cells; with tokens, the first `prefix` of them (class and register tokens)
    lie outside the grid.
    """

    layout: Layout
    channels: int
    height: int
    width: int
    prefix: int = 0

    def maps(self, output: Tensor) -> Tensor:
        """A layer's output, or its gradient, as (N, C, h, w)."""
        if self.layout == "NCHW":
            return output
        if self.layout == "NHWC":
            return output.permute(0, 3, 1, 2)
        cells = output[:, self.prefix :].transpose(1, 2)
        return cells.reshape(*cells.shape[:2], self.height, self.width)

    def output(self, maps: Tensor, like: Tensor) -> Tensor:
        """Maps (N, C, h, w) as a layer's output; what is outside the grid is that of `like`."""
        if self.layout == "NCHW":
            return maps.to(like.dtype)
        if self.layout == "NHWC":
            return maps.permute(0, 2, 3, 1).to(like.dtype)
        output = like.clone()
        output[:, self.prefix :] = maps.flatten(2).mT
        return output

    def outside(self, output: Tensor) -> Tensor:
        """What lies on no cell, (N, prefix, C); empty for layers without extra tokens."""
        return output[:, : self.prefix] if self.prefix else output.new_zeros(output.shape[0], 0, 1)

    def __str__(self) -> str:
        extra = f" + {self.prefix}" if self.prefix else ""
        return f"{self.height}x{self.width}{extra}"


def infer_grid(shape: Sequence[int], view: tuple[int, int]) -> Grid | None:
    """The grid of an output of that shape over a (width, height) view; None where it has none.

    Cells are as square as the view's pixels, which tells NCHW from NHWC and finds how many of a
    sequence's tokens lie outside the grid. A single cell is no grid.
    """
    if len(shape) == 4:
        _, a, b, c = shape
        for layout, channels, height, width in (("NCHW", a, b, c), ("NHWC", c, a, b)):
            if _covers(height, width, view):
                return Grid("NCHW" if layout == "NCHW" else "NHWC", channels, height, width)
    if len(shape) == 3:
        _, tokens, channels = shape
        found = [
            Grid("tokens", channels, *cells, prefix)
            for prefix in range(min(_MOST_EXTRA_TOKENS, tokens - 1))
            if (cells := _cells(tokens - prefix, view))
        ]
        # Square patches first: in odd proportions extra tokens can pass for one more column.
        return min(found, key=lambda grid: not _square_cells(grid, view), default=None)
    return None


def _covers(height: int, width: int, view: tuple[int, int]) -> bool:
    """Whether the strides of the two axes agree, up to the rounding of odd sizes."""
    if height * width <= 1 or height > view[1] or width > view[0]:
        return False
    return abs(height * view[0] - width * view[1]) < max(view)


def _cells(tokens: int, view: tuple[int, int]) -> tuple[int, int] | None:
    """(h, w) with h * w = tokens in the view's proportions."""
    height = round((tokens * view[1] / view[0]) ** 0.5)
    if height < 1 or tokens % height:
        return None
    width = tokens // height
    return (height, width) if _covers(height, width, view) else None


def _square_cells(grid: Grid, view: tuple[int, int]) -> bool:
    """Whether each cell is a square of whole pixels, as a patch embedding's are."""
    return view[0] % grid.width == 0 and grid.height * view[0] == grid.width * view[1]
