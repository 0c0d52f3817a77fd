"""timm's models by name, with timm's own way of preparing pictures."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import timm
import torch
from timm.data import create_transform, resolve_data_config
from torch import nn

from camcli.errors import ModelError, UsageError
from camcli.images.preprocess import prepare
from camcli.models.opening import open_model
from camcli.models.timm import published_labels, recipe_fields
from tests.conftest import live_in, noise_pictures

NAME = "resnet10t.c3_in1k"


def test_random_weights_are_seeded_and_pictures_prepared_as_timm_says() -> None:
    one, two = (open_model(f"timm:{NAME}", weights="none", device="cpu") for _ in range(2))
    states = [model.network.module.state_dict() for model in (one, two)]
    torch.testing.assert_close(states[0], states[1], rtol=0, atol=0)
    assert one.weights == "none (random, seed 0)"
    config = timm.get_pretrained_cfg(NAME)
    assert one.preprocessing.mean == tuple(config.mean)
    assert one.preprocessing.size == config.input_size[:0:-1]
    assert one.preprocessing.origin == f"timm's configuration of {NAME}"


@pytest.mark.parametrize("name", [NAME, "vit_tiny_patch16_224.augreg_in21k_ft_in1k"])
def test_the_view_is_the_one_that_timms_transform_gives(name: str) -> None:
    config = timm.get_pretrained_cfg(name).to_dict()
    transform = create_transform(**resolve_data_config(pretrained_cfg=config))
    model = open_model(f"timm:{name}", weights="none", device="cpu")
    from PIL import Image

    picture = Image.effect_mandelbrot((331, 257), (-2, -1.5, 1, 1.5), 50).convert("RGB")
    view, _ = prepare(picture, model.preprocessing)
    got = model.inputs([view])[0]
    # Two roundings to 8 bits between resizing across and down: a level of 255.
    level = 1.01 / (255 * min(model.preprocessing.std))
    torch.testing.assert_close(got, transform(picture), rtol=0, atol=level)


def test_every_configuration_of_timm_can_be_followed() -> None:
    configs = [timm.get_pretrained_cfg(name) for name in timm.list_pretrained()[::40]]
    for config in configs:
        fields = recipe_fields(config.to_dict())
        assert fields["resize"] >= max(fields["size"]) or fields["fit"] != "crop"
        assert fields["interpolation"] in ("nearest", "bilinear", "bicubic")


def test_squashed_and_padded_pictures_are_what_the_configuration_says() -> None:
    base = {"input_size": (3, 96, 128), "mean": (0, 0, 0), "std": (1, 1, 1), "crop_pct": 1.0,
            "interpolation": "bicubic"}  # fmt: skip
    fits = [recipe_fields(base | {"crop_mode": m})["fit"] for m in ("center", "squash", "border")]
    assert fits == ["crop", "squash", "pad"]
    assert recipe_fields(base)["size"] == (128, 96)


def test_weights_of_a_file_say_how_many_classes_there_are(tmp_path: Path) -> None:
    module = live_in(timm.create_model("resnet10t", num_classes=5))
    torch.save({"state_dict_ema": module.state_dict(), "epoch": 1}, tmp_path / "mine.pth")
    model = open_model("timm:resnet10t", weights=str(tmp_path / "mine.pth"), device="cpu")
    assert model.classes.count == 5
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with model.network.prepared(), torch.no_grad():
        assert torch.equal(model.logits(x), module(x))


@pytest.mark.parametrize(
    ("name", "origin", "labels"),
    [
        ("resnet50.a1_in1k", "imagenet1k", {0: "tench"}),
        ("coatnet_2_rw_224.sw_in12k", "timm's imagenet-12k", {0: "benthos"}),
        ("beit_base_patch16_224.in22k_ft_in22k", "timm's imagenet-22k", {0: "organism, being"}),
        ("flexivit_base.300ep_in21k", "timm's imagenet-21k-goog", {21842: "knothole"}),
        ("mixer_b16_224.miil_in21k", "timm's imagenet-21k-miil", {5: "food, nutrient"}),
        ("focalnet_huge_fl3.ms_in22k", "timm's imagenet-22k-ms", {0: "tench, Tinca tinca"}),
        ("mvitv2_base_cls.fb_inw21k", "none", None),
        ("eva02_base_patch16_clip_224.merged2b", "none", None),
    ],
)
def test_classes_have_the_names_of_what_a_model_was_trained_on(name, origin, labels) -> None:
    config = timm.get_pretrained_cfg(name).to_dict()
    found, said = published_labels(config, name, sure=True)
    assert said == origin
    if labels is None:
        assert found is None
        return
    assert len(found) == config["num_classes"]
    assert all(found[index] == label for index, label in labels.items())
    _, assumed = published_labels(config, name, sure=False)
    assert assumed.endswith(f"(assumed for {len(found):,} classes)")


def test_a_configuration_may_name_its_classes_itself() -> None:
    told = {"num_classes": 1000, "label_names": ["n1", "n2"], "label_descriptions": {"n2": "dog"}}
    assert published_labels(told, "mine", sure=True) == (("n1", "dog"), "the label_names of mine")
    by_index = {"label_names": {"1": "dog", "0": "cat"}}
    assert published_labels(by_index, "mine", sure=True)[0] == ("cat", "dog")


def test_a_model_of_thousands_of_classes_says_their_names(monkeypatch) -> None:
    def create(name: str, pretrained: bool = False, **options: object) -> nn.Module:
        small = nn.Conv2d(3, 4, 8, 8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        return nn.Sequential(*small, nn.Linear(4, 11221)).eval()

    monkeypatch.setattr(timm, "create_model", create)
    model = open_model("timm:mixer_b16_224.miil_in21k", device="cpu", size=(32, 32))
    assert (model.classes.label(5), model.labels) == ("food, nutrient", "timm's imagenet-21k-miil")
    assert model.remarks == ()
    model = open_model("timm:mvitv2_base_cls.fb_inw21k", device="cpu", size=(32, 32))
    assert model.classes.label(5) == "5"
    assert model.remarks == ("The 11,221 classes go by their numbers; --labels FILE names them.",)


def test_names_that_timm_does_not_have_get_a_suggestion(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"timm has no model 'resnet5'; did you mean 'resnet5\w+'"):
        open_model("timm:resnet5", weights="none")
    with pytest.raises(UsageError, match=r"timm has no weights 'resnet10t.nope'; it has resnet10t"):
        open_model("timm:resnet10t.nope", weights="none")
    with pytest.raises(UsageError, match="is neither a file nor DEFAULT nor none"):
        open_model("timm:resnet10t", weights=str(tmp_path / "gone.pth"))


def test_a_download_that_fails_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def create(name: str, pretrained: bool = False, **options: object) -> nn.Module:
        raise OSError("Network is unreachable\nand more")

    monkeypatch.setattr(timm, "create_model", create)
    with pytest.raises(ModelError) as caught:
        open_model(f"timm:{NAME}")
    said = re.fullmatch(
        rf"the weights of timm's {NAME} cannot be downloaded.*: Network is unreachable; "
        r"download them elsewhere and give --weights FILE, or use --weights none .*",
        str(caught.value),
    )
    assert said


def test_a_trunk_without_a_classifier_is_refused() -> None:
    with pytest.raises(ModelError, match="has no classifier, so there is no score to explain"):
        open_model("timm:vit_small_patch14_dinov2.lvd142m", weights="none")


def test_a_picture_is_explained(picture) -> None:
    import camcli

    model = open_model("timm:resnet10t", weights="none", device="cpu", size=(64, 64))
    live_in(model.network.module)
    (found,) = camcli.explain([picture("a.png")], model=model)
    assert found.cams[0].cam.any()
    assert noise_pictures(model, 1)[0].view.shape == (64, 64, 3)
