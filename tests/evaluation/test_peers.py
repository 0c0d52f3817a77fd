"""pytorch-grad-cam, captum, Quantus and torchmetrics as oracles of the metrics that they have too.

Not compared, for what they measure is something else: Quantus' Infidelity, whose blocks add up
instead of being taken away one at a time; its Completeness, which asks two floats to be equal; and
its ROAD, which counts right predictions (its imputation is compared).
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from camcli.engine import Engine
from camcli.evaluation import perturbation
from camcli.evaluation.answers import Answers
from camcli.evaluation.imputation import imputed
from camcli.evaluation.localisation import energy, hits, overlaps
from camcli.evaluation.similarity import rank_correlation, structural_similarity
from camcli.evaluation.subject import Subject
from camcli.images.geometry import Geometry
from camcli.models.fallback import import_torchvision
from camcli.records import Explanation, Target
from camcli.registry import METRICS
from tests.evaluation.made import SIZE, convolutional, picture, random_maps, subject_of

pytestmark = pytest.mark.peers


@pytest.fixture(scope="module")
def subject() -> Subject:
    model = convolutional()
    return subject_of(model, picture(model), random_maps(6), [Target(1)])


def test_pytorch_grad_cams_imputer_solves_the_same_system() -> None:
    from pytorch_grad_cam.metrics.road import NoisyLinearImputer

    generator = torch.Generator().manual_seed(0)
    for share in (0.1, 0.5, 0.9):
        view = torch.randn(3, 40, 30, generator=generator)
        gone = torch.rand(40, 30, generator=generator) < share
        theirs = NoisyLinearImputer(noise=0)(view, (~gone).float())
        ours = imputed(view[None], gone[None])[0]
        assert (ours - theirs).abs().max() < 1e-3


def test_pytorch_grad_cams_drop_is_this_one_before_it_is_divided() -> None:
    from pytorch_grad_cam.metrics.cam_mult_image import DropInConfidence, IncreaseInConfidence
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget

    model, gained = convolutional(), []
    module = model.network.module
    for index in range(4):
        subject = subject_of(model, picture(model), random_maps(6), [Target(index)])
        heat = np.maximum(subject.heat, 0)
        cams = heat / heat.max(axis=(1, 2), keepdims=True)
        views = subject.view.expand(len(cams), -1, -1, -1)
        given = views, cams, [ClassifierOutputSoftmaxTarget(index)] * len(cams)
        ours = np.array(METRICS["average_drop"].function(subject)) * subject.chance.numpy()
        np.testing.assert_allclose(ours, DropInConfidence()(*given, module), atol=1e-6)
        gains = IncreaseInConfidence()(*given, module).tolist()
        assert list(METRICS["increase_in_confidence"].function(subject)) == gains
        gained += gains
    assert {*gained} == {0, 1}


def test_captums_normalised_infidelity_is_this_one_before_it_is_divided(subject: Subject) -> None:
    from captum.metrics import infidelity

    masks = torch.zeros(perturbation.SQUARES, 1, SIZE, SIZE)
    for mask, (side, top, left) in zip(
        masks, perturbation._squares(subject).T.long().tolist(), strict=True
    ):
        mask[:, top : top + side, left : left + side] = 1

    def remove(views: Tensor) -> tuple[Tensor, Tensor]:
        return masks.expand(-1, 3, -1, -1), views * (1 - masks)

    module, view = subject.answers.model.network.module, subject.view[None]
    with torch.no_grad():
        scores = module(view * (1 - masks))[:, 1]
        total = float((module(view)[:, 1] - scores).double().square().mean())
    compared = 0
    for heat, ours in zip(subject.heat, METRICS["infidelity"].function(subject), strict=True):
        attribution = torch.zeros_like(view)
        attribution[:, 0] = torch.from_numpy(heat)  # captum sums over the channels
        theirs = infidelity(
            module, remove, view, attribution, target=1,
            n_perturb_samples=perturbation.SQUARES, normalize=True,
        )  # fmt: skip
        if ours < 1:  # captum lets a map be turned around by a negative factor
            compared += 1
            assert float(theirs) / total == pytest.approx(ours, rel=1e-3)
    assert compared >= 2


def test_captums_sensitivity_is_this_one(subject: Subject) -> None:
    from captum.metrics import sensitivity_max

    model = subject.answers.model
    engine = Engine(model, methods=["hirescam", "layercam"], target="1", batch_size=16)
    with engine.prepared():
        (explanation,) = engine.explain([subject.image])
        assert isinstance(explanation, Explanation)
        own = Subject(explanation, Answers(model, 16), engine, 0)
        found = list(METRICS["max_sensitivity"].function(own))
        draw = torch.rand(10, 3, SIZE, SIZE, generator=own.generator("sensitivity"))
        for number, ours in enumerate(found[:2]):
            theirs = sensitivity_max(
                lambda views, n=number: (own.explained_again(torch.cat([*views]))[n],),
                (own.view[None],),
                lambda views, radius: (views[0] + (2 * draw - 1) * radius,),
            )
            assert float(theirs) == pytest.approx(ours, rel=1e-3)


@pytest.fixture(scope="module")
def quantus() -> ModuleType:
    import_torchvision()
    return pytest.importorskip("quantus", exc_type=ImportError)


@pytest.fixture(scope="module")
def torchmetrics() -> ModuleType:
    import_torchvision()
    return pytest.importorskip("torchmetrics.functional", exc_type=ImportError)


def asked(metric: Any, subject: Subject, maps: np.ndarray, **more: Any) -> list[Any]:
    """What a metric of Quantus says of maps (M, H, W) of the picture, for class 1."""
    views = subject.view.expand(len(maps), -1, -1, -1).numpy().copy()
    given: dict[str, Any] = {"a_batch": maps[:, None].copy(), "channel_first": True, **more}
    targets = np.ones(len(maps), np.int64)
    return list(metric(subject.answers.model.network.module, views, targets, **given))


@pytest.mark.parametrize("name", ["deletion_mean", "insertion_mean"])
def test_quantus_pixel_flipping_draws_the_curve_of_deletion_and_insertion(
    quantus: ModuleType, subject: Subject, name: str
) -> None:
    """It takes values away, not pixels: every third of its steps has whole pixels."""
    view = subject.view.numpy()
    filled = np.broadcast_to(view.mean(axis=(1, 2), keepdims=True), view.shape)
    start, fill = (view, filled) if name == "deletion_mean" else (filled, view)

    def changed(arr: np.ndarray, indices: np.ndarray, **_: Any) -> np.ndarray:
        arr = arr.copy()
        np.put_along_axis(arr, indices, fill.reshape(-1)[indices], axis=1)
        return arr

    metric = quantus.PixelFlipping(
        features_in_step=SIZE * SIZE // 16, perturb_func=changed, normalise=False,
        disable_warnings=True,
    )  # fmt: skip
    heat = np.repeat(subject.heat[:6, None], 3, axis=1)
    curves = metric(
        subject.answers.model.network.module, np.stack([start] * 6), np.ones(6, np.int64),
        a_batch=heat, channel_first=True, softmax=True,
    )  # fmt: skip
    ends = subject.answers.logits(1, lambda _: torch.from_numpy(start.copy())[None]).softmax(dim=1)
    heights = np.concatenate([np.full((6, 1), float(ends[0, 1])), np.array(curves)[:, 2::3]], 1)
    assert heights.shape == (6, 17)
    areas = (heights[:, 1:] + heights[:, :-1]).sum(axis=1) / 32
    np.testing.assert_allclose(METRICS[name].function(subject)[:6], areas, rtol=1e-4)


def test_quantus_imputation_solves_the_same_system(quantus: ModuleType) -> None:
    from quantus.functions.perturb_func import noisy_linear_imputation

    generator = torch.Generator().manual_seed(0)
    for share in (0.1, 0.5, 0.9):
        view = torch.randn(3, 30, 30, generator=generator)
        gone = torch.rand(30, 30, generator=generator) < share
        theirs = noisy_linear_imputation(view.numpy(), gone.flatten().nonzero()[:, 0].numpy(), 0.0)
        ours = imputed(view[None], gone[None])[0]
        assert np.abs(ours.numpy() - theirs).max() < 1e-3


def test_quantus_sensitivity_is_this_one(quantus: ModuleType) -> None:
    from quantus.functions.norm_func import fro_norm
    from quantus.functions.similarity_func import difference

    model = subject_of(convolutional(), picture(convolutional()), random_maps(1)).answers.model
    engine = Engine(model, methods=["hirescam"], target="1", batch_size=16)
    with engine.prepared():
        (explanation,) = engine.explain([picture(model)])
        assert isinstance(explanation, Explanation)
        own = Subject(explanation, Answers(model, 16), engine, 0)
        ours = METRICS["max_sensitivity"].function(own)[0]
        draw = torch.rand(10, 3, SIZE, SIZE, generator=own.generator("sensitivity"))
        noise = iter(((2 * draw - 1) * perturbation.RADIUS).reshape(10, 1, -1).numpy())

        def explain(inputs: np.ndarray, **_: Any) -> np.ndarray:
            maps = own.explained_again(torch.from_numpy(inputs))[0]
            # It wants maps of the input's shape: zeros around them add nothing to a norm.
            return torch.nn.functional.pad(maps, (0, SIZE - 6, 0, SIZE - 6))[:, None].numpy()

        metric = quantus.MaxSensitivity(
            nr_samples=10, similarity_func=difference, norm_numerator=fro_norm,
            norm_denominator=fro_norm, perturb_func=lambda arr, **_: arr + next(noise),
            abs=False, normalise=False, disable_warnings=True,
        )  # fmt: skip
        (theirs,) = asked(metric, own, explain(own.view[None].numpy())[:, 0], explain_func=explain)
    assert float(theirs) == pytest.approx(ours, rel=1e-3)


def test_quantus_sparseness_is_this_one(quantus: ModuleType, subject: Subject) -> None:
    metric = quantus.Sparseness(normalise=False, disable_warnings=True)
    ours = METRICS["sparseness"].function(subject)
    np.testing.assert_allclose(ours, asked(metric, subject, subject.heat), rtol=1e-4)


def test_quantus_games_are_these_ones_on_a_picture_that_is_seen_whole(
    quantus: ModuleType, subject: Subject
) -> None:
    """Without a tolerance around the object; its mass counts what is negative too, not so ours."""
    whole = Geometry((SIZE, SIZE), (SIZE, SIZE), (0.0, 0.0, float(SIZE), float(SIZE)))
    maps = np.stack([*random_maps(40, (SIZE, SIZE)).values()]).astype(np.float32)
    mask = np.zeros((SIZE, SIZE), bool)
    mask[5:20, 3:14] = True
    masks = np.repeat(mask[None, None], len(maps), axis=0)
    game = quantus.PointingGame(normalise=False, disable_warnings=True)
    theirs = asked(game, subject, maps, s_batch=masks)
    assert {*map(bool, theirs)} == {True, False}
    assert [hits(one, whole, mask, tolerance=0) for one in maps] == [*map(bool, theirs)]
    mass = quantus.RelevanceMassAccuracy(normalise=False, disable_warnings=True)
    shares = asked(mass, subject, np.maximum(maps, 0), s_batch=masks)
    np.testing.assert_allclose([energy(one, whole, mask) for one in maps], shares, rtol=1e-5)


def test_torchmetrics_has_the_same_likeness_of_maps(torchmetrics: ModuleType) -> None:
    from torchmetrics.functional.image import structural_similarity_index_measure

    one, other = random_maps(2, (14, 11)).values()
    for second in (other, one + 0.3 * other, -one):
        first, last = torch.from_numpy(one), torch.from_numpy(second)
        ranks = torchmetrics.spearman_corrcoef(first.flatten(), last.flatten())
        assert rank_correlation(one, second) == pytest.approx(float(ranks), abs=1e-6)
        drawn = [(m.clamp(min=0) / m.max())[None, None] for m in (first, last)]
        _, local = structural_similarity_index_measure(
            *drawn, gaussian_kernel=False, kernel_size=7, data_range=1.0, return_full_image=True
        )
        alike = local[..., 3:-3, 3:-3].mean()  # its mean is over mirrored windows too
        assert structural_similarity(one, second) == pytest.approx(float(alike), abs=1e-6)


def test_torchmetrics_has_the_same_overlap_with_an_object(torchmetrics: ModuleType) -> None:
    whole = Geometry((SIZE, SIZE), (SIZE, SIZE), (0.0, 0.0, float(SIZE), float(SIZE)))
    (values,) = random_maps(1, (SIZE, SIZE)).values()
    mask = np.zeros((SIZE, SIZE), bool)
    mask[5:20, 3:14] = True
    found = overlaps(values.astype(np.float32), whole, mask)
    heat = torch.from_numpy(np.maximum(values, 0).astype(np.float32))
    for number in (1, 15, 50, 99):
        theirs = torchmetrics.classification.binary_jaccard_index(
            heat / heat.max(), torch.from_numpy(mask).long(), threshold=number / 100
        )
        assert found[number - 1] == pytest.approx(float(theirs), abs=1e-6)
