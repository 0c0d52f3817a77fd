"""Model files that would run code: nothing of it happens unless the file is trusted.

Every harm leaves a mark behind, and every test makes sure that its harm would have worked.
"""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.models.files import Edit, in_code, quiet, rewritten

pytestmark = pytest.mark.filterwarnings("ignore")  # torch.jit is deprecated

PREPARED = ["--size", "32", "--mean", "0.5,0.5,0.5", "--std", "0.5,0.5,0.5", "--device", "cpu"]
TRUST = "give --trust-model"


class Bomb:
    """Unpickled, it makes a folder."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.fc = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(x).mean(dim=(2, 3)))


class Writing(Small):
    def forward(self, x: Tensor) -> Tensor:
        torch.save(x, "MARK")
        return self.fc(self.conv(x).mean(dim=(2, 3)))


class Restored(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.ones(1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale

    @torch.jit.export
    def __getstate__(self) -> tuple[Tensor, bool]:
        return self.scale, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[Tensor, bool]) -> None:
        torch.save(state[0], "MARK")
        self.scale = state[0]
        self.training = state[1]


class WritingAtLoad(Small):
    def __init__(self) -> None:
        super().__init__()
        self.restored = Restored()

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.restored(self.conv(x)).mean(dim=(2, 3)))


class Mapping(Small):
    def forward(self, x: Tensor) -> Tensor:
        mapped = torch.from_file("MARK", shared=True, size=4)
        return self.fc(self.conv(x).mean(dim=(2, 3)) + mapped)


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """What exists only once a harm was done."""
    return tmp_path / "mark"


@pytest.fixture
def good(tmp_path: Path) -> Path:
    with quiet():
        program = torch.export.export(Small().eval(), (torch.zeros(1, 3, 32, 32),))
        torch.export.save(program, tmp_path / "good.pt2")
    return tmp_path / "good.pt2"


def script(module: nn.Module, folder: Path, edit: Edit = lambda _, content: content) -> Path:
    torch.jit.save(torch.jit.script(module.eval()), str(folder / "model.pt"))
    return rewritten(folder / "model.pt", edit)


def trusted(cli: Callable, path: Path, picture: Callable) -> Any:
    out = path.parent / "trusted"
    explain = ["explain", picture("in/a.png"), "--model", path, "-o", out, "--batch-size", "2"]
    return cli(*explain, *PREPARED, "--trust-model")


def bombs() -> list[Any]:
    """What torch.save or pickle wrote, by what is wrong with it."""

    def whole(path: Path, bomb: Bomb) -> None:
        module = Small()
        module.bomb = bomb
        torch.save(module, path)

    def checkpoint(path: Path, bomb: Bomb) -> None:
        torch.save({"state_dict": Small().state_dict(), "epoch": 3, "args": bomb}, path)

    def old(path: Path, bomb: Bomb) -> None:
        torch.save({"weight": torch.ones(1), "x": bomb}, path, _use_new_zipfile_serialization=False)

    def bare(path: Path, bomb: Bomb) -> None:
        path.write_bytes(pickle.dumps({"weight": 1, "x": bomb}))

    return [
        pytest.param(whole, "model.pt", TRUST, id="whole model"),
        pytest.param(whole, "model.safetensors", TRUST, id="whole model, named safetensors"),
        pytest.param(checkpoint, "model.pth", TRUST, id="checkpoint"),
        pytest.param(old, "model.pth", TRUST, id="checkpoint of old"),
        pytest.param(bare, "model.pt", "and stays shut", id="bare pickle"),
    ]


@pytest.mark.parametrize(("make", "name", "sentence"), bombs())
def test_a_harmful_pickle_stays_shut(refused, mark, tmp_path, make, name, sentence: str) -> None:
    path = tmp_path / name
    make(path, Bomb(mark))
    assert sentence in refused(path)
    assert not mark.exists()
    if "stays shut" in sentence:
        pickle.loads(path.read_bytes())
    else:
        torch.load(path.rename(tmp_path / "bomb"), weights_only=False)
    assert mark.exists()


def test_a_pickle_that_hides_what_it_names_is_opened_as_data(refused, mark, tmp_path) -> None:
    """Harmless names are put on the stack and taken off again: what a scan sees is not called."""
    path, os_module = tmp_path / "model.pth", os.mkdir.__module__
    torch.save({"weight": torch.ones(1)}, path)
    text = [b"\x8c" + bytes([len(t)]) + t.encode() for t in (os_module, "mkdir", str(mark))]
    other = b"\x8c\x0bcollections\x8c\x0bOrderedDict00"
    code = b"\x80\x04" + text[0] + text[1] + other + b"\x93" + text[2] + b"\x85R."
    bad = rewritten(path, lambda name, content: code if name.endswith("data.pkl") else content)
    assert "opening it could run any code" in refused(bad)
    assert not mark.exists()
    pickle.loads(code)
    assert mark.exists()


@pytest.mark.parametrize("member", ["data.pkl", "constants.pkl"])
def test_a_harmful_pickle_inside_torchscript_is_no_torchscript(
    refused: Callable, mark: Path, tmp_path: Path, member: str
) -> None:
    bomb = pickle.dumps((Bomb(mark),), protocol=2)
    bad = script(Small(), tmp_path, lambda name, c: bomb if name.endswith(f"/{member}") else c)
    assert "is no TorchScript file that torch can read" in refused(bad)
    assert not mark.exists()
    pickle.loads(bomb)
    assert mark.exists()


def test_the_example_inside_a_trace_is_never_unpickled(cli, mark, tmp_path, picture) -> None:
    traced = torch.jit.trace(Small().eval(), torch.zeros(1, 3, 32, 32), check_trace=False)
    torch.jit.save(traced, str(tmp_path / "model.pt"))
    bomb = pickle.dumps((Bomb(mark),), protocol=2)
    bad = rewritten(
        tmp_path / "model.pt", lambda name, c: bomb if name.endswith("traced_inputs.pkl") else c
    )
    assert trusted(cli, bad, picture).status == 0
    assert not mark.exists()
    pickle.loads(bomb)
    assert mark.exists()


SAVE = "torch.save(x, "
WRITINGS = [
    pytest.param(Writing, SAVE, SAVE, "(save in ", id="in forward"),
    pytest.param(Writing, SAVE, "torch. save(x, ", "(save in ", id="behind a space"),
    pytest.param(Writing, SAVE, "torch.\\\n  save(x, ", "(save in ", id="on the next line"),
    pytest.param(Writing, SAVE, "(torch.  # so\n  save)(x, ", "(save in ", id="behind a comment"),
    pytest.param(Writing, SAVE, "ops.aten.save(x, ", "(save in ", id="as an operator"),
    pytest.param(Mapping, "from_file", "from_file", "(from_file in ", id="mapped"),
    pytest.param(WritingAtLoad, "torch.save", "torch.save", "(save in ", id="at load"),
]


@pytest.mark.parametrize(("kind", "old", "new", "sentence"), WRITINGS)
def test_torchscript_that_writes_files_is_not_loaded(
    refused, cli, picture, mark, tmp_path, kind: type[nn.Module], old, new, sentence: str
) -> None:
    def edit(name: str, content: bytes) -> bytes:
        if name.endswith(".py"):
            content = content.replace(old.encode(), new.encode())
            content = content.replace(b'"MARK"', json.dumps(str(mark)).encode())
        return content

    bad = script(kind(), tmp_path, edit)
    said = refused(bad)
    assert sentence in said
    assert said.endswith(TRUST)
    assert not mark.exists()
    assert trusted(cli, bad, picture).status == 0
    assert mark.exists()


def renamed(path: Path, new: Callable[[str], str]) -> Path:
    """A copy of an archive whose members have other names."""
    target = path.with_name(f"renamed-{path.name}")
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(target, "w") as copy:
        for name in source.namelist():
            copy.writestr(new(name), source.read(name))
    return target


def test_code_is_found_in_any_case_of_letters_as_torch_finds_it(
    refused: Callable, cli: Callable, picture: Callable, mark: Path, tmp_path: Path
) -> None:
    path = script(
        Writing(),
        tmp_path,
        lambda _, content: content.replace(b'"MARK"', json.dumps(str(mark)).encode()),
    )
    bad = renamed(path, lambda n: n.replace("/code/", "/Code/").replace(".py", ".PY"))
    with zipfile.ZipFile(bad, "a") as archive:
        archive.writestr(f"{archive.namelist()[0].partition('/')[0]}/code/nothing.txt", "")
    assert refused(bad).endswith(TRUST)
    assert not mark.exists()
    assert trusted(cli, bad, picture).status == 0
    assert mark.exists()


def test_two_members_of_one_name_are_refused(refused, tmp_path: Path) -> None:
    """torch's reader and Python's may take different ones, so that what is checked is not run."""
    path = script(Writing(), tmp_path)
    with zipfile.ZipFile(path, "a") as archive:
        (code,) = (n for n in archive.namelist() if n.endswith(".py") and "torch/" not in n)
        archive.writestr(code, archive.read(code).replace(b'torch.save(x, "MARK")', b"pass"))
    assert refused(path).endswith(TRUST)
    harmless = script(Small(), tmp_path)
    with zipfile.ZipFile(harmless, "a") as archive:
        archive.writestr(archive.namelist()[0].upper(), b"")
    assert "holds two members of one name" in refused(harmless)


def test_an_archive_behind_another_is_refused(refused, tmp_path: Path) -> None:
    """Python reads the second, by places counted from its start; torch counts from the first's."""
    harmful = script(Writing(), tmp_path).read_bytes()
    harmless = script(Small(), tmp_path)
    harmless.write_bytes(harmful + harmless.read_bytes())
    with zipfile.ZipFile(harmless) as archive:
        assert not any(b"MARK" in archive.read(name) for name in archive.namelist())
    assert "is truncated or damaged" in refused(harmless)


def test_harmful_example_inputs_of_an_exported_program_stay_shut(
    refused: Callable, cli: Callable, picture: Callable, good: Path, mark: Path, tmp_path: Path
) -> None:
    torch.save((Bomb(mark),), tmp_path / "bomb.pt")
    bomb = (tmp_path / "bomb.pt").read_bytes()
    bad = rewritten(good, lambda name, content: bomb if "/sample_inputs/" in name else content)
    refused(bad)
    assert not mark.exists()
    trusted(cli, bad, picture)
    assert mark.exists()


def test_harmful_constants_of_an_exported_program_stay_shut(refused, good, mark) -> None:
    entry = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True,
             "tensor_meta": None}  # fmt: skip
    config = json.dumps({"config": {"harm": entry}}).encode()
    bomb = pickle.dumps(Bomb(mark))
    bad = rewritten(
        good,
        lambda name, content: config if name.endswith("constants_config.json") else content,
        data__constants__opaque_obj_0=bomb,
    )
    assert refused(bad).endswith(TRUST)
    assert not mark.exists()
    pickle.loads(bomb)
    assert mark.exists()


def test_a_harmful_expression_of_an_exported_program_is_not_evaluated(
    refused: Callable, cli: Callable, picture: Callable, mark: Path, tmp_path: Path
) -> None:
    rows = torch.export.Dim("rows")
    with quiet():
        program = torch.export.export(
            Small().eval(), (torch.zeros(2, 3, 32, 32),), dynamic_shapes=({0: rows},)
        )
        torch.export.save(program, tmp_path / "model.pt2")
    harm = json.dumps(f"__import__('os').mkdir('{mark}')")[1:-1]
    with zipfile.ZipFile(tmp_path / "model.pt2") as archive:
        (name,) = (n for n in archive.namelist() if "/models/" in n)
        graph = archive.read(name).decode()
    start = graph.index('"expr_str": "') + len('"expr_str": "')
    old = graph[start : graph.index('"', start)]
    bad = rewritten(tmp_path / "model.pt2", in_code(f'"{old}"', f'"{harm}"'))
    assert refused(bad).endswith(TRUST)
    assert not mark.exists()
    trusted(cli, bad, picture)
    assert mark.exists()


def test_compiled_code_beside_an_exported_program_is_not_loaded(
    refused: Callable, cli: Callable, picture: Callable, good: Path, monkeypatch
) -> None:
    loaded: list[str] = []
    monkeypatch.setattr(
        "torch.export.pt2_archive._package._load_aoti", lambda *given: loaded.append(given[1])
    )
    bad = rewritten(good, lambda _, content: content, data__aotinductor__harm__code=b"\x7fELF")
    said = refused(bad)
    assert "data/aotinductor/harm/code" in said
    assert said.endswith(TRUST)
    assert loaded == []
    assert trusted(cli, bad, picture).status == 0
    assert loaded == ["harm"]


def test_the_process_itself_leaves_a_harmful_file_shut(camcli, tmp_path, picture, mark) -> None:
    torch.save({"model": Bomb(mark)}, tmp_path / "model.pth")
    done = camcli(
        "explain", picture("a.png"), "--model", tmp_path / "model.pth", "-o", tmp_path / "out",
        check=1,
    )  # fmt: skip
    (line,) = done.stderr.decode().splitlines()
    assert line.endswith("give --trust-model if you trust where it comes from")
    assert not mark.exists()
