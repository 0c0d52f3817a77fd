"""Mosaics of four pictures, and whose quarter a map points at."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from camcli.engine import Engine
from camcli.evaluation import games, localisation
from camcli.evaluation.games import Games
from camcli.evaluation.mosaic import (
    Candidate,
    Mosaic,
    canvas_of,
    cells,
    laid_out,
    mosaics,
    quarter_mask,
)
from camcli.images.geometry import Geometry
from camcli.records import Decoded, Explanation, ImageRef, Prediction
from camcli.registry import METRICS
from tests.conftest import as_model, live_in, noise_pictures
from tests.evaluation.made import convolutional

GRID = METRICS["grid_pointing"]


def candidate(number: int, index: int, probability: float = 0.9) -> Candidate:
    return Candidate(ImageRef(f"{number}.jpg", f"{number}.jpg"), index, probability)


@settings(max_examples=50)
@given(st.lists(st.integers(0, 6), max_size=40), st.integers(0, 3), st.randoms())
def test_mosaics_are_of_four_classes_and_each_picture_is_in_one_at_most(classes, seed, random):
    pictures = [candidate(k, index) for k, index in enumerate(classes)]
    found = mosaics(pictures, 100, seed)
    for mosaic in found:
        assert len({quarter.index for quarter in mosaic.quarters}) == 4
    used = Counter(q.ref.key for mosaic in found for q in mosaic.quarters)
    assert all(count == 1 for count in used.values())
    # As many as there can be: the most n for which sum_c min(count_c, n) >= 4 n.
    counts = Counter(classes).values()
    most = max(n for n in range(11) if sum(min(c, n) for c in counts) >= 4 * n)
    assert len(found) == most
    random.shuffle(pictures)
    assert mosaics(pictures, 100, seed) == found


def test_doubtful_pictures_are_left_out_and_the_number_is_bounded():
    sure = [candidate(k, k % 5) for k in range(40)]
    assert len(mosaics(sure, 3)) == 3
    assert mosaics([replace(one, probability=0.49) for one in sure], 3) == []
    assert mosaics(sure, 3, seed=0) != mosaics(sure, 3, seed=1)


def four() -> Mosaic:
    return Mosaic(tuple(candidate(k, 10 + k) for k in range(4)))


def test_a_mosaic_of_views_at_their_own_size_holds_their_pixels():
    views = [np.full((6, 8, 3), 50 * k, np.uint8) for k in range(1, 5)]
    picture = laid_out(four(), views, (16, 12))
    expected = np.block([[[views[0]], [views[1]]], [[views[2]], [views[3]]]])
    expected = np.concatenate(
        [np.concatenate(views[:2], axis=1), np.concatenate(views[2:], axis=1)], axis=0
    )
    np.testing.assert_array_equal(picture.view, expected)
    assert picture.geometry == Geometry((16, 12), (16, 12), (0, 0, 16, 12))
    assert len(picture.facts.sha256) == 64


def test_shrunk_views_fill_a_canvas_of_odd_size():
    views = [np.full((9, 7, 3), 50 * k, np.uint8) for k in range(1, 5)]
    picture = laid_out(four(), views, (7, 9))
    for view, (rows, columns) in zip(views, cells((7, 9)), strict=True):
        assert (picture.view[rows, columns] == view[0, 0, 0]).all()
    assert sum((r.stop - r.start) * (c.stop - c.start) for r, c in cells((7, 9))) == 63


def test_the_quarter_of_a_class_is_its_picture():
    for number, (rows, columns) in enumerate(cells((7, 9))):
        mask = quarter_mask(four(), (7, 9), 10 + number)
        assert mask[rows, columns].all()
        assert mask.sum() == mask[rows, columns].size
    assert quarter_mask(four(), (7, 9), 9) is None
    assert quarter_mask(four(), (7, 9), None) is None


def test_a_perfect_map_scores_one_a_uniform_one_a_quarter_and_noise_about_that():
    geometry = Geometry((32, 32), (32, 32), (0.0, 0.0, 32.0, 32.0))
    mask = quarter_mask(four(), (32, 32), 11)
    perfect = np.full((8, 8), -1.0, np.float32)
    perfect[1:3, 5:7] = 1.0  # not at the border, over which interpolation spreads it
    assert localisation.energy(perfect, geometry, mask) == 1.0
    uniform = np.ones((7, 7), np.float32)
    assert localisation.energy(uniform, geometry, mask) == pytest.approx(0.25)
    generator = np.random.default_rng(0)
    noise = [
        localisation.energy(generator.random((7, 7), np.float32), geometry, mask)
        for _ in range(500)
    ]
    assert np.mean(noise) == pytest.approx(0.25, abs=0.01)


class OneSize(nn.Module):
    """Refuses any picture but those of its own size, as a vision transformer does."""

    def __init__(self, inner: nn.Module, size: int) -> None:
        super().__init__()
        self.inner, self.size = inner, size

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] != self.size:
            raise AssertionError("wrong size")
        return self.inner(x)


def test_a_network_that_takes_larger_pictures_gets_views_at_their_own_size():
    model = convolutional()
    width, height = model.preprocessing.size
    assert canvas_of(model).preprocessing.size == (2 * width, 2 * height)
    fixed = as_model(OneSize(model.network.module, width), 4, width)
    modes = [module.training for module in fixed.network.module.modules()]
    assert canvas_of(fixed) is fixed
    assert [module.training for module in fixed.network.module.modules()] == modes


class Colours(nn.Module):
    """Four classes: how much red, green, blue and black there is, each by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 2, stride=2)
        with torch.no_grad():
            self.conv.weight.zero_()
            for k in range(3):
                self.conv.weight[k, k] = 1.0
            self.conv.weight[3] = -1.0
            self.conv.bias.copy_(torch.tensor([-2.0, -2.0, -2.0, -8.0]))
        self.relu = nn.ReLU()
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4, bias=False)
        )
        with torch.no_grad():
            self.head[2].weight.copy_(4 * torch.eye(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.relu(self.conv(x)))


def explanations(size: int, count: int = 8) -> list[Explanation]:
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 0, 0)]
    found = []
    for number in range(count):
        view = np.zeros((size, size, 3), np.uint8)
        view[:] = colours[number % 4]
        plain = noise_pictures(as_model(Colours(), 4, size), 1)[0]
        ref = ImageRef(f"{number}.png", f"{number}.png")
        image: Decoded = replace(plain, ref=ref, view=view)
        predictions = (Prediction(number % 4, str(number % 4), 1.0, 0.9),)
        found.append(Explanation(image, "small", predictions, ()))
    return found


@pytest.mark.parametrize("larger", [True, False])
def test_maps_that_account_for_the_score_point_at_their_own_picture(larger):
    size = 16
    module: nn.Module = Colours() if larger else OneSize(Colours(), size)
    model = as_model(module, 4, size)
    engine = Engine(model, methods=["hirescam", "eigencam"], batch_size=4)
    played = Games(GRID, check=False, seed=0)
    for explanation in explanations(size):
        played.add(explanation)
    played.play(engine)
    grid = played.grid
    assert grid is not None
    assert len(grid.keys) == 2
    assert [row.method for row in grid.rows] == ["hirescam", "eigencam", "(random)", "(edges)"]
    hirescam, eigencam, random, _ = grid.values(GRID).mean(axis=0)
    assert hirescam > 0.85  # what interpolation spreads over the borders is missing
    assert eigencam == pytest.approx(0.25, abs=0.1)  # one map for all four classes
    assert random == pytest.approx(0.25, abs=0.05)
    side = 32 if larger else 16
    assert f"2 mosaics of {side}x{side} pixels" in played.remarks[0]
    assert ("shrunk" in played.remarks[0]) is not larger


def test_too_few_classes_are_one_sentence():
    played = Games(GRID, check=False, seed=0)
    for explanation in explanations(16, count=3):
        played.add(explanation)
    engine = Engine(as_model(live_in(Colours(), 16), 4, 16), methods=["hirescam"], batch_size=4)
    played.play(engine)
    assert played.grid is None
    assert played.remarks == [
        "grid_pointing has no value: of 3 pictures, 3 of 3 classes are predicted with 50% or more, "
        "and a mosaic needs four classes."
    ]


def test_the_views_that_are_kept_are_bounded(monkeypatch):
    monkeypatch.setattr(games, "_MOST_KEPT", 2)
    played = Games(GRID, check=True, seed=0)
    for explanation in explanations(16):
        played.add(explanation)
    assert len(played._candidates) == 2
    assert len(played._first) == 8
