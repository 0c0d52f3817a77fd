"""Files that are no whole model: pointers, text, pictures, cut and damaged ones."""

from __future__ import annotations

import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from tests.models.files import quiet, saved

pytestmark = pytest.mark.filterwarnings("ignore")  # torch.jit is deprecated

EXAMPLE = torch.zeros(1, 3, 32, 32)
Make = Callable[[Path], Path]


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def scripted(folder: Path) -> Path:
    with quiet():
        return saved(torch.jit.script(network()), folder / "model.pt")


def exported(folder: Path) -> Path:
    with quiet():
        return saved(torch.export.export(network(), (EXAMPLE,)), folder / "model.pt2")


LFS = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n"
)
NAMES = ("model.pt", "model.pt2", "model.pth", "model.safetensors")


@pytest.mark.parametrize("name", NAMES)
def test_a_pointer_of_git_lfs_is_to_be_pulled(refused, tmp_path, name: str) -> None:
    (tmp_path / name).write_bytes(LFS)
    said = refused(tmp_path / name)
    assert said == (
        f"'{tmp_path / name}' is no model file: it is a Git LFS pointer, and the model is still on "
        "the server; run git lfs pull"
    )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("content", "what"),
    [(b"", "empty"), (b"see the wiki\nfor the model\n", "text (it begins 'see the wiki')")],
)
def test_text_and_nothing_are_no_models(refused, tmp_path, name, content: bytes, what) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert refused(path) == f"'{path}' is no model file: it is {what}; give a file that torch saved"


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif"])
def test_a_picture_is_no_model(refused: Callable, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"photo.{suffix}"
    Image.new("RGB", (9, 9)).save(path)
    assert refused(path).endswith("it is a picture; give pictures first, and the model's file with "
                                  "--model")  # fmt: skip


def test_a_folder_is_no_model(refused: Callable, tmp_path: Path) -> None:
    (tmp_path / "model.pt").mkdir()
    assert refused(tmp_path / "model.pt").endswith("file; name the model file itself")


def test_a_file_that_is_not_there_is_a_wrong_name(refused: Callable, tmp_path: Path) -> None:
    said = refused(tmp_path / "model.pt", status=2)
    assert said == (
        f"no model file '{tmp_path / 'model.pt'}', and no model of that name; see camcli models"
    )


def test_a_file_that_may_not_be_read(refused: Callable, tmp_path: Path, monkeypatch) -> None:
    path = scripted(tmp_path)
    path.chmod(0)
    if os.geteuid() == 0:  # root may read everything
        monkeypatch.setattr("builtins.open", _forbidding(path))
    assert refused(path) == (
        f"'{path}' cannot be read (Permission denied); check the file and who may read it"
    )


def _forbidding(path: Path) -> Callable[..., Any]:
    usual = open

    def opened(name: Any, *options: Any, **more: Any) -> Any:
        if str(name) == str(path):
            raise PermissionError(13, "Permission denied")
        return usual(name, *options, **more)

    return opened


@pytest.mark.parametrize("make", [scripted, exported], ids=["pt", "pt2"])
@pytest.mark.parametrize("share", [0.0005, 0.002, 0.5, 0.9, 0.998, 0.99999])
def test_a_file_that_was_cut_is_called_damaged(refused, tmp_path, make: Make, share) -> None:
    path = make(tmp_path)
    whole = path.read_bytes()
    cut = max(3, int(share * len(whole)))
    path.write_bytes(whole[:cut])
    assert refused(path) == (
        f"'{path}' is truncated or damaged ({cut:,} bytes); copy or download it again"
    )


@pytest.mark.parametrize("make", [scripted, exported], ids=["pt", "pt2"])
def test_a_file_of_which_one_byte_is_another_is_called_damaged(refused, tmp_path, make) -> None:
    """In its code or graph, its directory, and its weights, where torch itself checks nothing."""
    path = make(tmp_path)
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        members = [member for member in archive.infolist() if member.file_size > 50]
    places = []
    for member in members:  # behind its header of 30 bytes, its name and what fills up
        name, more = struct.unpack("<HH", whole[member.header_offset + 26 :][:4])
        places.append(member.header_offset + 30 + name + more + member.compress_size // 2)
    for place in (*places, whole.rindex(b"PK\x01\x02") + 1):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        assert "is truncated or damaged" in refused(path)
