"""Every metric against a slow replica, and against answers that are known."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from camcli import evaluation as _registered
from camcli.cam import targets as scores
from camcli.engine import Engine
from camcli.evaluation import perturbation, road
from camcli.evaluation.answers import Answers
from camcli.evaluation.baselines import EDGES, RANDOM
from camcli.evaluation.recorded import gini
from camcli.evaluation.subject import Subject
from camcli.models.loaded import LoadedModel
from camcli.records import Explanation, Target
from camcli.registry import METRICS
from tests.conftest import as_model
from tests.evaluation import replicas
from tests.evaluation.made import (
    SIZE,
    Share,
    cam,
    convolutional,
    linear,
    picture,
    random_maps,
    subject_of,
)

assert _registered.__all__
TARGETS = (Target(1), Target(2, 0), Target(None, 3))
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


def chance_of(model: LoadedModel, target: Target) -> replicas.Ask:
    """The probability of a target, from its definition: a class, a contrast, a counterfactual."""

    def ask(view: np.ndarray) -> float:
        with torch.no_grad():
            logits = model.logits(torch.from_numpy(view.astype(np.float32))[None])[0].double()
        if target.index is not None and target.against is not None:
            both = logits[[target.index, target.against]]
            return float(both.softmax(dim=0)[0])
        chances = logits.softmax(dim=0)
        if target.index is None:
            return 1 - float(chances[target.against])
        return float(chances[target.index])

    return ask


def score_of(model: LoadedModel, target: Target) -> replicas.Ask:
    def ask(view: np.ndarray) -> float:
        with torch.no_grad():
            logits = model.logits(torch.from_numpy(view.astype(np.float32))[None])
        return float(scores.score(logits.double(), [target]))

    return ask


@pytest.fixture(scope="module")
def subject() -> Subject:
    model = convolutional()
    return subject_of(model, picture(model), random_maps(2), TARGETS)


def once(fill: replicas.Fill) -> replicas.Fill:
    """The same fill, worked out a single time for all maps of a picture."""
    kept: dict[bytes, np.ndarray] = {}

    def filled(view: np.ndarray) -> np.ndarray:
        if view.tobytes() not in kept:
            kept[view.tobytes()] = fill(view)
        return kept[view.tobytes()]

    return filled


def expected(subject: Subject, replica: Callable, ask: Callable) -> list[float]:
    """The replica on every map, its own upsampling included."""
    view = subject.view.double().numpy()
    model = subject.answers.model
    heats = [replicas.on_view(one.cam.astype(float), SIZE, SIZE) for one in subject.cams]
    shuffled = torch.randperm(SIZE * SIZE, generator=subject.generator("ties"))
    ties = shuffled.argsort().reshape(SIZE, SIZE).numpy()
    return [
        replica(view, heat, ask(model, one.target), ties)
        for heat, one in zip(heats, subject.cams, strict=True)
    ]


@pytest.mark.parametrize(
    ("name", "replica"),
    [
        ("deletion_mean", partial(replicas.deletion, fill=once(replicas.mean_fill))),
        ("deletion_blur", partial(replicas.deletion, fill=once(replicas.blur_fill))),
        ("insertion_mean", partial(replicas.insertion, fill=once(replicas.mean_fill))),
        ("insertion_blur", partial(replicas.insertion, fill=once(replicas.blur_fill))),
        ("average_drop", replicas.average_drop),
        ("increase_in_confidence", replicas.increase_in_confidence),
    ],
)
def test_what_removal_says_is_what_the_paper_defines(
    name: str, replica: Callable, subject: Subject
) -> None:
    found = METRICS[name].function(subject)
    assert_close(list(found), expected(subject, replica, chance_of), **CLOSE)


@pytest.mark.parametrize("name", ["road_morf", "road_lerf"])
def test_road_is_what_the_paper_defines(name: str, subject: Subject) -> None:
    noise = torch.randn(subject.view.shape, generator=subject.generator("road")) * road.NOISE
    replica = partial(
        replicas.road, noise=noise.double().numpy(), most_relevant_first=name == "road_morf"
    )
    found = METRICS[name].function(subject)
    assert_close(list(found), expected(subject, replica, chance_of), rtol=1e-4, atol=1e-5)


def test_infidelity_is_what_the_paper_defines(subject: Subject) -> None:
    squares = perturbation._squares(subject).T.long().tolist()

    def replica(view: np.ndarray, heat: np.ndarray, ask: replicas.Ask, _: np.ndarray) -> float:
        return replicas.infidelity(view, heat, ask, squares)

    found = METRICS["infidelity"].function(subject)
    assert_close(list(found), expected(subject, replica, score_of), rtol=1e-3, atol=1e-4)


def test_squares_lie_within_the_view_and_have_all_sizes(subject: Subject) -> None:
    side, top, left = perturbation._squares(subject)
    assert (side.min(), side.max()) == (SIZE // 8, SIZE // 2)
    assert min(top.min(), left.min()) == 0
    assert (top + side).max() <= SIZE
    assert (left + side).max() <= SIZE


def test_max_sensitivity_is_what_the_paper_defines() -> None:
    model, image = convolutional(), None
    engine = Engine(model, methods=["hirescam"], target="1,2-0", batch_size=4)
    image = picture(model)
    with engine.prepared():
        (explanation,) = engine.explain([image])
        assert isinstance(explanation, Explanation)
        subject = Subject(explanation, Answers(model, 4), engine, 0)
        found = list(METRICS["max_sensitivity"].function(subject))
    module = model.network.module.double()
    try:
        draw = torch.rand(10, 3, SIZE, SIZE, generator=subject.generator("sensitivity"))
        noise = ((2 * draw - 1) * perturbation.RADIUS).double().numpy()
        view = subject.view.double().numpy()

        def hirescam(plus: int, minus: int | None) -> Callable[[np.ndarray], np.ndarray]:
            weight = module[-1].weight[plus] - (0 if minus is None else module[-1].weight[minus])

            def explain(own: np.ndarray) -> np.ndarray:
                with torch.no_grad():
                    activation = module[:4](torch.from_numpy(own)[None])[0]
                    return torch.einsum("c,chw->hw", weight, activation).numpy()

            return explain

        one, contrast, *baselines = found
        assert_close(
            one, replicas.max_sensitivity(hirescam(1, None), view, noise), rtol=1e-3, atol=0
        )
        again = replicas.max_sensitivity(hirescam(2, 0), view, noise)
        assert_close(contrast, again, rtol=1e-3, atol=0)
        edges = replicas.max_sensitivity(replicas.edges, view, noise)
        assert baselines[:2] == [0, 0]
        assert_close(baselines[2:], [edges] * 2, rtol=1e-4, atol=0)
    finally:
        module.float()


def test_sparseness_is_the_gini_index_of_the_map_on_the_view(subject: Subject) -> None:
    found = METRICS["sparseness"].function(subject)
    maps = [replicas.on_view(one.cam.astype(float), SIZE, SIZE) for one in subject.cams]
    assert_close(list(found), [replicas.gini(heat) for heat in maps], **CLOSE)


def test_the_gini_index_of_one_pixel_and_of_all_alike() -> None:
    one = np.zeros((4, 5), np.float32)
    one[2, 3] = -7
    assert gini(one) == pytest.approx(1 - 1 / 20)
    assert gini(np.full((4, 5), -2.0, np.float32)) == pytest.approx(0)
    assert gini(np.zeros((4, 5), np.float32)) is None


def test_hot_fraction_is_the_share_of_the_source_picture() -> None:
    model = linear()
    quarter = np.zeros((SIZE, SIZE))
    quarter[: SIZE // 2, : SIZE // 2] = 1
    maps = {"quarter": quarter, "cold": -quarter, "flat": quarter * 0}
    subject = subject_of(model, picture(model), maps)
    seen = 240 * 240 / (320 * 240)  # the rest was cropped away
    found = list(METRICS["hot_fraction"].function(subject))[:3]
    assert found == [pytest.approx(seen / 4), None, None]


def test_the_baselines_stand_behind_the_maps_and_know_nothing_of_the_target(
    subject: Subject,
) -> None:
    names = [one.method for one in subject.cams]
    assert names == ["map 0", "map 1"] * 3 + [RANDOM] * 3 + [EDGES] * 3
    assert [one.target for one in subject.cams[6:]] == [*TARGETS, *TARGETS]
    assert subject.cams[6].cam.shape == (4, 5)
    view = subject.view.double().numpy()
    assert_close(torch.from_numpy(subject.cams[-1].cam).double(),
                 torch.from_numpy(replicas.edges(view)), **CLOSE)  # fmt: skip


def test_the_perfect_map_of_a_linear_score_has_no_infidelity_and_its_negative_all() -> None:
    model = linear()
    image = picture(model)
    view = model.inputs([image.view])[0]
    weight = model.network.module[1].weight.detach()[1].reshape(3, SIZE, SIZE)
    perfect = (weight * view).sum(dim=0).numpy()
    maps = {"perfect": 5 * perfect, "negative": -perfect, "nothing": 0 * perfect}
    found = METRICS["infidelity"].function(subject_of(model, image, maps, [Target(1)]))
    one, negative, nothing, *_ = found
    assert one < 1e-8
    assert (negative, nothing) == (1, 1)


def linear_share() -> tuple[LoadedModel, torch.Tensor]:
    weight = torch.rand(SIZE, SIZE, generator=torch.Generator().manual_seed(1)) ** 4
    return as_model(Share(weight), 2, SIZE), weight / weight.sum()


def test_no_map_is_better_at_deletion_than_what_each_pixel_adds() -> None:
    """Where p is a sum over pixels, removing what adds most first gives the lowest curve."""
    model, weight = linear_share()
    image = picture(model)
    view = model.inputs([image.view])[0]
    drop = (view.mean(dim=0) - view.mean()) / 2 * weight
    maps = {"perfect": drop.numpy(), "reverse": -drop.numpy(), **random_maps(3, (SIZE, SIZE))}
    subject = subject_of(model, image, maps)
    best, worst, *others = METRICS["deletion_mean"].function(subject)
    steps = drop.double().flatten().sort(descending=True).values.cumsum(0)
    heights = [steps[round(k * SIZE**2 / 16) - 1] if k else 0 for k in range(17)]
    full = float(subject.chance[0])
    bound = full - sum(float(heights[k] + heights[k + 1]) / 2 / 16 for k in range(16))
    assert best == pytest.approx(bound, abs=1e-6)
    assert best < min(others)
    assert worst > max(others)
    inserted = METRICS["insertion_mean"].function(subject)
    assert inserted[0] == max(inserted)
    # What the one curve has lost the other has gained.
    assert inserted[0] + best == pytest.approx(full + float(subject.shared_chances(
        1, lambda _: view.mean(dim=(1, 2), keepdim=True).expand_as(view)[None])[0, 0]))  # fmt: skip


def test_a_random_map_has_the_expected_area_between_both_ends() -> None:
    """Where p is a sum over pixels, a random order gives a straight line on average."""
    model, _ = linear_share()
    image = picture(model)
    maps = random_maps(300, (SIZE, SIZE))
    subject = subject_of(model, image, maps)
    view = subject.view
    fill = view.mean(dim=(1, 2), keepdim=True).expand_as(view)
    empty = subject.shared_chances(1, lambda _: fill[None])[0, 0]
    areas = torch.tensor(METRICS["deletion_mean"].function(subject)[:300], dtype=torch.float64)
    line = float(subject.chance[0] + empty) / 2
    error = float(areas.std()) / 300**0.5
    assert 0 < error < 0.01 * line
    assert abs(float(areas.mean()) - line) < 4 * error


def test_all_metrics_of_a_map_are_those_of_its_multiples() -> None:
    model = convolutional()
    ((_, values),) = random_maps(1).items()
    subject = subject_of(model, picture(model), {"one": values, "four": 4 * values})
    for metric in METRICS.values():
        if metric.needs in ("maps", "forwards"):
            one, four, *_ = metric.function(subject)
            assert one == (None if four is None else pytest.approx(four, rel=1e-6)), metric.name


def test_a_value_does_not_depend_on_what_is_measured_beside_it() -> None:
    model, maps = convolutional(), random_maps(3)
    together = subject_of(model, picture(model), maps)
    alone = subject_of(model, picture(model), {"map 0": maps["map 0"]})
    for metric in METRICS.values():
        if metric.needs in ("maps", "forwards"):
            many, one = list(metric.function(together)), list(metric.function(alone))
            assert len(many) == 5
            assert (many[0] is None) == (one[0] is None)
            if one[0] is not None:
                assert_close(many[0], one[0], **CLOSE)


def test_maps_that_differ_by_rounding_are_asked_about_once_and_have_the_same_figures() -> None:
    model = convolutional()
    (_, first), (_, second) = random_maps(2).items()
    rounded = (first * (1 + 1e-6 * random_maps(1, seed=1)["map 0"])).astype(np.float32)
    assert not np.array_equal(rounded, first.astype(np.float32))
    maps = {"one": first, "two": second, "one again": rounded, "nearly": first * 1.001}
    subject = subject_of(model, picture(model), maps, TARGETS[:2])
    alone = subject_of(model, picture(model), {"two": second}, TARGETS[:2])
    for metric in METRICS.values():
        if metric.needs in ("maps", "forwards"):
            found, own = list(metric.function(subject)), list(metric.function(alone))
            assert (found[0], found[4]) == (found[2], found[6]), metric.name
            if own[0] is not None:
                assert_close([found[1], found[5]], own[:2], rtol=1e-4, atol=1e-6)
    again = subject_of(model, picture(model), maps, TARGETS[:2])
    METRICS["deletion_mean"].function(again)
    assert again.answers.asked == 15 * 5 + 2  # of each of five maps, and both ends


def test_ties_are_broken_at_random_and_alike_for_all_maps() -> None:
    model = linear()
    flat = np.ones((3, 3))
    subject = subject_of(model, picture(model), {"one": flat, "two": 2 * flat})
    one, two = subject.ranks[:2]
    assert torch.equal(one, two)
    assert sorted(one.flatten().tolist()) == list(range(SIZE * SIZE))
    half = one < SIZE * SIZE / 2
    assert 0.3 < half[: SIZE // 2].float().mean() < 0.7  # not the upper half first
    other = subject_of(model, picture(model), {"one": flat}, seed=1)
    assert not torch.equal(other.ranks[0], one)


def test_every_metric_has_a_card_and_says_what_it_costs() -> None:
    for metric in METRICS.values():
        assert metric.paper.startswith("arXiv "), metric.name
        assert "Cost: " in metric.doc, metric.name
        assert "Known to get wrong: " in metric.doc, metric.name


def test_a_map_that_is_not_finite_is_no_obstacle_to_the_others() -> None:
    model = linear()
    broken = np.full((3, 3), np.nan)
    subject = subject_of(model, picture(model), {"broken": broken, **random_maps(1)})
    alone = subject_of(model, picture(model), random_maps(1))
    found = METRICS["deletion_mean"].function(subject)
    assert np.isfinite(found).all()
    assert_close(found[1], METRICS["deletion_mean"].function(alone)[0], **CLOSE)
    assert cam("broken", broken, Target(0)).status == "nonfinite"
