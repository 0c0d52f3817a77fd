"""The command line run in this process, where the process itself is not what is tested."""

from __future__ import annotations

import sys
from collections.abc import Callable
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
