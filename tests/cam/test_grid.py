"""Which outputs lie over the picture as a grid, and that none of their numbers moves."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from camcli.cam.grid import Grid, infer_grid

SQUARE = (224, 224)
WIDE = (320, 192)


@pytest.mark.parametrize(
    ("shape", "view", "grid"),
    [
        ((1, 512, 7, 7), SQUARE, Grid("NCHW", 512, 7, 7)),
        ((1, 7, 7, 768), SQUARE, Grid("NHWC", 768, 7, 7)),
        ((1, 14, 14, 14), SQUARE, Grid("NCHW", 14, 14, 14)),
        ((1, 64, 6, 10), WIDE, Grid("NCHW", 64, 6, 10)),
        ((1, 6, 10, 64), WIDE, Grid("NHWC", 64, 6, 10)),
        ((1, 2048, 8, 8), (299, 299), Grid("NCHW", 2048, 8, 8)),
        ((1, 512, 9, 11), (335, 270), Grid("NCHW", 512, 9, 11)),  # strides 30.5 and 30
        ((1, 16, 1, 2), (64, 32), Grid("NCHW", 16, 1, 2)),
        ((1, 3, 224, 224), SQUARE, Grid("NCHW", 3, 224, 224)),
    ],
)
def test_maps_are_recognised_with_channels_first_and_last(shape, view, grid) -> None:
    assert infer_grid(shape, view) == grid


@pytest.mark.parametrize(
    ("shape", "view", "grid"),
    [
        ((1, 196, 768), SQUARE, Grid("tokens", 768, 14, 14, prefix=0)),
        ((1, 197, 768), SQUARE, Grid("tokens", 768, 14, 14, prefix=1)),
        ((1, 201, 768), SQUARE, Grid("tokens", 768, 14, 14, prefix=5)),
        ((1, 50, 768), SQUARE, Grid("tokens", 768, 7, 7, prefix=1)),
        ((1, 1374, 384), (518, 518), Grid("tokens", 384, 37, 37, prefix=5)),
        ((1, 240, 192), WIDE, Grid("tokens", 192, 12, 20, prefix=0)),
        ((1, 241, 192), WIDE, Grid("tokens", 192, 12, 20, prefix=1)),
        ((1, 245, 192), WIDE, Grid("tokens", 192, 12, 20, prefix=5)),
        # 40 tokens would also be 5 rows of 8, but not of square patches.
        ((1, 40, 192), (224, 160), Grid("tokens", 192, 5, 7, prefix=5)),
    ],
)
def test_tokens_are_recognised_with_and_without_extra_ones(shape, view, grid) -> None:
    assert infer_grid(shape, view) == grid


@pytest.mark.parametrize(
    ("shape", "view"),
    [
        ((1, 1000), SQUARE),
        ((1, 512, 1, 1), SQUARE),  # a single cell is no grid
        ((1, 1, 768), SQUARE),
        ((1, 64, 10, 6), WIDE),  # upright cells over a wide view
        ((1, 12, 64, 64), (224, 56)),  # attention weights: heads, tokens, tokens
        ((1, 600, 768), SQUARE),  # 24 x 24 and 24 left over: too many to be extra tokens
        ((1, 8, 4, 7, 7), SQUARE),
        ((), SQUARE),
        ((1, 3, 448, 448), SQUARE),  # finer than the pixels
    ],
)
def test_what_does_not_lie_over_the_view_has_no_grid(shape, view) -> None:
    assert infer_grid(shape, view) is None


@given(
    rows=st.integers(3, 40),
    columns=st.integers(3, 40),
    patch=st.sampled_from([8, 14, 16, 32]),
    prefix=st.integers(0, 5),
)
def test_the_grid_of_any_patch_embedding_is_found(rows, columns, patch, prefix) -> None:
    grid = infer_grid((1, rows * columns + prefix, 192), (columns * patch, rows * patch))
    assert grid == Grid("tokens", 192, rows, columns, prefix)


@given(
    width=st.integers(64, 600),
    height=st.integers(64, 600),
    halvings=st.integers(1, 4),
    layout=st.sampled_from(["NCHW", "NHWC"]),
)
def test_the_grid_of_any_strided_network_is_found(width, height, halvings, layout) -> None:
    rows, columns = height, width
    for _ in range(halvings):  # a convolution with padding rounds up
        rows, columns = -(-rows // 2), -(-columns // 2)
    shape = (1, 2048, rows, columns) if layout == "NCHW" else (1, rows, columns, 2048)
    assert infer_grid(shape, (width, height)) == Grid(layout, 2048, rows, columns)


def test_maps_with_channels_first_are_handed_on_as_they_are() -> None:
    output = torch.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    assert torch.equal(Grid("NCHW", 3, 4, 5).maps(output), output)


def test_channels_last_go_first_and_every_number_keeps_its_cell() -> None:
    output = torch.arange(2 * 4 * 5 * 3).reshape(2, 4, 5, 3)
    maps = Grid("NHWC", 3, 4, 5).maps(output)
    assert maps.shape == (2, 3, 4, 5)
    for n, y, x, c in torch.cartesian_prod(*map(torch.arange, output.shape)).tolist():
        assert maps[n, c, y, x] == output[n, y, x, c]


@pytest.mark.parametrize("prefix", [0, 1, 5])
def test_tokens_are_laid_out_row_by_row_after_the_extra_ones(prefix: int) -> None:
    output = torch.arange(2 * (prefix + 20) * 3).reshape(2, prefix + 20, 3)
    grid = Grid("tokens", 3, 4, 5, prefix)
    maps = grid.maps(output)
    assert maps.shape == (2, 3, 4, 5)
    for n, c, y, x in torch.cartesian_prod(*map(torch.arange, maps.shape)).tolist():
        assert maps[n, c, y, x] == output[n, prefix + 5 * y + x, c]
    outside = grid.outside(output)
    assert outside.shape[:2] == (2, prefix)
    assert torch.equal(outside, output[:, :prefix]) or prefix == 0


@pytest.mark.parametrize("grid", [Grid("NCHW", 3, 4, 5), Grid("NHWC", 5, 3, 4)])
def test_nothing_of_a_map_lies_outside_its_grid(grid: Grid) -> None:
    output = torch.ones(2, 3, 4, 5)
    assert float(grid.outside(output).sum()) == 0
    assert grid.maps(output).sum() == output.sum()


def test_a_grid_is_written_rows_by_columns_and_extra_tokens() -> None:
    assert str(Grid("NCHW", 512, 6, 10)) == "6x10"
    assert str(Grid("tokens", 768, 14, 14, prefix=1)) == "14x14 + 1"
