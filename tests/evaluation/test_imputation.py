"""The linear system of ROAD against the same written out as a matrix."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from camcli.evaluation.imputation import imputed
from tests.evaluation import replicas


def scene(height: int, width: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, 3, 4, 4, generator=generator)
    wide = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")
    return wide + 0.2 * torch.randn(wide.shape, generator=generator)


@settings(max_examples=25)
@given(
    st.integers(1, 14), st.integers(2, 14), st.floats(0.05, 0.95), st.booleans(), st.integers(0, 99)
)
def test_pixels_become_the_solution_of_the_linear_system(
    height: int, width: int, share: float, blotchy: bool, seed: int
) -> None:
    view = scene(height, width, seed)
    generator = torch.Generator().manual_seed(seed)
    scattered = torch.rand(height, width, generator=generator)
    order = scene(height, width, seed + 1)[0, 0] if blotchy else scattered
    gone = order.flatten().argsort().argsort().reshape(height, width) < share * (height * width - 1)
    found = imputed(view, gone[None])[0].double().numpy()
    expected = replicas.imputed(view[0].double().numpy(), gone.numpy())
    assert np.abs(found - expected).max() < 1e-4  # a hundredth of the noise that is added


def test_a_large_hole_is_filled_to_a_hundredth_of_the_noise() -> None:
    view = scene(40, 40, 0)
    gone = torch.zeros(1, 40, 40, dtype=torch.bool)
    gone[:, 3:, 2:38] = True
    expected = replicas.imputed(view[0].double().numpy(), gone[0].numpy())
    assert np.abs(imputed(view, gone)[0].double().numpy() - expected).max() < 1e-4


def test_what_is_known_stays_to_the_bit_and_pictures_do_not_mix() -> None:
    views = torch.cat([scene(16, 16, 0), 1000 * scene(16, 16, 1)])
    gone = torch.rand(2, 16, 16, generator=torch.Generator().manual_seed(0)) < 0.5
    together = imputed(views, gone)
    known = ~gone[:, None].expand_as(views)
    assert torch.equal(together[known], views[known])
    alone = imputed(views[:1], gone[:1])
    torch.testing.assert_close(together[:1], alone, rtol=0, atol=1e-5)


def test_nothing_gone_changes_nothing_and_a_flat_view_stays_flat() -> None:
    view = scene(9, 7, 0)
    assert torch.equal(imputed(view, torch.zeros(1, 9, 7, dtype=torch.bool)), view)
    flat = torch.full((1, 3, 9, 7), -2.5)
    gone = torch.ones(1, 9, 7, dtype=torch.bool)
    gone[:, 4, 4] = False
    torch.testing.assert_close(imputed(flat, gone), flat, rtol=1e-4, atol=0)


def test_nothing_is_left_where_all_is_gone() -> None:
    found = imputed(scene(8, 8, 0), torch.ones(1, 8, 8, dtype=torch.bool))
    assert not found.any()
