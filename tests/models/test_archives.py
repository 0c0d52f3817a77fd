"""What TorchScript files bring along: size, preprocessing, labels; and what must be said."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from camcli.errors import ModelError, UsageError
from camcli.models.opening import open_model

HALF = [0.5, 0.5, 0.5]


@pytest.fixture
def traced(tmp_path: Path) -> Callable[..., str]:
    """A traced network of three classes, with files saved along."""

    def save(**extra: object) -> str:
        module = nn.Sequential(nn.Conv2d(3, 4, 4, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
                               nn.Flatten(), nn.Linear(4, 3)).eval()  # fmt: skip
        files = {name.replace("_", "."): content for name, content in extra.items()}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            script = torch.jit.trace(module, torch.zeros(1, 3, 24, 40))
            torch.jit.save(script, tmp_path / "traced.pt", _extra_files=files)
        return str(tmp_path / "traced.pt")

    return save


def test_size_preprocessing_and_labels_come_with_the_file(traced) -> None:
    recipe = json.dumps({"mean": HALF, "std": HALF, "interpolation": "bicubic", "fit": "squash"})
    model = open_model(traced(preprocessing_json=recipe, labels_txt="a\nb\nc\n"), device="cpu")
    assert (model.classes.labels, model.labels) == (("a", "b", "c"), "labels.txt in traced.pt")
    assert model.preprocessing.size == (40, 24)
    assert (model.preprocessing.interpolation, model.preprocessing.fit) == ("bicubic", "squash")
    assert model.preprocessing.origin == (
        "preprocessing.json in traced.pt and the size it was made with"
    )
    prepared, named = model.remarks
    assert "as said by preprocessing.json" in prepared
    assert named == "Classes are named by labels.txt in traced.pt."


@pytest.mark.parametrize(
    ("extra", "labels", "said"),
    [
        ({"labels_json": '{"2": "c", "0": "a", "1": "b"}'}, ("a", "b", "c"),
         "Classes are named by labels.json in traced.pt."),
        ({"labels_csv": "index,label\n1,b\n0,a\n2,c\n"}, ("a", "b", "c"),
         "Classes are named by labels.csv in traced.pt."),
        ({"labels_txt": "a\nb\n"}, None,
         "labels.txt in traced.pt names 2 classes, not 3, and is not used."),
        ({}, None, "The 3 classes go by their numbers; --labels FILE names them."),
    ],
)  # fmt: skip
def test_where_the_names_of_classes_come_from_is_said(traced, extra, labels, said: str) -> None:
    model = open_model(traced(**extra), device="cpu", mean=tuple(HALF), std=tuple(HALF))
    assert model.classes.labels == labels
    assert model.remarks[-1] == said


def test_labels_in_a_file_that_are_none_are_one_sentence(traced) -> None:
    with pytest.raises(
        ModelError, match=r"^labels.json in .*traced.pt cannot be read \(index 0 is"
    ):
        open_model(traced(labels_json='{"1": "a"}'), device="cpu", mean=HALF, std=HALF)


def test_what_the_file_does_not_say_is_asked_for(traced) -> None:
    with pytest.raises(UsageError, match="give --mean, --std as in its training"):
        open_model(traced(), device="cpu")
    model = open_model(traced(), device="cpu", mean=tuple(HALF), std=tuple(HALF))
    assert model.preprocessing.origin == (
        "the size it was made with; flags (--mean, --std); usual interpolation and fit"
    )


@pytest.mark.parametrize("content", ['{"colour": 1}', '{"mean": [1, 2]}', "[]", "{", '{"fit": 1}'])
def test_a_preprocessing_file_that_cannot_be_used_is_one_sentence(traced, content: str) -> None:
    with pytest.raises(ModelError, match="cannot be used") as caught:
        open_model(traced(preprocessing_json=content), device="cpu")
    assert "it is an object of size, resize, mean, std, interpolation, fit" in str(caught.value)
    assert "\n" not in str(caught.value)
