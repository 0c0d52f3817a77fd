"""What a model file is, told without opening it: every kind, and what is none."""

from __future__ import annotations

import json
import os
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from camcli.cli.app import main
from camcli.errors import ModelError, UsageError
from camcli.models.files import extra_files, foreign_names, kind_of, names_file


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.folder),)


STATE = {"weight": torch.ones(2, 3), "bias": torch.zeros(2, dtype=torch.float16)}


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., str]:
    """Saves anything as torch does: `saved(content, legacy=True)`."""

    def save(content: object, legacy: bool = False, protocol: int = 2) -> str:
        path = tmp_path / "model.pth"
        torch.save(
            content, path, _use_new_zipfile_serialization=not legacy, pickle_protocol=protocol
        )
        return str(path)

    return save


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("protocol", [2, 4])
def test_tensors_and_numbers_are_a_checkpoint_and_objects_are_not(
    saved, legacy: bool, protocol: int
) -> None:
    training = {"epoch": 3, "lr": 0.1, "state_dict": STATE, "best": torch.float32, "names": ["a"]}
    for content in (STATE, training, nn.Linear(2, 2).state_dict(), nn.Parameter(torch.ones(1))):
        assert kind_of(saved(content, legacy, protocol)) == "checkpoint"
    path = saved({"model": nn.Linear(3, 2), "epoch": 1}, legacy, protocol)
    assert kind_of(path) == "pickled"
    assert foreign_names(path)[0] == "torch.nn.modules.linear.Linear"


@pytest.mark.parametrize("legacy", [False, True])
def test_a_harmful_payload_is_named_and_never_executed(saved, tmp_path, legacy: bool) -> None:
    crater = tmp_path / "crater"
    path = saved({"weight": torch.ones(1), "x": Bomb(crater)}, legacy)
    assert kind_of(path) == "pickled"
    assert foreign_names(path) == [f"{os.mkdir.__module__}.mkdir"]
    assert not crater.exists()
    torch.load(path, weights_only=False)  # the bomb was live
    assert crater.exists()


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_torchscript_is_told_by_its_code_and_brings_what_was_saved_along(tmp_path: Path) -> None:
    path = tmp_path / "traced.pt"
    traced = torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2))
    torch.jit.save(traced, path, _extra_files={"labels.txt": "cat\ndog\n"})
    assert kind_of(str(path)) == "torchscript"
    assert extra_files(str(path)) == {"labels.txt": b"cat\ndog\n"}


def test_an_exported_program_is_told_by_its_graph(tmp_path: Path) -> None:
    path = tmp_path / "exported.pt2"
    torch.export.save(torch.export.export(nn.Linear(2, 2), (torch.ones(1, 2),)), path)
    assert kind_of(str(path)) == "exported"


def test_safetensors_are_told_by_their_header(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file(STATE, tmp_path / "model.safetensors")
    assert kind_of(str(tmp_path / "model.safetensors")) == "safetensors"


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 102530333\n"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (LFS, "a Git LFS pointer, and the model is still on the server; run git lfs pull"),
        (b"just some notes\nand more", "text (it begins 'just some notes')"),
        (b"<!DOCTYPE html><html>login</html>", "a web page: its download did not give the model"),
        (b"\x89HDF\r\n\x1a\n" + bytes(40), "an HDF5 file (Keras)"),
        (bytes(range(200, 255)), "of a kind that camcli does not know (it begins c8 c9 ca cb"),
    ],
)
def test_what_is_no_model_is_named(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    with pytest.raises(ModelError) as caught:
        kind_of(str(path))
    assert str(caught.value).startswith(f"'{path}' is no model file: it is {says}")


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.98])
def test_a_truncated_file_is_called_that(saved, legacy: bool, share: float) -> None:
    path = Path(saved({f"layer{k}.weight": torch.ones(3) for k in range(200)}, legacy))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    if legacy and share > 0.9:  # what is missing is values only, which the reader will miss
        assert kind_of(str(path)) == "checkpoint"
        return
    with pytest.raises(ModelError, match=r"is truncated or damaged .* copy or download it again"):
        kind_of(str(path))


def test_a_compiled_package_has_no_graph(tmp_path: Path) -> None:
    path = tmp_path / "compiled.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("compiled/archive_format", "pt2")
        archive.writestr("compiled/data/aotinductor/model/model.so", b"\x7fELF")
    with pytest.raises(
        ModelError, match=r"is a compiled package .AOTInductor., which has no graph"
    ):
        kind_of(str(path))


def test_a_zip_of_something_else_is_no_model(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "model.zip", "w") as archive:
        archive.writestr("notes.json", json.dumps({}))
    with pytest.raises(ModelError, match="is a zip archive, but none that torch wrote"):
        kind_of(str(tmp_path / "model.zip"))


def test_a_file_that_is_not_there_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no model file '.*gone\.pt'"):
        kind_of(str(tmp_path / "gone.pt"))
    with pytest.raises(ModelError, match="is not a regular file"):
        kind_of(str(tmp_path))


def test_names_that_mean_files(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"x")
    for name in ("a.pt", "gone.PTH", "dir/model", str(tmp_path / "plain")):
        assert names_file(name)
    for name in ("resnet50", "efficientnet_lite0", "no-such-model"):
        assert not names_file(name)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"notes\n", "is no model file: it is text"),
        (LFS, "run git lfs pull"),
        (b"PK\x03\x04 and no more", "is truncated or damaged"),
    ],
)
def test_the_command_line_says_so_in_one_line(
    tmp_path, picture, monkeypatch, capsys, content: bytes, says: str
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    path, out = tmp_path / "model.pt", tmp_path / "out"
    path.write_bytes(content)
    explain = ["camcli", "explain", str(picture("a.jpg")), "--model", str(path), "-o", str(out)]
    monkeypatch.setattr(sys, "argv", explain)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line
    assert not (out / "run.json").exists()
