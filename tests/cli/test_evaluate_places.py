"""`camcli evaluate` where it needs marked objects, mosaics, or a network that forgets."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SMALL = ["--size", "24", "--mean", "0.5,0.5,0.5", "--std", "0.5,0.5,0.5", "--batch-size", "4"]
MODEL = '''
import torch
from torch import nn


class Colours(nn.Module):
    """How much red, green, blue and black there is."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 2, stride=2)
        self.relu = nn.ReLU()
        last = nn.Linear(4, 4, bias=False)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), last)
        with torch.no_grad():
            self.conv.weight.zero_()
            for k in range(3):
                self.conv.weight[k, k] = 1.0
            self.conv.weight[3] = -1.0
            self.conv.bias.copy_(torch.tensor([-2.0, -2.0, -2.0, -8.0]))
            self.head[2].weight.copy_(8 * torch.eye(4))

    def forward(self, x):
        return self.head(self.relu(self.conv(x)))


def colours():
    return Colours()
'''
COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "black": (0, 0, 0)}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with four grey pictures that have a coloured corner, marked in COCO JSON."""
    folder = tmp_path_factory.mktemp("places")
    (folder / "images").mkdir()
    (folder / "colours.py").write_text(MODEL)
    (folder / "labels.txt").write_text("\n".join(COLOURS))
    images, marks = [], []
    for number, (name, colour) in enumerate(COLOURS.items()):
        pixels = np.full((24, 24, 3), 128, np.uint8)
        pixels[4:12, 4:12] = colour
        Image.fromarray(pixels).save(folder / "images" / f"{name}.png")
        images.append({"id": number, "file_name": f"{name}.png", "width": 24, "height": 24})
        marks.append({"id": number, "image_id": number, "category_id": number,
                      "bbox": [4, 4, 8, 8]})  # fmt: skip
    categories = [{"id": number, "name": name} for number, name in enumerate(COLOURS)]
    content = {"images": images, "annotations": marks, "categories": categories}
    (folder / "marks.json").write_text(json.dumps(content))
    return folder


def asked(place: Path) -> list[object]:
    model = f"{place / 'colours.py'}:colours"
    return ["--model", model, "--labels", place / "labels.txt", *SMALL, "-m", "hirescam,eigencam",
            "--fit", "squash"]  # fmt: skip


def test_maps_are_measured_against_marked_objects_mosaics_and_forgetting(
    place: Path, camcli: Callable
):
    out = place / "out"
    done = camcli(
        "evaluate", place / "images", *asked(place), "-o", out, "--annotations",
        place / "marks.json", "--sanity",
        "--metrics", "pointing_game,pointing_energy,segmentation_iou,grid_pointing,hot_roundness",
        check=0,
    )  # fmt: skip
    text = done.stdout.decode()
    assert "localisation" in text
    assert "eigencam fails the sanity check: maps of another class correlate at +1.00" in text
    assert b"grid_pointing: 1 mosaic of 48x48 pixels" in done.stderr
    content = json.loads((out / "evaluation.json").read_text())
    means = {
        (metric["name"], row["method"]): row["mean"]
        for metric in content["metrics"]
        for row in metric["rows"]
    }
    assert means["pointing_game", "hirescam"] == 1.0
    assert means["pointing_energy", "hirescam"] > 0.7  # interpolation spreads the rest
    assert means["grid_pointing", "hirescam"] > 0.9
    assert means["pointing_energy", "(random)"] == pytest.approx(1 / 9, abs=0.06)
    assert [one["method"] for one in content["sanity"]] == ["hirescam", "eigencam"]
    assert content["annotations"] == str(place / "marks.json")
    with open(out / "evaluation.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["metric"] for row in rows} >= {"grid_pointing", "sanity_step_1_rank_correlation"}
    (mosaic,) = {row["key"] for row in rows if row["metric"] == "grid_pointing"}
    assert sorted(mosaic.split("+")) == ["black.png", "blue.png", "green.png", "red.png"]


def test_a_finished_run_has_the_same_figures(place: Path, camcli: Callable):
    run = place / "run"
    camcli("explain", place / "images", *asked(place), "-o", run, check=0)
    wanted = ["--metrics", "pointing_energy,grid_pointing", "--annotations", place / "marks.json"]
    camcli("evaluate", run, *wanted, "--trust-model", check=0)
    camcli("evaluate", place / "images", *asked(place), *wanted, "-o", place / "again", check=0)
    ours, theirs = (
        json.loads((out / "evaluation.json").read_text())["metrics"]
        for out in (run / "evaluation", place / "again")
    )
    assert ours == theirs


def test_what_cannot_be_matched_is_a_sentence(place: Path, camcli: Callable, tmp_path: Path):
    content = json.loads((place / "marks.json").read_text())
    content["images"][0]["file_name"] = "else.png"
    content["categories"][1]["name"] = "verde"
    content["annotations"][2]["bbox"] = "wide"
    (tmp_path / "marks.json").write_text(json.dumps(content))
    shutil.copytree(place / "images", tmp_path / "images")
    done = camcli(
        "evaluate", tmp_path / "images", *asked(place), "-o", tmp_path / "out",
        "--annotations", tmp_path / "marks.json", "--metrics", "pointing_game", check=0,
    )  # fmt: skip
    said = done.stderr.decode()
    assert "1 of 4 pictures are not in" in said
    assert "1 of 3 classes in" in said
    assert "cannot be used (the first: 'blue.png': annotation 2: neither" in said


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--metrics", "pointing_game"], b"pointing_game measures marked objects; give --annotat"),
        (["--annotation-classes", "x.json"], b"--annotation-classes says what --annotations means"),
        (["--annotations", "nowhere.json"], b"--annotations nowhere.json cannot be read (No such"),
    ],
)
def test_what_is_missing_is_one_sentence(place: Path, camcli: Callable, flags, reason):
    done = camcli("evaluate", place / "images", *asked(place), *flags, check=2)
    assert reason in done.stderr
    assert b"Traceback" not in done.stderr
