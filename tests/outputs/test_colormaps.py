"""Colour scales: their definitions, and that lighter means hotter where it is promised."""

from __future__ import annotations

import numpy as np
import pytest

from camcli.outputs import colormaps


def lightness(table: np.ndarray) -> np.ndarray:
    """Rec. 709 luma."""
    return table @ np.array([0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("name", colormaps.NAMES)
def test_a_table_has_256_colours_without_jumps(name: str) -> None:
    table = colormaps.table(name)
    assert (table.shape, table.dtype) == ((256, 3), np.uint8)
    assert np.abs(np.diff(table.astype(int), axis=0)).max() <= 10


@pytest.mark.parametrize("name", ["inferno", "viridis", "cividis"])
def test_lighter_means_hotter(name: str) -> None:
    levels = lightness(colormaps.table(name))
    assert np.diff(levels).min() > -0.5  # each colour is rounded on its own
    assert (np.diff(levels[::4]) > 0).all()


@pytest.mark.parametrize(
    ("name", "first", "middle", "last"),
    [
        ("inferno", "000004", "bc3754", "fcffa4"),
        ("viridis", "440154", "21918c", "fde725"),
        ("cividis", "00224e", "7d7c78", "fee838"),
        ("turbo", "30123b", "a4fc3c", "7a0403"),
    ],
)
def test_published_colours_are_met(name: str, first: str, middle: str, last: str) -> None:
    table = colormaps.table(name).astype(int)
    for level, colour in ((0, first), (128, middle), (255, last)):
        assert np.abs(table[level] - list(bytes.fromhex(colour))).max() <= 3


def test_jet_is_piecewise_linear() -> None:
    level = np.arange(256) / 255
    table = colormaps.table("jet") / 255
    for channel, centre in enumerate((0.75, 0.5, 0.25)):
        wanted = np.clip(1.5 - 4 * np.abs(level - centre), 0, 1)
        assert np.abs(table[:, channel] - wanted).max() < 0.02


def test_the_diverging_scale_is_white_in_the_middle_and_its_ends_are_equally_dark() -> None:
    table = colormaps.diverging()
    assert table[127:129].min() >= 245
    assert table[0, 2] > table[0, 0]
    assert table[255, 0] > table[255, 2]
    levels = lightness(table)
    assert abs(levels[0] - levels[255]) < 35
    assert (np.diff(levels[:128:8]) > 0).all()
    assert (np.diff(levels[128::8]) < 0).all()
