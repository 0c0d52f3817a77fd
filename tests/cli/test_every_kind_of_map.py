"""Maps of layers, of several layers, of the view and of nothing: explained, then drawn again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from PIL import Image

from camcli import config
from camcli.cli.explain import job_of
from camcli.outputs import schema
from camcli.run import Run

SAMPLES = Path(__file__).parents[2] / "samples"
METHODS = ["hirescam", "guided_gradcam", "layercam_fusion", "random", "gradient_x_input"]
FUSED = "relu+layer1+layer2+layer3+layer4"
RESNET = {"model": "resnet18", "weights": "none", "size": "64", "batch_size": "1"}


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two photos, five methods, one run for all tests."""
    folder = tmp_path_factory.mktemp("maps")
    (folder / "in").mkdir()
    for name in ("coffee.jpg", "helmet.jpg"):
        shutil.copy(SAMPLES / name, folder / "in")
    explained(folder / "in", folder / "out", methods=METHODS)
    return folder / "out"


def explained(inputs: Path, out: Path, methods: list[str], **more: object) -> None:
    settings = RESNET | {"output": str(out), "method": methods} | more
    run = Run(job_of(config.resolve(settings, {}, None)[0], (str(inputs),), set()))
    assert all(record["status"] == "ok" for record in run.records())


def records(out: Path) -> list[dict]:
    return [json.loads(path.read_bytes()) for path in sorted((out / "json").rglob("*.json"))]


def without_drawings(found: list[dict]) -> list[dict]:
    return [
        record | {"explanations": [{k: v for k, v in e.items() if k != "overlay_crc32"}
                                   for e in record["explanations"]]}
        for record in found
    ]  # fmt: skip


def overlays(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (out / "overlays").rglob("*.*g")}


def test_every_map_has_its_record_its_array_and_its_overlay(out: Path) -> None:
    found = records(out)
    assert len(found) == 2
    for record in found:
        jsonschema.validate(record, schema())
        entries = {entry["method"]: entry for entry in record["explanations"]}
        assert sorted(entries) == sorted(METHODS)
        assert {name: (e["layer"], e["cam"]["shape"]) for name, e in entries.items()} == {
            "hirescam": ("layer4", [2, 2]),
            "guided_gradcam": ("layer4", [64, 64]),
            "random": ("layer4", [2, 2]),
            "layercam_fusion": (FUSED, [32, 32]),
            "gradient_x_input": ("input", [64, 64]),
        }
        with np.load(out / "maps" / f"{record['key']}.npz", allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        assert arrays["method"].tolist() == [e["method"] for e in record["explanations"]]
        for entry in record["explanations"]:
            cam = arrays[entry["cam"]["npz_key"]][entry["cam"]["npz_row"]]
            assert list(cam.shape) == entry["cam"]["shape"]
            assert cam.dtype == np.float32
            assert float(cam.max()) == entry["cam"]["max"]
            assert (entry["remainder"] is None) == (entry["method"] not in
                                                    ("hirescam", "gradient_x_input"))  # fmt: skip
            with Image.open(out / entry["overlay"]) as overlay:
                assert overlay.size == (record["width"], record["height"])
    assert len(overlays(out)) == 10


def test_run_json_knows_every_method_and_every_layer_that_was_probed(out: Path) -> None:
    run = json.loads((out / "run.json").read_bytes())
    assert run["methods"] == [
        {"name": "hirescam", "needs": "gradient", "units": "score", "scope": "layer"},
        {"name": "guided_gradcam", "needs": "input", "units": "none", "scope": "layer"},
        {"name": "layercam_fusion", "needs": "gradient", "units": "none", "scope": "layers"},
        {"name": "random", "needs": "activation", "units": "none", "scope": "layer"},
        {"name": "gradient_x_input", "needs": "input", "units": "score", "scope": "network"},
    ]
    assert run["layers"] == [
        {"name": "layer4", "grid": [2, 2], "score": "exact", "global_average_pooling": True},
        {"name": "input", "grid": [64, 64], "score": run["layers"][1]["score"],
         "global_average_pooling": False},
    ]  # fmt: skip
    assert run["layers"][1]["score"] in ("exact", "first_order")  # weights without biases
    said = run["verdict"]
    assert said[0].startswith("2 of 2 HiResCAM maps at 'layer4' account for the class score exact")
    assert "gradient × input" in said[1]
    assert "'input'" in said[1]
    assert said[2].startswith("Global average pooling follows 'layer4'")
    assert said[3] == (
        "guided Grad-CAM, random map, LayerCAM fusion: not in units of the score; nothing is "
        "claimed about how much of it they account for."
    )


def test_every_kind_of_map_is_drawn_in_every_way_and_back(out: Path, cli: Callable) -> None:
    before, said = overlays(out), records(out)
    back = ["--scale", "image", "--rectified", "--no-caption"]
    for options in ([], ["--scale", "run"], ["--signed"], ["--caption"]):
        done = cli("render", out, *options)
        assert done.status == 0, done.stderr
        after = overlays(out)
        assert after.keys() == before.keys()
        assert without_drawings(records(out)) == without_drawings(said)
        # The map that is the run's largest looks as before on a scale shared by the run.
        alike = {method: sum(after[name] == before[name] for name in after if f".{method}." in name)
                 for method in METHODS}  # fmt: skip
        expected = {
            "": dict.fromkeys(METHODS, 2),
            "--caption": dict.fromkeys(METHODS, 0),
            # Of a fused LayerCAM the largest value is tanh(2) in every picture.
            "--scale run": dict.fromkeys(METHODS, 1) | {"layercam_fusion": 2},
        }.get(" ".join(options))
        assert expected is None or alike == expected, options
        if options == ["--signed"]:
            assert alike["gradient_x_input"] == 0
        assert cli("render", out, *back).status == 0
        assert overlays(out) == before


def test_several_layers_stand_in_the_names_of_overlays(tmp_path: Path, cli: Callable) -> None:
    out, photo = tmp_path / "out", tmp_path / "coffee.jpg"
    shutil.copy(SAMPLES / "coffee.jpg", photo)
    explained(photo, out, ["layercam_fusion", "gradient_x_input"], layer=["layer3", "layer4"])
    (record,) = records(out)
    names = {(e["method"], e["layer"]): e["overlay"] for e in record["explanations"]}
    fused = names["layercam_fusion", "layer3+layer4"]
    target = record["predictions"][0]["index"]
    assert f"coffee.jpg.layercam_fusion.layer3_layer4.{target}.jpg" in fused
    assert ".gradient_x_input.input." in names["gradient_x_input", "input"]
    before = overlays(out)
    assert len(before) == len(names) == 2
    assert cli("render", out, "--overlay-format", "png").status == 0
    assert {Path(name).stem for name in overlays(out)} == {Path(name).stem for name in before}


def test_the_view_shows_in_a_map_of_its_own_size(out: Path) -> None:
    """What the network did not see has no heat: the maps lie over the view's square alone."""
    for record in records(out):
        left, top, right, bottom = record["view"]["crop_box"]
        for entry in record["explanations"]:
            if entry["cam"]["status"] == "ok":
                x, y = entry["peak_xy"]
                assert left <= x <= right
                assert top <= y <= bottom
