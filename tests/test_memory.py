"""Batches that fit into memory, and runs that go on where it runs out."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from camcli import memory
from camcli.cli.app import app
from camcli.engine import Engine
from camcli.errors import ModelError
from tests.conftest import as_model, live_in, noise_pictures

CPU = torch.device("cpu")


def small() -> Any:
    torch.manual_seed(0)
    layers = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 8, stride=8), torch.nn.ReLU(),
                                 torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),
                                 torch.nn.Linear(8, 10))  # fmt: skip
    return as_model(live_in(layers), 10)


def test_what_says_that_memory_ran_out_is_told_from_other_errors() -> None:
    with pytest.raises(RuntimeError) as told:
        torch.empty(2**60, dtype=torch.uint8)
    assert memory.ran_out(told.value)
    for error in (MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")):
        assert memory.ran_out(error)
    for error in (RuntimeError("memory format option is only supported"), ValueError("no memory")):
        assert not memory.ran_out(error)


@pytest.mark.parametrize(
    ("free", "largest", "expected"),
    [(2**34, 2**20, 16), (16 * 8 * 5 * 2**20, 2**20, 16), (2 * 8 * 7 * 2**20, 2**20, 4), (1, 1, 1)],
)
def test_the_batch_is_the_largest_power_of_two_that_fits(
    free: int, largest: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available", lambda device: free)
    assert memory.fitting(CPU, lambda count: None, largest) == expected


def test_a_limit_of_the_container_counts_as_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    everything = memory.available(CPU)
    assert everything > 2**24
    (tmp_path / "memory.max").write_text("1048576\n")
    (tmp_path / "memory.current").write_text("48576\n")
    assert memory.available(CPU) == 1_000_000
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.available(CPU) > 2**24


def short_of_memory(monkeypatch: pytest.MonkeyPatch, most: int) -> list[int]:
    """No engine explains more than so many pictures at a time; what was tried."""
    explained: Callable[..., Any] = Engine._explained
    tried: list[int] = []

    def limited(self: Engine, pictures: Sequence[Any]) -> Any:
        tried.append(self.batch_size)
        if self.batch_size > most:
            torch.empty(2**60, dtype=torch.uint8)
        return explained(self, pictures)

    monkeypatch.setattr(Engine, "_explained", limited)
    return tried


def test_out_of_memory_batches_are_halved_for_good_and_no_picture_is_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = small()
    pictures = noise_pictures(model, 8)
    expected = Engine(model, batch_size=2).explain(pictures)
    tried = short_of_memory(monkeypatch, most=2)
    engine = Engine(model, batch_size=8)
    found = engine.explain(pictures)
    assert tried == [8, 4, 2, 2, 2, 2]
    assert [one.image.ref for one in found] == [picture.ref for picture in pictures]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.cams[0].cam, other.cams[0].cam)
    engine.explain(pictures[:2])
    assert tried[6:] == [2]


def test_without_memory_for_one_picture_the_run_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    short_of_memory(monkeypatch, most=0)
    model = small()
    with pytest.raises(ModelError, match=r"^small needs more memory for one picture than cpu has"):
        Engine(model, batch_size=4).explain(noise_pictures(model, 4))


def test_a_run_that_was_short_of_memory_goes_on_with_the_same_command(
    picture: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(6):
        picture(f"in/{number}.png", seed=number)
    out = tmp_path / "out"
    run = ["explain", str(tmp_path / "in"), "-o", str(out), "--model", "squeezenet1_1",
           "--weights", "none", "--size", "64", "--resize", "64",
           "--batch-size", "4", "--write", "json,npz"]  # fmt: skip
    with monkeypatch.context() as patch:
        short_of_memory(patch, most=2)
        done = CliRunner().invoke(app, [*run, "--limit", "4"])
    assert done.exit_code == 0, done.output
    sentence = "memory ran out at 4 pictures at a time; from there on it were 2"
    assert sentence in done.output
    record = json.loads((out / "run.json").read_text())
    assert record["batch_size"] == 2
    assert sentence in record["model"]["remarks"]
    again = CliRunner().invoke(app, run)
    assert again.exit_code == 0, again.output
    assert "2 explained, 4 already done" in again.output
    assert json.loads((out / "run.json").read_text())["batch_size"] == 2
    other = CliRunner().invoke(app, [*run[:-4], "--batch-size", "3", *run[-2:]])
    assert "holds maps made with another batch size" in other.stderr
