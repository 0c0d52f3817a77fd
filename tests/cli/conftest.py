"""The command line run in this process, where the process itself is not what is tested."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from camcli.cli.app import main


class Done(NamedTuple):
    status: int
    stdout: str
    stderr: str


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Runs one command: `cli("render", out, "--caption").status`."""

    def run(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["camcli", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return Done(int(ended.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture
def refused(cli: Callable[..., Done], picture: Callable, tmp_path: Path) -> Callable[..., str]:
    """The sentence with which explain refuses a model file: one line, and nothing is written.

    `camcli layers` says the same, or with `listed`, where only the layer is at fault, lists them.
    """
    prepared = ["--size", "32", "--mean", "0.5,0.5,0.5", "--std", "0.5,0.5,0.5", "--device", "cpu"]

    def refuse(path: object, *options: object, status: int = 1, listed: bool = False) -> str:
        out = tmp_path / "out"
        explain = ["explain", picture("in/a.png"), "--model", path, "-o", out, "--batch-size", "2"]
        done = cli(*explain, *prepared, *options)
        assert (done.status, done.stdout) == (status, "")
        (sentence,) = done.stderr.splitlines()
        assert re.fullmatch(r"camcli: .+[;:,] .+", sentence)  # what happened, and what to do
        assert "Traceback" not in sentence
        assert set(os.listdir(out)) <= {".camcli.lock"}
        found = cli("layers", path, "--size", "32")
        if listed:
            assert found.status == 0
            assert found.stdout.count("* ") == 1
        else:
            assert (found.status, found.stdout, found.stderr) == (status, "", done.stderr)
        return sentence.removeprefix("camcli: ")

    return refuse
