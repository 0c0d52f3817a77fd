"""A map has the same bits whatever is explained beside it, and in the same pass."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.models.vision_transformer import VisionTransformer

import camcli
from camcli.cam.targets import Classes
from camcli.engine import Engine
from camcli.errors import UsageError
from camcli.models.loaded import LoadedModel
from camcli.records import Cam, Decoded, Explanation, Failure, ImageRef, Target
from tests.conftest import as_model, live_in, noise_pictures

BATCH = 4


@pytest.fixture(scope="module")
def built_in() -> LoadedModel:
    return camcli.open_model()


@pytest.fixture(scope="module")
def transformer() -> LoadedModel:
    torch.manual_seed(0)
    module = VisionTransformer(
        image_size=64,
        patch_size=8,
        num_layers=3,
        num_heads=4,
        hidden_dim=64,
        mlp_dim=128,
        num_classes=10,
    )
    return as_model(live_in(module), 10)


@pytest.fixture(params=["built_in", "transformer"])
def model(request: pytest.FixtureRequest) -> LoadedModel:
    found: LoadedModel = request.getfixturevalue(request.param)
    return found


def explained(engine: Engine, pictures: Sequence[Decoded]) -> list[Explanation]:
    with engine.prepared():
        outcomes = engine.explain(pictures)
    assert all(isinstance(outcome, Explanation) for outcome in outcomes)
    return outcomes


def assert_same(one: Explanation, other: Explanation) -> None:
    """Equal to the last bit."""
    assert one.ref == other.ref
    assert one.predictions == other.predictions
    assert_same_cams(one.cams, other.cams)


def assert_same_cams(ones: Sequence[Cam], others: Sequence[Cam]) -> None:
    for one, other in zip(ones, others, strict=True):
        assert one.cam.tobytes() == other.cam.tobytes()
        blank = np.zeros(0, np.float32)
        assert replace(one, cam=blank) == replace(other, cam=blank)


@pytest.mark.parametrize(
    "batches",
    [
        [[3], [1], [0], [4], [2], [5]],
        [[0, 1, 2, 3], [4, 5]],
        [[5, 4, 3, 2], [1, 0]],
        [[2, 0, 5], [1, 4, 3]],
        [[4, 4, 4, 4], [1, 2], [0, 5, 3]],
    ],
    ids=str,
)
def test_a_map_has_the_same_bits_alone_in_any_place_and_beside_any_other(
    model: LoadedModel, batches: list[list[int]]
) -> None:
    pictures = noise_pictures(model, 6)
    engine = Engine(model, methods=["hirescam", "gradcam"], batch_size=BATCH)
    expected = [explained(engine, [picture])[0] for picture in pictures]
    assert len({e.cams[0].cam.tobytes() for e in expected}) == 6
    for batch in batches:
        for number, got in zip(batch, explained(engine, [pictures[n] for n in batch]), strict=True):
            assert_same(got, expected[number])


def test_another_engine_gives_the_same_bits(model: LoadedModel) -> None:
    pictures = noise_pictures(model, 2)
    one, other = (explained(Engine(model, batch_size=BATCH), pictures) for _ in range(2))
    for a, b in zip(one, other, strict=True):
        assert_same(a, b)


def test_the_batch_size_changes_maps_by_rounding_alone(model: LoadedModel) -> None:
    pictures = noise_pictures(model, 3)
    one = explained(Engine(model, batch_size=3), pictures)
    other = [explained(Engine(model, batch_size=1), [picture])[0] for picture in pictures]
    for a, b in zip(one, other, strict=True):
        largest = float(np.abs(a.cams[0].cam).max())
        np.testing.assert_allclose(a.cams[0].cam, b.cams[0].cam, rtol=0, atol=1e-4 * largest)
        assert a.cams[0].score == pytest.approx(b.cams[0].score, rel=1e-4)


METHODS = ["gradcam", "hirescam"]
TARGETS = ["3", "7-2", "-5"]


def test_methods_and_targets_from_one_pass_equal_those_of_single_runs(model: LoadedModel) -> None:
    pictures = noise_pictures(model, 3)
    together = Engine(model, methods=METHODS, target=",".join(TARGETS), batch_size=BATCH)
    singles = [
        explained(Engine(model, methods=[method], target=target, batch_size=BATCH), pictures)
        for target in TARGETS
        for method in METHODS
    ]
    for n, explanation in enumerate(explained(together, pictures)):
        assert_same_cams(explanation.cams, [single[n].cams[0] for single in singles])
        distinct = {cam.cam.tobytes() for cam in explanation.cams}
        pooled = together.probes[together.layers[0]].pooled  # there the two methods coincide
        assert len(distinct) >= (3 if pooled else 6)


def test_layers_from_one_pass_equal_those_of_single_runs(built_in: LoadedModel) -> None:
    pictures = noise_pictures(built_in, 3)
    layers = ["blocks.4", "auto", "blocks.2"]
    together = Engine(built_in, methods=METHODS, layers=layers, target="3,7-2", batch_size=BATCH)
    for place, layer in enumerate(layers):
        alone = Engine(built_in, methods=METHODS, layers=[layer], target="3,7-2", batch_size=BATCH)
        pairs = zip(explained(together, pictures), explained(alone, pictures), strict=True)
        for many, one in pairs:
            chosen = [cam for cam in many.cams if cam.layer == together.layers[place].name]
            assert_same_cams(chosen, one.cams)


def test_layers_of_a_transformer_from_one_pass_equal_single_runs_to_rounding(transformer) -> None:
    """Recording a graph makes torch choose another attention kernel, hence not to the bit."""
    pictures = noise_pictures(transformer, 3)
    layers = ["encoder.layers.encoder_layer_0", "encoder.layers.encoder_layer_2.ln_1"]
    together = explained(Engine(transformer, layers=layers, batch_size=BATCH), pictures)
    for place, layer in enumerate(layers):
        alone = explained(Engine(transformer, layers=[layer], batch_size=BATCH), pictures)
        for many, one in zip(together, alone, strict=True):
            assert many.cams[place].layer == layer
            largest = float(np.abs(one.cams[0].cam).max())
            np.testing.assert_allclose(
                many.cams[place].cam, one.cams[0].cam, rtol=0, atol=1e-5 * largest
            )


def test_pictures_of_a_batch_may_ask_for_different_numbers_of_targets(transformer) -> None:
    pictures = noise_pictures(transformer, 3)
    engine = Engine(transformer, batch_size=BATCH)
    rules = {
        "0.png": (Target(1),),
        "1.png": (),
        "2.png": (Target(2), Target(0, 4), Target(None, 1)),
    }
    engine.choose = lambda ref, ranked: rules[ref.path]
    got = explained(engine, pictures)
    assert [tuple(cam.target for cam in e.cams) for e in got] == list(rules.values())
    alone = Engine(transformer, target="2,0-4,-1", batch_size=BATCH)
    assert_same_cams(got[2].cams, explained(alone, pictures[2:])[0].cams)


def test_a_picture_without_a_target_fails_and_its_neighbours_do_not(transformer) -> None:
    known = replace(transformer, classes=Classes(10, tuple("abcdefghij")))
    pictures = noise_pictures(known, 4)
    paths = ["/set/b/0.png", "/set/none/1.png", "/set/d/2.png", "/set/none/3.png"]
    placed = [
        replace(picture, ref=ImageRef(path, path))
        for picture, path in zip(pictures, paths, strict=True)
    ]
    engine = Engine(known, target="folder", batch_size=BATCH)
    with engine.prepared():
        one, failed, other, failed_too = engine.explain(placed)
        (only,) = engine.explain(placed[1:2])
    for outcome, path in ((failed, paths[1]), (failed_too, paths[3]), (only, paths[1])):
        assert isinstance(outcome, Failure)
        assert outcome.ref.path == path
        assert outcome.facts in [picture.facts for picture in pictures]
        assert (outcome.stage, outcome.type, outcome.transient) == (
            "target",
            "NoTargetError",
            False,
        )
        assert outcome.message.startswith("the folder 'none' is no class: no class 'none' among 10")
    fixed = Engine(known, target="b,d", batch_size=BATCH)
    expected = explained(fixed, [placed[0], placed[2]])
    assert_same_cams(one.cams, expected[0].cams[:1])
    assert_same_cams(other.cams, expected[1].cams[1:])


def test_predictions_are_the_likeliest_classes_in_order(model: LoadedModel) -> None:
    picture = noise_pictures(model, 1)[0]
    (explanation,) = explained(Engine(model, batch_size=1), [picture])
    with torch.no_grad():
        logits = model.network.module.eval()(model.inputs([picture.view]))[0]
    values, indices = logits.softmax(dim=0).topk(5)
    predictions = explanation.predictions
    assert [p.index for p in predictions] == indices.tolist()
    assert [p.probability for p in predictions] == pytest.approx(values.tolist(), rel=1e-5)
    assert [p.logit for p in predictions] == pytest.approx(logits[indices].tolist(), rel=1e-5)
    assert [p.label for p in predictions] == [model.classes.label(p.index) for p in predictions]
    assert explanation.cams[0].target == Target(predictions[0].index)
    assert explanation.cams[0].score == predictions[0].logit


def test_what_lies_on_the_class_token_is_recorded_as_outside_the_grid(transformer) -> None:
    """HiResCAM over all tokens is the grid's share plus the class token's."""
    pictures = noise_pictures(transformer, 2)
    engine = Engine(transformer, batch_size=2)
    (layer,) = engine.layers
    assert layer.name == "encoder.layers.encoder_layer_2.ln_1"
    assert engine.probes[layer].score == "bypassed"
    got = explained(engine, pictures)
    with engine.prepared():
        logits, (tokens,) = transformer.capture(
            transformer.inputs([p.view for p in pictures]), [layer]
        )
        (gradient,) = torch.autograd.grad(logits.max(dim=1).values.sum(), [tokens])
    share = (tokens.detach() * gradient).sum(dim=2)
    for n, explanation in enumerate(got):
        (cam,) = explanation.cams
        assert cam.outside_grid == pytest.approx(float(share[n, 0]), rel=1e-4)
        assert cam.outside_grid != 0
        np.testing.assert_allclose(cam.cam.reshape(-1), share[n, 1:], rtol=1e-4, atol=1e-6)
        assert (cam.baseline, cam.completeness_error, cam.location_error) == (None, None, None)
        assert not cam.faithful


@pytest.mark.parametrize(
    "blank", ["encoder.ln", "encoder.layers.encoder_layer_2", "encoder.layers.encoder_layer_2.ln_2"]
)
def test_a_layer_after_the_last_attention_is_refused_and_the_right_one_named(
    transformer, blank
) -> None:
    with pytest.raises(UsageError) as caught:
        Engine(transformer, layers=[blank])
    message = str(caught.value)
    assert message.startswith("the score of small does not depend on the places of 'encoder")
    assert message.endswith("use --layer encoder.layers.encoder_layer_2.ln_1")


def test_the_same_layer_under_two_names_is_explained_once(built_in: LoadedModel) -> None:
    engine = Engine(built_in, layers=["auto", "bn2", "blocks.4", "bn2"], methods=["hirescam"] * 2)
    assert [layer.name for layer in engine.layers] == ["bn2", "blocks.4"]
    assert len(engine.methods) == 1


def test_real_photographs_are_recognised_and_every_map_accounts_for_its_score(
    photos: Path, built_in: LoadedModel
) -> None:
    with open(photos / "labels.csv", newline="", encoding="utf-8") as file:
        labels = {row["path"]: int(row["class_index"]) for row in csv.DictReader(file)}
    paths = [photos / name for name in labels]
    outcomes = list(camcli.explain(paths, model=built_in))
    assert [outcome.ref.path for outcome in outcomes] == [str(path) for path in paths]
    right = sum(
        e.predictions[0].index == label for e, label in zip(outcomes, labels.values(), strict=True)
    )
    assert right >= 85
    for explanation in outcomes:
        (cam,) = explanation.cams
        assert cam.completeness_error <= 1e-5
        assert cam.faithful
        assert cam.status == "ok"
