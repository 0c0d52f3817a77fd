"""`--device cuda:all`: what the command line refuses, hands on and sums up. No process explains."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from camcli.cluster import launcher
from camcli.outputs import manifest
from camcli.shard import WHOLE, Shard

SMALL = ["--model", "squeezenet1_1", "--weights", "none", "--size", "64", "--batch-size", "2"]
# Stands for a process: it writes a run file, and says what it was given.
STUB = (
    "import json, os, sys\n"
    "from pathlib import Path\n"
    "from camcli.outputs import manifest\n"
    "from camcli.shard import Shard\n"
    "told = {a.split('=')[0]: a.split('=')[1] for a in sys.argv if '=' in a}\n"
    "shard = Shard.parsed(told['--shard'], '')\n"
    "out = Path(sys.argv[sys.argv.index('-o') + 1])\n"
    "out.mkdir(exist_ok=True)\n"
    "run = {'camcli_version': '0', 'status': 'done', 'counts': {'journal': 5}}\n"
    "manifest.write(out, run, shard)\n"
    "print(json.dumps([told['--device'], sys.stdin.read()]))\n"
    "print('camcli: heard', file=sys.stderr)\n"
    "if 'SAY' in os.environ: print(os.environ['SAY'], file=sys.stderr)\n"
    "if os.environ.get('DIE') == str(shard): os.kill(os.getpid(), 9)\n"
)


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine with two GPUs; stand-ins explain on them."""
    (tmp_path / "stub.py").write_text(STUB)
    monkeypatch.setattr(launcher, "_python", lambda: [sys.executable, str(tmp_path / "stub.py")])
    monkeypatch.setattr(launcher, "visible_gpus", lambda: ["cuda:0", "cuda:1"])
    monkeypatch.setenv("PYTHONPATH", os.getcwd())


@pytest.fixture
def explain(cli: Callable, picture: Callable, tmp_path: Path) -> Callable:
    """`camcli explain --device cuda:all -o OUT`, over one picture if nothing else is named."""
    picture("in/a.png")

    def run(*arguments: object) -> object:
        named = arguments or (tmp_path / "in",)
        return cli("explain", "--device", "cuda:all", "-o", tmp_path / "out", *named)

    return run


@pytest.mark.usefixtures("two")
def test_each_gpu_has_a_process_and_they_are_summed_up(explain: Callable, tmp_path: Path) -> None:
    done = explain()
    assert done.status == 0
    assert sorted(map(json.loads, done.stdout.splitlines())) == [["cuda:0", ""], ["cuda:1", ""]]
    *heard, last = done.stderr.splitlines()
    assert sorted(heard) == ["[0/2] camcli: heard", "[1/2] camcli: heard"]
    assert last == f"camcli: 2 of 2 shards are done, with 10 inputs: {tmp_path / 'out'}"


@pytest.mark.usefixtures("two")
def test_a_machine_of_several_splits_its_own_shard(explain: Callable, tmp_path: Path) -> None:
    assert explain(tmp_path / "in", "--shard", "1/3", "-q").status == 0
    assert manifest.shards(tmp_path / "out") == [Shard(2, 6), Shard(3, 6)]


@pytest.mark.usefixtures("two")
def test_a_process_that_is_killed_is_named_with_its_gpu(
    explain: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIE", "1/2")
    done = explain()
    assert done.status == 1
    assert (
        "camcli: shard 1/2: SIGKILL ended it on cuda:1; the same command goes on from there"
        in done.stderr.splitlines()
    )


@pytest.mark.usefixtures("two")
def test_what_processes_say_is_events_with_their_shard(
    explain: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DIE", "1/2")
    monkeypatch.setenv("SAY", '{"event": "failed", "time": "now", "key": "a.png"}')
    done = explain(tmp_path / "in", "--log-format", "json")
    assert done.status == 1
    events = [json.loads(line) for line in done.stderr.splitlines()]
    failed = [event for event in events if event["event"] == "failed"]
    assert sorted(event["shard"] for event in failed) == ["0/2", "1/2"]
    assert failed[0] == {"event": "failed", "time": "now", "key": "a.png"} | {
        "shard": failed[0]["shard"]
    }
    remarks = [event for event in events if event["event"] == "remark"]
    assert [event["message"] for event in remarks] == ["camcli: heard"] * 2
    started, *_, error, finished = [event for event in events if event["event"] != "remark"]
    assert (started["event"], error["event"], error["shard"]) == ("started", "error", "1/2")
    assert error["error"]["type"] == "ShardError"
    assert (finished["event"], finished["exit_status"]) == ("finished", 1)
    assert finished["shards"] == {"done": 2, "count": 2, "inputs": 10}


@pytest.mark.usefixtures("two")
@pytest.mark.parametrize("arguments", [["-"], ["--files-from", "-"]], ids=" ".join)
def test_a_list_on_stdin_is_read_once_and_handed_to_all(
    explain: Callable, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"in/a.png\nin/b.png\n")))
    done = explain(*arguments)
    assert done.status == 0
    assert {json.loads(line)[1] for line in done.stdout.splitlines()} == {"in/a.png\nin/b.png\n"}


@pytest.mark.usefixtures("two")
def test_nothing_on_stdin_is_the_usual_sentence(
    explain: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    done = explain("-")
    assert (done.status, done.stdout) == (2, "")
    assert "a list of paths was expected on stdin" in done.stderr


REFUSED = [
    (["--overwrite"], 2, "--overwrite does not go with --device cuda:all, whose processes share"),
    (["--limit", "5"], 2, "--limit 5 takes the first inputs, which the processes of"),
    (["--files-from", "{0}/pipe"], 2, "{0}/pipe is no file that several processes can read; "),
    (["--files-from", "{0}/none"], 2, "cannot read the list '{0}/none'"),
    (["--shard", "2/2"], 2, "--shard must be none or I/N"),
    (["--scale", "run"], 2, "--scale must be image or a positive number"),
    (["--include", "*.gif"], 4, "no pictures found"),
]


@pytest.mark.usefixtures("two")
@pytest.mark.parametrize(("options", "status", "sentence"), REFUSED, ids=lambda v: str(v)[:30])
def test_what_is_wrong_is_said_once_before_anything_starts(
    explain: Callable, tmp_path: Path, options: list[str], status: int, sentence: str
) -> None:
    os.mkfifo(tmp_path / "pipe")
    given = [option.format(tmp_path) for option in options]
    inputs = [] if "--files-from" in options else [tmp_path / "in"]
    done = explain(*inputs, *given)
    assert (done.status, done.stdout) == (status, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("camcli: ")
    assert sentence.format(tmp_path) in line
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("two")
@pytest.mark.parametrize(
    ("before", "sentence"),
    [(Shard(0, 4), "holds a run in 4 shards, not 2; go on with --shard I/4"),
     (WHOLE, "holds a run that is not in shards; go on without them (--shard none, one --device)")],
    ids=str,
)  # fmt: skip
def test_another_number_of_gpus_than_before_is_one_sentence(
    explain: Callable, tmp_path: Path, before: Shard, sentence: str
) -> None:
    (tmp_path / "out").mkdir()
    manifest.write(tmp_path / "out", {"camcli_version": "0"}, before)
    done = explain()
    assert (done.status, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert sentence in line


def test_a_single_gpu_takes_no_further_process(
    explain: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "visible_gpus", lambda: ["cpu"])
    assert explain(tmp_path / "in", *SMALL).status == 0
    run = manifest.read(tmp_path / "out")
    assert run is not None
    assert run["device"] == "cpu"


def test_without_a_gpu_nothing_starts(
    explain: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    done = explain()
    assert (done.status, done.stdout) == (1, "")
    assert done.stderr == (
        "camcli: --device cuda:all cannot be used (torch sees no GPU); see camcli doctor\n"
    )
    assert not (tmp_path / "out").exists()
