"""What a model warns of: a sentence on stderr, once, and in run.json; nothing where it is quiet."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

PREPARED = ["--mean", "0.5,0.5,0.5", "--std", "0.5,0.5,0.5"]
TRAINING = "odd.pt was saved in training mode, with dropout or batch statistics switched on for "
PIECES = "odd.pt was traced for batches of 1: larger ones are run in pieces, which is slower; "


class Odd(nn.Module):
    """Its trace drops out what it likes, and holds the number of pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.ReLU())
        self.drop, self.fc = nn.Dropout(0.01), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.features(x).mean(dim=(2, 3))
        return self.fc(self.drop(pooled.reshape(int(x.shape[0]), 8)))


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(Odd().train(), torch.zeros(1, 3, 32, 32), check_trace=False)
        torch.jit.save(traced, tmp_path / "odd.pt")
    return tmp_path / "odd.pt"


def test_explain_says_it_in_a_sentence_once_and_records_it(
    camcli: Callable, odd: Path, picture: Callable, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = camcli("explain", picture("a.png"), "--model", odd, *PREPARED, "-o", out, check=0)
    said = done.stderr.decode().splitlines()
    remarks = json.loads((out / "run.json").read_text())["model"]["remarks"]
    for sentence in (TRAINING, PIECES):
        (line,) = [line for line in said if sentence in line]
        assert line.startswith("odd.pt")
        assert line in remarks
    assert not [line for line in said if "Warning" in line or ".py:" in line]


def test_quiet_says_nothing(camcli: Callable, odd: Path, picture: Callable, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = camcli("explain", picture("a.png"), "--model", odd, *PREPARED, "-o", out, "-q", check=0)
    assert (done.stdout, done.stderr) == (b"", b"")
    remarks = json.loads((out / "run.json").read_text())["model"]["remarks"]
    assert any(PIECES in sentence for sentence in remarks)


def test_layers_says_it_and_nothing_of_colours_that_it_did_not_ask_for(
    camcli: Callable, odd: Path
) -> None:
    said = camcli("layers", odd, check=0).stderr.decode().splitlines()
    for sentence in (TRAINING, PIECES):
        assert len([line for line in said if line.startswith("camcli: " + sentence)]) == 1
    assert not [line for line in said if "Warning" in line or "Pictures are prepared" in line]
