"""The Python interface: what can be given, what comes back, and in which order."""

from __future__ import annotations

import io
import itertools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import camcli
from camcli.errors import ModelError, UsageError
from camcli.models.loaded import LoadedModel
from tests.conftest import as_model, live_in


@pytest.fixture(scope="module")
def small() -> LoadedModel:
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 8, stride=8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 8 * 8, 10)
    return as_model(live_in(nn.Sequential(*layers)), 10)


def same_map(one: camcli.Explanation, other: camcli.Explanation) -> bool:
    return one.cams[0].cam.tobytes() == other.cams[0].cam.tobytes()


def test_the_built_in_model_explains_a_file_by_default(picture) -> None:
    (explanation,) = camcli.explain([picture("a.png")])
    assert isinstance(explanation, camcli.Explanation)
    assert explanation.model == "efficientnet_lite0"
    (cam,) = explanation.cams
    assert (cam.method, cam.layer, cam.cam.shape) == ("hirescam", "bn2", (7, 7))
    assert cam.label == explanation.predictions[0].label
    assert cam.faithful


def test_the_same_picture_has_the_same_map_however_it_is_given(picture, small) -> None:
    path = picture("a.png", size=(90, 70))
    image = Image.open(path)
    given = [path, str(path), image, np.asarray(image), image.convert("RGBA")]
    first, *others = list(camcli.explain(given, model=small, batch_size=2))
    assert first.cams[0].cam.any()
    assert all(same_map(first, other) for other in others)


def test_outcomes_come_in_order_and_a_failure_takes_its_place(picture, small, tmp_path) -> None:
    (tmp_path / "text.jpg").write_text("no picture")
    good = [picture(f"{n}.png", seed=n) for n in range(5)]
    broken = [tmp_path / "missing.png", tmp_path / "text.jpg", np.zeros((4, 4, 3, 2), np.uint8)]
    given = [
        good[0],
        broken[0],
        good[1],
        Image.open(good[2]),
        broken[1],
        good[3],
        broken[2],
        good[4],
    ]
    outcomes = list(camcli.explain(given, model=small, batch_size=3))
    kinds = [type(outcome) is camcli.Explanation for outcome in outcomes]
    assert kinds == [True, False, True, True, False, True, False, True]
    missing, text, array = (o for o in outcomes if isinstance(o, camcli.Failure))
    assert (missing.ref.path, missing.stage, missing.type) == (
        str(broken[0]),
        "read",
        "FileNotFoundError",
    )
    assert (text.ref.path, text.stage) == (str(broken[1]), "decode")
    assert text.message == "not a picture that can be identified"
    assert (array.ref.path, array.stage) == ("<picture 6>", "read")
    alone = [next(camcli.explain([path], model=small, batch_size=3)) for path in good]
    explained = [o for o in outcomes if isinstance(o, camcli.Explanation)]
    assert all(same_map(one, other) for one, other in zip(explained, alone, strict=True))


def test_bytes_depend_neither_on_threads_nor_on_how_pictures_fall_into_batches(picture, small):
    paths = [picture(f"{n}.png", seed=n) for n in range(7)]
    expected = list(camcli.explain(paths, model=small, batch_size=4, workers=1))
    got = list(camcli.explain(reversed(paths), model=small, batch_size=4, workers=4))
    assert all(same_map(a, b) for a, b in zip(expected, reversed(got), strict=True))


def test_methods_layers_and_targets_are_given_by_name(picture, small) -> None:
    (explanation,) = camcli.explain(
        [picture("a.png")],
        model=small,
        method=["gradcam", "hirescam"],
        layer=["0", "1"],
        target="3,4",
    )
    assert [(c.target.index, c.layer, c.method) for c in explanation.cams] == [
        (target, layer, method)
        for target in (3, 4)
        for layer in ("0", "1")
        for method in ("gradcam", "hirescam")
    ]


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ({"method": "hirescan"}, "no method 'hirescan'; did you mean 'hirescam'?"),
        ({"layer": "7"}, "no layer '7' in small."),
        ({"target": "11"}, "no class '11' among 10."),
        ({"model": "resnet51"}, "no model 'resnet51'; did you mean 'resnet50'?"),
    ],
)
def test_a_mistake_is_raised_at_the_call_and_no_picture_is_read(small, mistake, message) -> None:
    def pictures() -> Iterator[str]:
        raise AssertionError("a picture was asked for")
        yield ""

    with pytest.raises(UsageError) as caught:
        camcli.explain(pictures(), **{"model": small, **mistake})
    assert str(caught.value).startswith(message)
    assert isinstance(caught.value, camcli.CamcliError)


def test_no_pictures_give_no_outcomes(small) -> None:
    assert list(camcli.explain([], model=small)) == []


def test_pictures_are_asked_for_as_they_are_needed(picture, small) -> None:
    path, asked = picture("a.png"), []

    def endless() -> Iterator[Path]:
        while True:
            asked.append(path)
            yield path

    outcomes = camcli.explain(endless(), model=small, batch_size=2, workers=2)
    assert asked == []
    for _ in range(5):
        next(outcomes)
    outcomes.close()
    assert len(asked) < 20


def test_a_picture_does_not_wait_for_a_batch_that_failures_never_fill(picture, small) -> None:
    given = itertools.chain([picture("a.png")], itertools.repeat("missing.png"))
    outcomes = camcli.explain(given, model=small, batch_size=2, workers=1)
    first, second = next(outcomes), next(outcomes)
    outcomes.close()
    assert isinstance(first, camcli.Explanation)
    assert isinstance(second, camcli.Failure)


def test_an_exception_in_the_callers_pictures_reaches_the_caller(picture, small) -> None:
    def pictures() -> Iterator[Path]:
        yield picture("a.png")
        raise KeyError("row 7")

    with pytest.raises(KeyError, match="row 7"):
        list(camcli.explain(pictures(), model=small, batch_size=1))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad])
def test_the_callers_grad_mode_holds_inside_the_loop(picture, small, mode) -> None:
    with mode():
        expected = torch.is_grad_enabled()
        seen = [
            torch.is_grad_enabled()
            for _ in camcli.explain([picture("a.png"), picture("b.png")], model=small, batch_size=1)
        ]
    assert seen == [expected, expected]


def test_the_callers_picture_stays_as_it_was(small) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 60, 3), np.uint8)
    image = Image.fromarray(pixels)
    before = pixels.copy()
    list(camcli.explain([pixels, image], model=small))
    assert (pixels == before).all()
    assert (np.asarray(image) == before).all()


def test_exif_orientation_counts_for_a_picture_in_memory_too(picture, small) -> None:
    upright = Image.open(picture("a.png", size=(90, 70)))
    turned = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by a quarter, clockwise, to see it upright
    upright.transpose(Image.Transpose.ROTATE_90).save(turned, "PNG", exif=exif)
    one, other = camcli.explain([upright, Image.open(turned)], model=small)
    assert same_map(one, other)
    assert other.image.exif_orientation == 6


def test_open_model_takes_preprocessing_by_keyword() -> None:
    model = camcli.open_model(size=(192, 192), resize=200, fit="pad")
    recipe = model.preprocessing
    assert (recipe.size, recipe.resize, recipe.fit) == ((192, 192), 200, "pad")
    assert recipe.interpolation == "bicubic"
    assert model.classes.label(0) == "tench"


HALF = (0.5, 0.5, 0.5)


def of_three_classes() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 4, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return live_in(nn.Sequential(*layers, nn.Linear(8, 3)), 32)


def test_open_model_takes_a_module_and_leaves_it_as_it_was(picture) -> None:
    module = of_three_classes().train()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    model = camcli.open_model(module, size=32, mean=HALF, std=HALF, labels=["cat", "dog", "emu"])
    (explanation,) = camcli.explain([picture("a.png")], model=model)
    assert (explanation.model, model.weights) == ("Sequential", "the module's own")
    assert (model.preprocessing.size, model.labels) == ((32, 32), "the caller")
    assert explanation.predictions[0].label in ("cat", "dog", "emu")
    assert explanation.cams[0].faithful
    assert model.remarks == (
        "Pictures are prepared at 32x32 as said by flags (--size, --mean, --std); usual "
        "interpolation and fit.",
    )
    assert module.training
    assert all(parameter.requires_grad for parameter in module.parameters())
    torch.testing.assert_close(dict(module.state_dict()), before, rtol=0, atol=0)


def test_a_compiled_module_is_the_one_that_was_compiled(picture) -> None:
    module = of_three_classes()
    recipe = {"size": 32, "mean": HALF, "std": HALF}
    models = [camcli.open_model(m, **recipe) for m in (module, torch.compile(module))]
    one, other = (next(camcli.explain([picture("a.png")], model=model)) for model in models)
    assert same_map(one, other)


def test_a_module_of_timm_knows_how_pictures_are_prepared(picture) -> None:
    import timm

    module = live_in(timm.create_model("resnet10t", num_classes=3))
    (explanation,) = camcli.explain([picture("a.png")], model=module, batch_size=1)
    assert explanation.model == "ResNet"
    model = camcli.open_model(module)
    assert model.preprocessing.origin == "the pretrained_cfg of ResNet"
    assert model.preprocessing.size == (176, 176)


@pytest.mark.parametrize(
    ("given", "more", "message"),
    [
        (nn.Flatten(), {}, "Flatten does not say how pictures are prepared for it; give --size, "
         "--mean, --std as in its training (ImageNet's"),
        (of_three_classes(), {"size": 32, "mean": HALF, "std": HALF, "labels": ["cat"]},
         "labels names 1 classes, but the model has 3"),
        (nn.Flatten(), {"weights": "none"}, "weights and arch are for a model's name"),
        (nn.Flatten(), {"arch": "resnet18"}, "weights and arch are for a model's name"),
        (dict, {}, "open_model was given type; a torch.nn.Module is needed"),
    ],
)  # fmt: skip
def test_a_module_that_cannot_be_explained_as_it_is_is_one_sentence(given, more, message) -> None:
    with pytest.raises(camcli.CamcliError) as caught:
        camcli.open_model(given, **more)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_a_scripted_module_is_to_be_saved() -> None:
    with pytest.raises(ModelError, match=r"^open_model was given a TorchScript module; save it"):
        camcli.open_model(torch.jit.script(nn.Flatten()))


def test_a_device_that_is_not_there_is_an_error_of_one_sentence() -> None:
    with pytest.raises(ModelError) as caught:
        camcli.open_model(device="cuda:99")
    assert str(caught.value).startswith("--device cuda:99 cannot be used (")
    assert "\n" not in str(caught.value)


def test_the_record_of_an_outcome_is_plain_data(picture, small) -> None:
    ok, failed = camcli.explain([picture("a.png"), "missing.png"], model=small)
    assert camcli.record(ok)["status"] == "ok"
    assert camcli.record(ok)["explanations"][0]["score"] == ok.cams[0].score
    assert camcli.record(failed)["status"] == "error"
    assert camcli.record(failed)["error"]["type"] == "FileNotFoundError"


def test_importing_camcli_is_cheap_and_its_names_are_there() -> None:
    code = (
        "import sys, camcli\n"
        "assert not {'torch', 'numpy', 'PIL'} & set(sys.modules), sorted(sys.modules)\n"
        "assert all(getattr(camcli, name) for name in camcli.__all__)\n"
        "try: camcli.explian\n"
        "except AttributeError as error: assert 'explian' in str(error)\n"
        "else: raise SystemExit('no AttributeError')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
