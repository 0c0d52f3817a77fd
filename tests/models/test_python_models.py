"""Models from the user's own code, and what is said where that code fails."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from camcli.cli.app import main
from camcli.errors import ModelError, UsageError
from camcli.models.opening import open_model

CODE = """
import torch
from torch import nn
from neighbour import WIDTH

class Net(nn.Module):
    def __init__(self, classes=3):
        super().__init__()
        self.model = nn.Sequential(nn.Conv2d(3, WIDTH, 4, 4), nn.ReLU())
        self.head = nn.Linear(WIDTH, classes)

    def forward(self, x):
        logits = self.head(self.model(x).mean(dim=(2, 3)))
        return {"features": self.model(x), "logits": logits, "other": -logits}

def fails():
    raise ValueError("no such checkpoint\\nsecond line")

def number():
    return 3

def scripted():
    return torch.jit.script(nn.Linear(2, 2))

constant = 7
"""
HALF = {"size": (32, 32), "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


@pytest.fixture
def code(tmp_path: Path) -> Path:
    (tmp_path / "neighbour.py").write_text("WIDTH = 8\n")
    (tmp_path / "mine.py").write_text(CODE)
    return tmp_path / "mine.py"


@pytest.fixture(autouse=True)
def _forgotten() -> object:
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name in ("neighbour", "mine") or name.startswith("camcli_model_"):
            del sys.modules[name]


def test_a_callable_in_a_file_gives_the_same_model_every_time(code: Path) -> None:
    path, torch_state = list(sys.path), torch.get_rng_state()
    one, two = (open_model(f"{code}:Net", device="cpu", **HALF) for _ in range(2))
    assert one.classes.count == 3
    assert one.weights_sha256 == two.weights_sha256
    assert sys.path == path
    assert torch.equal(torch.get_rng_state(), torch_state)
    code.write_text(CODE + "# changed\n")
    assert open_model(f"{code}:Net", device="cpu", **HALF).weights_sha256 != one.weights_sha256


def test_the_answer_can_be_named(code: Path) -> None:
    x = torch.zeros(1, 3, 32, 32)
    found = {}
    for output in (None, "logits", "other"):
        model = open_model(f"{code}:Net", device="cpu", output=output, **HALF)
        with model.network.prepared(), torch.no_grad():
            found[output] = model.logits(x)
    assert torch.equal(found[None], found["logits"])
    assert torch.equal(found["other"], -found["logits"])
    with pytest.raises(UsageError, match="--output-key nothing"):
        open_model(f"{code}:Net", device="cpu", output="nothing", **HALF)


def test_weights_of_a_file_are_loaded_into_it(code: Path, tmp_path: Path) -> None:
    model = open_model(f"{code}:Net", device="cpu", **HALF)
    state = {name: torch.ones_like(t) for name, t in model.network.module.state_dict().items()}
    for number, saved in enumerate((state, {f"module.{n}": t for n, t in state.items()})):
        file = tmp_path / f"{number}.pth"
        torch.save(saved, file)
        filled = open_model(f"{code}:Net", weights=str(file), device="cpu", **HALF)
        torch.testing.assert_close(dict(filled.network.module.state_dict()), state)


def test_a_module_of_the_working_directory_is_found(code: Path, monkeypatch) -> None:
    monkeypatch.chdir(code.parent)
    assert open_model("mine:Net", device="cpu", **HALF).name == "mine:Net"


@pytest.mark.parametrize(
    ("name", "fault", "says"),
    [
        ("{code}:fails", ModelError, r"raised ValueError: no such checkpoint \(.*mine\.py:\d+\)$"),
        ("{code}:number", ModelError, "returned int; a torch.nn.Module is needed"),
        ("{code}:Nett", UsageError, r"has no 'Nett'; did you mean 'Net'\?"),
        ("{code}:constant", UsageError, "'constant' is a int; name a function or a class"),
        ("gone.py:Net", UsageError, "no Python file 'gone.py'"),
        ("no_such_package.models:Net", UsageError, "no Python module 'no_such_package.models'"),
    ],
)
def test_what_is_wrong_is_one_sentence(code: Path, name: str, fault, says: str) -> None:
    with pytest.raises(fault) as caught:
        open_model(name.format(code=code), device="cpu", **HALF)
    assert re.search(says, str(caught.value))
    assert "\n" not in str(caught.value)


def test_a_file_that_python_cannot_read_is_one_sentence(code: Path) -> None:
    code.write_text("def Net(:\n")
    with pytest.raises(ModelError, match="raised SyntaxError"):
        open_model(f"{code}:Net", device="cpu", **HALF)


def test_how_pictures_are_prepared_is_asked_for(code: Path) -> None:
    with pytest.raises(UsageError, match=r"give --size, --mean, --std as in its training"):
        open_model(f"{code}:Net", device="cpu")


def test_a_run_says_what_it_rests_on_and_notices_a_change_of_code(
    code: Path, picture: Callable[..., Path], tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    out = tmp_path / "out"
    picture("pictures/a.png")

    def run() -> tuple[int, str]:
        flags = ["--size", "32", "--mean", "0.5,0.5,0.5", "--std", "0.5,0.5,0.5"]
        argv = ["camcli", "explain", tmp_path / "pictures", "--model", f"{code}:Net", *flags]
        monkeypatch.setattr(sys, "argv", [*map(str, argv), "-o", str(out)])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, capsys.readouterr().err

    status, said = run()
    assert status == 0
    sentence = "Pictures are prepared at 32x32 as said by flags (--size, --mean, --std)"
    assert sentence in said.replace("\n", " ")
    made = json.loads((out / "run.json").read_text())
    assert made["model"]["remarks"][0].startswith(sentence)
    assert made["preprocessing"]["origin"].startswith("flags (--size")
    code.write_text(CODE + "# changed\n")
    status, said = run()
    assert status == 2
    assert "made with another weights" in said
