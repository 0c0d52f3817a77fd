"""Where a run's size, colours and labels come from: asked for, said on the terminal, recorded."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

CODE = """
from torch import nn

def net():
    return nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(8, 3))
"""
COLOURS = ["--mean", "0.5,0.5,0.5", "--std", "0.25,0.25,0.25"]
RECIPE = {"mean": [0.4, 0.4, 0.4], "std": [0.2, 0.2, 0.2], "interpolation": "nearest"}
ANIMALS = ["cat", "dog", "emu"]


@pytest.fixture
def model(tmp_path: Path) -> Callable[[str], str]:
    """A small network of three classes in each form: `model("scripted")`."""
    (tmp_path / "mine.py").write_text(CODE)
    space: dict[str, Any] = {}
    exec(CODE, space)
    torch.manual_seed(0)
    module, x = space["net"]().eval(), torch.zeros(2, 3, 32, 48)

    def save(form: str) -> str:
        path, extra = tmp_path / f"{form}.pt", {}
        if form == "code":
            return f"{tmp_path / 'mine.py'}:net"
        if form == "told":
            extra = {"preprocessing.json": json.dumps(RECIPE), "labels.txt": "\n".join(ANIMALS)}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if form == "exported":
                dynamic = ({0: torch.export.Dim("n", min=1)},)
                torch.export.save(torch.export.export(module, (x,), dynamic_shapes=dynamic), path)
            elif form == "scripted":
                torch.jit.save(torch.jit.script(module), path)
            elif form == "timm":
                module.pretrained_cfg = {
                    "input_size": (3, 40, 40), "mean": (0.4,) * 3, "std": (0.2,) * 3,
                    "interpolation": "bicubic", "label_names": ANIMALS,
                }  # fmt: skip
                torch.save(module, path)
            else:
                torch.jit.save(torch.jit.trace(module, x), path, _extra_files=extra)
        return str(path)

    return save


@pytest.fixture
def explained(cli: Callable, picture: Callable, tmp_path: Path) -> Callable[..., Any]:
    """One picture, explained: run.json's account of it, and the lines of the terminal."""

    def run(*arguments: object) -> tuple[dict[str, Any], list[str]]:
        out = tmp_path / "out"
        done = cli("explain", picture("a.png"), "-o", out, "--overwrite", "--batch-size", 1,
                   *arguments)  # fmt: skip
        assert done.status == 0, done.stderr
        return json.loads((out / "run.json").read_text()), done.stderr.splitlines()

    return run


NUMBERS = "The 3 classes go by their numbers; --labels FILE names them."


@pytest.mark.parametrize(
    ("form", "flags", "size", "origin", "named"),
    [
        ("traced", COLOURS, [48, 32],
         "the size it was made with; flags (--mean, --std); usual interpolation and fit", NUMBERS),
        ("exported", COLOURS, [48, 32],
         "the size it was made with; flags (--mean, --std); usual interpolation and fit", NUMBERS),
        ("scripted", [*COLOURS, "--size", "32"], [32, 32],
         "flags (--size, --mean, --std); usual interpolation and fit", NUMBERS),
        ("told", [], [48, 32],
         "preprocessing.json in told.pt and the size it was made with; usual fit",
         "Classes are named by labels.txt in told.pt."),
        ("told", ["--size", "32"], [32, 32],
         "preprocessing.json in told.pt; flags (--size); usual fit",
         "Classes are named by labels.txt in told.pt."),
        ("code", [*COLOURS, "--size", "32", "--fit", "squash"], [32, 32],
         "flags (--size, --mean, --std, --fit); usual interpolation", NUMBERS),
        ("timm", ["--trust-model"], [40, 40], "the pretrained_cfg of timm.pt", None),
    ],
)  # fmt: skip
def test_where_a_recipe_and_labels_come_from_is_said_and_recorded(
    form: str, flags: list[str], size: list[int], origin: str, named: str | None,
    model: Callable, explained: Callable,
) -> None:  # fmt: skip
    run, said = explained("--model", model(form), *flags)
    assert (run["preprocessing"]["size"], run["preprocessing"]["origin"]) == (size, origin)
    sentence = f"Pictures are prepared at {size[0]}x{size[1]} as said by {origin}."
    for expected in (sentence, *([named] if named else [])):
        assert expected in said
        assert expected in run["model"]["remarks"]
    known = form in ("told", "timm")
    assert run["labels"] == (ANIMALS if known else ["0", "1", "2"])
    assert (run["model"]["labels_from"] == "none") != known


@pytest.mark.parametrize(
    ("form", "asks"),
    [
        ("traced", "--mean, --std"),
        ("exported", "--mean, --std"),
        ("scripted", "--size, --mean, --std"),
        ("code", "--size, --mean, --std"),
    ],
)
def test_what_nothing_says_is_asked_for(form, asks, model, cli, picture, tmp_path: Path) -> None:
    name, out = model(form), tmp_path / "out"
    done = cli("explain", picture("a.png"), "--model", name, "-o", out)
    assert (done.status, done.stdout) == (2, "")
    assert done.stderr == (
        f"camcli: {name} does not say how pictures are prepared for it; give {asks} as in its "
        "training (ImageNet's usual values: --size 224 --mean 0.485,0.456,0.406 --std "
        "0.229,0.224,0.225)\n"
    )
    assert not (out / "run.json").exists()


def test_a_published_recipe_is_recorded_by_the_name_of_its_weights(explained, tmp_path) -> None:
    run, said = explained()
    assert run["preprocessing"]["origin"] == "efficientnet_lite0 as published"
    assert run["model"]["labels_from"] == "imagenet1k"
    assert not [line for line in said if "prepared" in line or "classes" in line.lower()]
    from camcli.models.torchvision import build

    torch.save(build("squeezenet1_1", 1000).state_dict(), tmp_path / "mine.pth")
    flags = ["--weights", tmp_path / "mine.pth", "--size", "64"]
    run, said = explained("--model", "squeezenet1_1", *flags)
    entry = "SqueezeNet1_1_Weights.IMAGENET1K_V1"
    assert run["preprocessing"]["origin"] == f"{entry} (assumed); flags (--size)"
    assert "Classes are named by imagenet1k (assumed for 1,000 classes)." in said
    assert any(line.startswith(f"Pictures are prepared as for {entry}: ") for line in said)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("l.txt", "cat\r\ndog\r\nemu\r\n"),
        ("l.json", '{"1": "dog", "0": "cat", "2": "emu"}'),
        ("l.csv", "index,label\n2,emu\n0,cat\n1,dog\n"),
    ],
)
def test_labels_of_a_file_name_the_predictions(name, content, model, explained, tmp_path) -> None:
    (tmp_path / name).write_text(content)
    run, said = explained("--model", model("told"), "--labels", tmp_path / name)
    assert run["labels"] == ANIMALS
    assert run["model"]["labels_from"] == str(tmp_path / name)
    assert not [line for line in said if line.startswith(("Classes are", "The 3 classes"))]
    (record,) = (tmp_path / "out" / "json").rglob("*.json")
    best = json.loads(record.read_text())["predictions"][0]
    assert best["label"] == ANIMALS[best["index"]]


@pytest.mark.parametrize("labels", ["imagenet1k", "two.txt"])
def test_labels_of_another_number_of_classes_are_refused(
    labels: str, model, cli, picture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("two.txt").write_text("cat\ndog\n")
    count = 1000 if labels == "imagenet1k" else 2
    done = cli("explain", picture("a.png"), "--model", model("told"), "--labels", labels)
    assert done.status == 2
    assert done.stderr == (
        f"camcli: --labels {labels} names {count} classes, but the model has 3\n"
    )
