"""pytorch-grad-cam and captum as oracles of the metrics that they have too."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from camcli.engine import Engine
from camcli.evaluation import perturbation
from camcli.evaluation.answers import Answers
from camcli.evaluation.imputation import imputed
from camcli.evaluation.subject import Subject
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
