"""The built-in model with its real weights, saved as TorchScript, explains photos as before."""

from __future__ import annotations

import dataclasses
import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from camcli import open_model
from camcli.images.discover import is_image_name


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The traced network, with how pictures are prepared and the labels beside it."""
    model: Any = open_model()
    recipe = dataclasses.asdict(model.preprocessing)
    del recipe["origin"]
    extra = {"preprocessing.json": json.dumps(recipe), "labels.json": json.dumps(
        [model.classes.label(n) for n in range(model.classes.count)])}  # fmt: skip
    path = tmp_path_factory.mktemp("model") / "lite0.pt"
    width, height = model.preprocessing.size
    with warnings.catch_warnings():  # torch.jit is deprecated
        warnings.simplefilter("ignore")
        with model.network.prepared(), torch.no_grad():
            traced = torch.jit.trace(model.network.module, torch.zeros(1, 3, height, width))
        torch.jit.save(traced, str(path), _extra_files=extra)
    return path


@pytest.mark.parametrize("count", [8, pytest.param(100, marks=pytest.mark.slow)])
def test_photographs_are_explained_as_by_the_model_it_was_made_from(
    count: int, saved: Path, photos: Path, camcli: Callable[..., Any], tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for photo in sorted(p for p in photos.rglob("*") if is_image_name(p.name))[:count]:
        shutil.copy(photo, folder)
    common = ("explain", folder, "-m", "hirescam,gradcam,layercam", "--write", "json,npz")
    camcli(*common, "-o", tmp_path / "eager", check=0)
    camcli(*common, "-o", tmp_path / "file", "--model", saved, check=0)
    records = sorted((tmp_path / "eager").glob("json/*.json"))
    assert len(records) == count
    for record in records:
        true, own = (
            json.loads((tmp_path / run / "json" / record.name).read_text())
            for run in ("eager", "file")
        )
        assert own["predictions"][0]["label"] == true["predictions"][0]["label"]
        assert own["explanations"][0]["layer"] == true["explanations"][0]["layer"]
        assert own["explanations"][0]["faithful"]
        name = record.stem + ".npz"
        runs = tmp_path / "eager/maps" / name, tmp_path / "file/maps" / name
        with np.load(runs[0]) as eager, np.load(runs[1]) as file:
            assert set(file.files) == set(eager.files)
            for cam, other in zip(file["cams"], eager["cams"], strict=True):
                np.testing.assert_allclose(cam, other, rtol=0, atol=1e-5 * np.abs(other).max())
