"""Which pictures a metric measures, and what becomes of a picture's values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from camcli.cam import targets as scores
from camcli.evaluation.answers import Answers
from camcli.evaluation.baselines import EDGES, RANDOM
from camcli.evaluation.measuring import Measurements, Row, sampled
from camcli.evaluation.subject import Subject
from camcli.records import Explanation, Target
from camcli.registry import Metric
from tests.evaluation.made import cam, linear, picture

KEYS = [f"{n:03}.jpg" for n in range(200)]


def test_a_smaller_sample_is_part_of_a_larger_one_and_keeps_the_order() -> None:
    few, ranks = sampled(KEYS, str, 0, 30)
    more, more_ranks = sampled(KEYS, str, 0, 100)
    every, all_ranks = sampled(reversed(KEYS), str, 0, None)
    assert few == sorted(few)
    assert (len(few), every) == (30, KEYS[::-1])
    assert few == [key for key in more if more_ranks[key] < 30]
    assert all(all_ranks[key] == ranks[key] for key in few)
    other, _ = sampled(KEYS, str, 1, 30)
    assert len({*few} & {*other}) < 20
    assert 60 < np.mean([int(key[:3]) for key in more]) < 140  # not those at the beginning


def measured(function: object, pictures: int | None = None) -> tuple[Measurements, Metric]:
    model = linear()
    metric = Metric("own", "own", "none", "higher", "complexity", "maps", pictures, function)
    keys = ["0.png", "1.png", "2.png"]
    ranks = dict(zip(keys, (2, 0, 1), strict=True))
    found = Measurements(Answers(model, 4), None, [metric], {"own": pictures}, ranks, 0)
    for number, key in enumerate(keys):
        image = picture(model, number)
        image = replace(image, ref=image.ref._replace(key=key))
        maps = [cam(m, np.eye(3) * (n + 1), Target(n)) for m in ("a", "b") for n in (0, 1)]
        if key == "1.png":
            maps.append(cam("broken", np.full((3, 3), np.nan), Target(0)))
        found.add(Explanation(image, "small", (), tuple(maps)))
    return found, metric


def test_a_picture_has_the_mean_over_its_targets() -> None:
    def targets(subject: Subject) -> Sequence[float | None]:
        return [None if one.method == "b" and one.target.index == 0 else float(one.target.index)
                for one in subject.cams]  # fmt: skip

    found, metric = measured(targets)
    assert found.rows == [
        Row("a", "layer"), Row("b", "layer"), Row("broken", "layer"), Row(RANDOM, ""),
        Row(EDGES, "")]  # fmt: skip
    nan = math.nan
    np.testing.assert_array_equal(found.values(metric), [[0.5, 1, nan, 0.5, 0.5]] * 3)


def test_methods_that_have_the_same_maps_on_every_picture_are_told() -> None:
    model = linear()
    found = Measurements(Answers(model, 4), None, [], {}, {}, 0)
    one, other = np.eye(3), np.eye(3)[::-1]
    often = [{"a": one, "b": one, "c": other, "d": other}, {"a": other, "b": other, "c": other,
             "d": one}]  # fmt: skip
    for number, maps in enumerate(often):
        cams = tuple(cam(name, values, Target(n)) for name, values in maps.items() for n in (0, 1))
        found.add(Explanation(picture(model, number), "small", (), cams))
    assert found.same == {Row("a", "layer"): [Row("b", "layer")]}


def test_a_metric_measures_the_pictures_of_the_lowest_ranks() -> None:
    found, metric = measured(lambda subject: [1.0] * len(subject.cams), pictures=2)
    assert found.keys == ["0.png", "1.png", "2.png"]
    assert found.keys_of(metric) == ["1.png", "2.png"]
    assert found.values(metric).shape == (2, 5)


def test_answers_are_the_same_in_any_number_of_chunks() -> None:
    model = linear()
    views = torch.randn(7, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    whole = Answers(model, 16).logits(7, lambda chosen: views[chosen])
    asked = Answers(model, 3)
    torch.testing.assert_close(asked.logits(7, lambda chosen: views[chosen]), whole)
    assert asked.asked == 9  # three chunks of three; the last one is filled up


def test_memory_that_runs_out_halves_the_chunks() -> None:
    model = linear()
    views = torch.randn(8, 3, 24, 24, generator=torch.Generator().manual_seed(0))

    def make(chosen: torch.Tensor) -> torch.Tensor:
        if len(chosen) > 2:
            raise MemoryError
        return views[chosen]

    answers = Answers(model, 8)
    torch.testing.assert_close(
        answers.logits(8, make), Answers(model, 8).logits(8, lambda chosen: views[chosen])
    )
    assert answers.batch_size == 2


def test_chances_are_probabilities_of_classes_contrasts_and_counterfactuals() -> None:
    model = linear()
    logits = torch.tensor([[1.0, 3.0, 0.5]] * 3)
    targets = [Target(1), Target(None, 1), Target(1, 2)]
    one, against, contrast = Answers(model, 4).chances(logits, targets).tolist()
    chance = math.exp(3) / (math.exp(1) + math.exp(3) + math.exp(0.5))
    assert math.isclose(one, chance, rel_tol=1e-6)
    assert math.isclose(against, 1 - chance, rel_tol=1e-5)
    assert math.isclose(contrast, 1 / (1 + math.exp(-2.5)), rel_tol=1e-6)
    assert scores.score(logits, targets).tolist() == [3.0, -3.0, 2.5]
