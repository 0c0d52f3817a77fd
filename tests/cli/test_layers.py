"""`camcli layers`: the list, what follows each layer, and what is measured on pictures."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from camcli.models.fallback import import_torchvision
from camcli.models.inspection import default_layer, explainable, layers_of, probe, probes
from camcli.probing import candidates
from tests.conftest import as_model, live_in

SMALL = ["layers", "squeezenet1_1", "--size", "64"]
CLASSES = ("exact", "first_order", "scale_invariant", "bypassed", "-")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lived-in weights of SqueezeNet: fresh ones have no biases."""
    path = tmp_path_factory.mktemp("weights") / "lived_in.pth"
    network = live_in(import_torchvision().models.squeezenet1_1(num_classes=7))
    torch.save(network.state_dict(), path)
    return path


def test_layers_marks_the_default_one(cli: Callable) -> None:
    done = cli("layers", "squeezenet1_1", "--no-probe")
    (star,) = (line for line in done.stdout.splitlines() if line.startswith("*"))
    assert star == f"* {'features':<32}      13x13    512  Fire  (features.12)"
    assert done.stderr == "camcli: 58 layers of squeezenet1_1; --layer auto is features\n"
    assert cli(*SMALL, "--no-probe").stdout != done.stdout


def test_layers_of_no_model_is_a_usage_error(cli: Callable) -> None:
    done = cli("layers", "squeezenet9")
    assert (done.status, done.stdout) == (2, "")
    assert done.stderr.startswith("camcli: no model 'squeezenet9'; did you mean 'squeezenet1_")


def test_every_layer_has_the_class_of_what_follows_it(cli: Callable, weights: Path) -> None:
    done = cli(*SMALL, "--weights", weights)
    rows = {line[2:].split()[0]: line[2:].split()[3] for line in done.stdout.splitlines()}
    assert len(rows) == 58
    assert set(rows.values()) <= set(CLASSES)
    assert rows["features"] == "first_order"  # a convolution with a bias and a ReLU follow
    assert rows["features.12.expand1x1"] == "bypassed"  # by its neighbour expand3x3
    assert rows["features.12.squeeze"] == "first_order"
    assert done.stderr.splitlines()[1].startswith("camcli: what follows each layer was probed with")
    assert "lived_in.pth" in done.stderr
    assert "fresh weights" not in done.stderr


def test_json_has_an_object_a_layer_and_fresh_weights_are_warned_of_once(cli: Callable) -> None:
    done = cli(*SMALL, "--json")
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(records) == 58
    (default,) = (record for record in records if record["default"])
    assert default == {
        "layer": "features", "names": ["features", "features.12"], "type": "Fire",
        "grid": [3, 3], "channels": 512, "default": True, "score": "exact",
    }  # fmt: skip
    assert done.stderr.splitlines()[1:] == [
        "camcli: what follows each layer was probed with weights none (random, seed 0)",
        "camcli: fresh weights have no biases, so that much looks exact that is not with trained "
        "ones; give --weights",
    ]
    assert "score" not in json.loads(cli(*SMALL, "--no-probe", "--json").stdout.splitlines()[0])


def test_classes_of_all_layers_at_once_are_those_of_each_alone() -> None:
    model = as_model(live_in(import_torchvision().models.squeezenet1_1(num_classes=5)), 5)
    layers = layers_of(model)[-9:]
    for layer, found in zip(layers, probes(model, layers), strict=True):
        alone = probe(model, layer)
        assert found is not None
        assert (found.score, found.pooled) == (alone.score, alone.pooled)
        assert (found.baseline is None) == (alone.baseline is None)
        if found.baseline is not None and alone.baseline is not None:
            torch.testing.assert_close(found.baseline, alone.baseline, rtol=0, atol=0)


def test_a_layer_whose_places_do_not_matter_has_no_class() -> None:
    """After a transformer's last attention only the class token goes on."""
    vit = import_torchvision().models.VisionTransformer(32, 16, 2, 2, 16, 32, num_classes=3)
    model = as_model(live_in(vit, 32), 3, 32)
    layers = layers_of(model)
    found = dict(zip(layers, probes(model, layers), strict=True))
    default = default_layer(model, layers)
    assert found[default] is not None
    assert all(found[layer] is None for layer in layers[layers.index(default) + 1 :])
    assert layers[-1] != default


def test_a_probe_measures_the_last_layers_on_pictures(
    cli: Callable, weights: Path, picture: Callable[..., Path]
) -> None:
    folder = picture("in/a.png", seed=1).parent
    picture("in/b.png", seed=2)
    done = cli(*SMALL, "--weights", weights, "--probe", folder, picture("c.png", seed=3))
    assert done.status == 0
    groups, head, *rows = done.stdout.splitlines()
    assert groups.split("  ")[-1].strip() == "sum / score change"
    assert re.search("HiResCAM error +Grad-CAM error", groups)
    assert head.split() == ["layer", "grid", "chan.", "class", *["median", "largest"] * 2,
                            "HiResCAM"]  # fmt: skip
    assert len(rows) == 12
    assert rows[-1].startswith("* features ")
    assert re.search(r"first_order +\S+ +\S+ +\S+ +\S+  [\d.e+-]+–?[\d.e+-]*×$", rows[-1])
    assert all(row.split()[-5:] == ["-"] * 5 for row in rows if " bypassed " in row)
    assert "the predicted class of 3 pictures" in done.stderr
    assert "camcli: maps at features cannot account for the score exactly: first_order\n" in (
        done.stderr
    )


def test_a_probe_finds_where_maps_are_exact_and_what_one_layer_earlier_costs(
    cli: Callable, tmp_path: Path, picture: Callable[..., Path]
) -> None:
    """HiResCAM on ResNet's layer4 is exact; the layers before it are not."""
    network = live_in(import_torchvision().models.resnet18(num_classes=5))
    torch.save(network.state_dict(), tmp_path / "w.pth")
    arguments = ["layers", "resnet18", "--size", "64", "--weights", tmp_path / "w.pth"]
    done = cli(*arguments, "--probe", picture("a.png"), "--json")
    *before, last = [json.loads(line) for line in done.stdout.splitlines()]
    assert (last["layer"], last["score"], last["pictures"]) == ("layer4", "exact", 1)
    for method in ("hirescam", "gradcam"):
        assert last["completeness_error"][method]["high"] < 1e-5
        assert last["sum_over_score_change"][method]["median"] == pytest.approx(1, abs=1e-5)
    early = [record for record in before if record["score"] == "first_order"][-1]
    assert early["layer"] == "layer4.0"
    error = early["completeness_error"]["hirescam"]["median"]
    ratio = early["sum_over_score_change"]["hirescam"]["median"]
    assert error == pytest.approx(abs(1 - ratio), rel=1e-6)
    assert error > 1e-3
    bypassed = [record for record in before if record["score"] == "bypassed"][-1]
    assert bypassed["completeness_error"] == {"hirescam": None, "gradcam": None}
    assert re.search(
        r"camcli: maps can account for the score exactly from layer4 on; at layer4\.0 before it, "
        r"first_order, sums are \S+× the score change\n",
        done.stderr,
    )


def test_pictures_that_cannot_be_read_are_a_line_each(
    cli: Callable, tmp_path: Path, picture: Callable[..., Path]
) -> None:
    good = picture("in/a.png")
    (tmp_path / "in" / "\x1b[31mb.jpg").write_text("no picture")
    done = cli(*SMALL, "--probe", good.parent)
    assert done.status == 3
    assert len(done.stdout.splitlines()) == 2 + 12
    assert done.stderr.splitlines()[0] == (
        f"camcli: {tmp_path}/in/\\x1b[31mb.jpg: not a picture that can be identified"
    )


def test_where_no_picture_can_be_read_nothing_is_measured(cli: Callable, tmp_path: Path) -> None:
    (tmp_path / "b.jpg").write_text("no picture")
    done = cli(*SMALL, "--probe", tmp_path)
    assert done.status == 3
    assert all(row.split()[-5:] == ["-"] * 5 for row in done.stdout.splitlines()[2:])


def test_no_pictures_to_measure_on_is_said_before_the_model_is_loaded(
    cli: Callable, tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("")
    done = cli("layers", "no_such_model", "--probe", tmp_path)
    assert (done.status, done.stdout) == (4, "")
    assert done.stderr.startswith("camcli: no pictures found (1 other files ignored)")
    assert cli(*SMALL, "--probe", tmp_path / "gone").status == 2


def test_candidates_end_with_the_default_layer_and_can_be_explained() -> None:
    vit = import_torchvision().models.VisionTransformer(32, 16, 2, 2, 16, 32, num_classes=3)
    model = as_model(live_in(vit, 32), 3, 32)
    every = candidates(model, None)
    assert every[-1] == default_layer(model, layers_of(model))
    assert explainable(model, every) == every
    assert candidates(model, 3) == every[-3:]


def test_pictures_without_the_flag_that_measures_them_are_refused(
    cli: Callable, picture: Callable[..., Path]
) -> None:
    done = cli(*SMALL, picture("a.png"))
    assert done.status == 2
    assert "pictures are measured with --probe" in done.stderr
