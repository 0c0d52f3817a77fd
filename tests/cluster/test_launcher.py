"""One process for each device: what is handed to them, what comes back, and how they end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch

from camcli import config
from camcli.cli.explain import job_of
from camcli.cluster import launcher
from camcli.cluster.launcher import Fleet, Part, visible_gpus, worst
from camcli.errors import ModelError, OutputError
from camcli.models.opening import find_device
from camcli.outputs.files import locked
from camcli.run import Run
from camcli.shard import WHOLE, Shard
from tests.benchmarks.million import plant
from tests.written import outputs

SAMPLES = Path(__file__).parents[2] / "samples"
FLAGS = ["--model=squeezenet1_1", "--weights=none", "--size=64", "--batch-size=2"]
DEVICES = ["cpu", "cpu"]
TWO = (
    "from camcli.cluster import launcher\n"
    "launcher.visible_gpus = lambda: ['cpu', 'cpu']\n"
    "from camcli.cli.app import main\n"
    "main()\n"
)


class Two:
    """The command line as a process, where cuda:all is two devices."""

    def __init__(self, *arguments: object) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", TWO, *map(str, arguments)],
            env=environment,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def end(self) -> tuple[int, str, list[str]]:
        out, err = self.process.communicate(timeout=300)
        return self.process.returncode, out, err.splitlines()


def journal_lines(out: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in out.glob("results-*.jsonl"))


def whole(images: Path, out: Path) -> dict[str, bytes]:
    """What one process writes, with one thread too: on a CPU their number decides the last bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    settings = dict(flag.removeprefix("--").replace("-", "_").split("=") for flag in FLAGS)
    chosen, _ = config.resolve(settings | {"output": str(out)}, {}, None)
    list(Run(job_of(chosen, (str(images),), set())).records())
    torch.set_num_threads(before)
    return outputs(out)


def test_two_devices_write_what_one_process_writes(tmp_path: Path) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    for n, sample in enumerate(SAMPLES.glob("*.jpg")):
        shutil.copy(sample, images / f"{n}.jpg")
    command = ["explain", "--device", "cuda:all", "--json", images, "-o", out, *FLAGS]
    status, printed, said = Two(*command).end()
    assert status == 0, said
    assert sorted(json.loads(line)["key"] for line in printed.splitlines()) == [
        f"{n}.jpg" for n in range(5)
    ]
    assert said[-1] == f"camcli: 2 of 2 shards are done, with 5 inputs: {out}"
    assert outputs(out) == whole(images, tmp_path / "whole")


@pytest.mark.parametrize("number", [
    pytest.param(signal.SIGTERM, marks=pytest.mark.slow),
    pytest.param(signal.SIGINT, marks=pytest.mark.soak),
    pytest.param(signal.SIGHUP, marks=pytest.mark.soak),
])  # fmt: skip
def test_a_signal_finishes_what_is_in_flight_and_the_same_command_goes_on(
    tmp_path: Path, number: signal.Signals
) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    plant(images, 200, 50)
    command = ["explain", "--device", "cuda:all", images, "-o", out, *FLAGS]
    stopped = Two(*command)
    while journal_lines(out) < 2:
        assert stopped.process.poll() is None
        time.sleep(0.02)
    stopped.process.send_signal(number)
    status, _, said = stopped.end()
    assert status == 128 + number
    assert f"camcli: stopped by {number.name}; the same command goes on from here" in said
    committed = journal_lines(out)
    assert 2 <= committed < 200
    assert len(outputs(out)) == 3 * committed
    assert Two(*command).end()[0] == 0
    assert outputs(out) == whole(images, tmp_path / "whole")


@pytest.mark.slow
def test_a_launcher_that_is_killed_takes_its_processes_with_it(tmp_path: Path) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    plant(images, 200, 50)
    command = ["explain", "--device", "cuda:all", images, "-o", out, *FLAGS]
    launched = Two(*command)
    while journal_lines(out) < 2:
        assert launched.process.poll() is None
        time.sleep(0.02)
    launched.process.kill()
    launched.end()  # nobody holds its pipes any more
    with ExitStack() as held:
        for shard in WHOLE.split(2):
            held.enter_context(locked(out, 10, shard))
    assert journal_lines(out) < 200


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Has some other Python text stand for `python -m camcli`; `shard` is what it is told."""

    def stand(text: str) -> None:
        path = tmp_path / "stub.py"
        path.write_text(
            "import os, signal, sys, time\n"
            "shard = next(a[8:] for a in sys.argv if a.startswith('--shard='))\n" + text
        )
        monkeypatch.setattr(launcher, "_python", lambda: [sys.executable, str(path)])

    return stand


class Heard:
    """A fleet over two devices, and what it was told."""

    def __init__(self, reads: Callable[[bytes], bool] = lambda line: True, **more: bool) -> None:
        self.said: list[tuple[Shard, str]] = []
        self.printed: list[bytes] = []

        def emit(line: bytes) -> bool:
            self.printed.append(line)
            return reads(line)

        parts = [Part(s, d) for s, d in zip(WHOLE.split(2), DEVICES, strict=True)]
        self.fleet = Fleet(parts, lambda *said: self.said.append(said), emit, **more)

    def run(self, stdin: Path | None = None) -> int:
        return self.fleet.run(["explain", "a", "--", "-b"], None, stdin)


def test_each_process_gets_the_arguments_its_device_and_its_shard(
    stub: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 12)
    stub("print(sys.argv[1:])\n")
    heard = Heard()
    assert heard.run() == 0
    assert sorted(heard.printed) == [
        f"['-m', 'camcli', 'explain', 'a', '--parent={os.getpid()}', '--device=cpu', "
        f"'--shard={shard}', '--workers=6', '--', '-b']\n".encode()
        for shard in ("0/2", "1/2")
    ]


def test_what_they_say_is_handed_on_with_their_shard(stub: Callable) -> None:
    stub("print('one', file=sys.stderr)\nprint('two', shard, file=sys.stderr)\n")
    heard = Heard()
    heard.run()
    assert sorted(heard.said) == [
        (Shard(n, 2), said) for n in (0, 1) for said in ("one", f"two {n}/2")
    ]


def test_where_nobody_listens_the_processes_go_on(stub: Callable) -> None:
    stub("print('x' * 1000 + '\\n' * 1000, file=sys.stderr)\nprint('finished')\n")
    heard = Heard()

    def closed(shard: Shard, line: str) -> None:
        raise BrokenPipeError

    heard.fleet.say = closed
    assert heard.run() == 0
    assert heard.printed == [b"finished\n"] * 2


def test_what_was_told_to_end_before_it_started_does_not_start(stub: Callable) -> None:
    stub("print('started')\n")
    heard = Heard()
    heard.fleet.tell(signal.SIGTERM)
    assert heard.run() == 0
    assert heard.printed == []


def test_lines_of_two_processes_do_not_mix(stub: Callable) -> None:
    stub("for n in range(50):\n    sys.stdout.write(shard * 30_000); sys.stdout.flush(); print()\n")
    heard = Heard()
    heard.run()
    expected = [shard * 30_000 + b"\n" for shard in (b"0/2", b"1/2") for _ in range(50)]
    assert sorted(heard.printed) == expected


def test_every_process_reads_the_same_list(stub: Callable, tmp_path: Path) -> None:
    (tmp_path / "list").write_text("a\nb\n")
    stub("print(shard, sys.stdin.read().split())\n")
    heard = Heard()
    heard.run(tmp_path / "list")
    assert sorted(heard.printed) == [b"0/2 ['a', 'b']\n", b"1/2 ['a', 'b']\n"]


@pytest.mark.parametrize(
    ("statuses", "status"),
    [
        ([0, 0], 0), ([0, 3], 3), ([4, 4], 4), ([0, 4], 4), ([3, 4], 3), ([3, 75], 75),
        ([75, 2], 2), ([2, 1], 1), ([143, 3], 143), ([130, 1], 1), ([-9, 3], 1), ([-11, 2], 1),
        ([-15, 3], 143), ([-2, 0], 130), ([-1, 0], 129), ([1, 99], 99), ([], 0),
    ],
)  # fmt: skip
def test_the_worst_status_counts_and_a_crash_is_fatal(statuses: list[int], status: int) -> None:
    assert worst(statuses) == worst(reversed(statuses)) == status


def test_a_process_that_is_killed_is_named_and_the_other_finishes(stub: Callable) -> None:
    stub("if shard == '0/2': os.kill(os.getpid(), 9)\ntime.sleep(0.3); print('finished')\n")
    heard = Heard()
    assert heard.run() == 1
    assert heard.printed == [b"finished\n"]
    assert list(heard.fleet.killed) == [(Part(Shard(0, 2), "cpu"), signal.SIGKILL)]


WAITING = (
    "signal.signal(signal.SIGTERM, lambda *_: (print('told', flush=True), time.sleep({0}), "
    "sys.exit(143)))\n"
    "print('ready', flush=True)\n"
    "time.sleep(60)\n"
)


@pytest.mark.parametrize(("seconds", "again"), [(0, False), (60, True)])
def test_a_signal_is_handed_on_once_and_a_second_kills(
    stub: Callable, seconds: int, again: bool
) -> None:
    stub(WAITING.format(seconds))
    told = threading.Semaphore(0)
    ready = threading.Semaphore(0)

    def hears(line: bytes) -> bool:
        (told if line == b"told\n" else ready).release()
        return True

    heard = Heard(hears)

    def act() -> None:
        ready.acquire()
        ready.acquire()
        heard.fleet.tell(signal.SIGTERM)
        if again:
            told.acquire()
            told.acquire()
            heard.fleet.kill()

    acting = threading.Thread(target=act)
    acting.start()
    started = time.monotonic()
    status = heard.run()
    acting.join()
    assert time.monotonic() - started < 50
    assert sorted(heard.fleet.ended.values()) == ([-9, -9] if again else [143, 143])
    assert status == (1 if again else 143)
    assert sorted(heard.printed) == [b"ready\n"] * 2 + [b"told\n"] * 2
    assert not list(heard.fleet.killed)


def test_the_first_failure_stops_all_where_that_is_asked_for(stub: Callable) -> None:
    stub(
        "if shard == '0/2': sys.exit(3)\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n"
        "time.sleep({})\n".format("60 if '--fail-fast' else 0")
    )
    started = time.monotonic()
    assert Heard(fail_fast=True).run() == 3
    assert time.monotonic() - started < 50


def test_when_nobody_reads_on_the_processes_learn_of_it(stub: Callable) -> None:
    stub(
        "try:\n"
        "    while True: print('a line', flush=True)\n"
        "except BrokenPipeError:\n"
        "    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)\n"
    )
    assert Heard(lambda line: False).run() == 0


def test_a_stdout_that_cannot_be_written_ends_all_and_is_the_error(stub: Callable) -> None:
    stub("print('a line', flush=True)\ntime.sleep(60)\n")

    def full(line: bytes) -> bool:
        raise OutputError("stdout cannot be used (No space left on device)")

    started = time.monotonic()
    with pytest.raises(OutputError, match="stdout cannot be used"):
        Heard(full).run()
    assert time.monotonic() - started < 50


def test_without_a_gpu_the_usual_sentence_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(ModelError) as error:
        visible_gpus()
    assert str(error.value) == (
        "--device cuda:all cannot be used (torch sees no GPU); see camcli doctor"
    )


def test_gpus_are_counted_by_torch_in_another_process(
    stub: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "stub.py").write_text("print(3)")
    monkeypatch.setattr(launcher, "_python", lambda: [sys.executable, str(tmp_path / "stub.py")])
    assert visible_gpus() == ["cuda:0", "cuda:1", "cuda:2"]
    (tmp_path / "stub.py").write_text("raise ImportError('no torch here')")
    with pytest.raises(ModelError, match=r"\(ImportError: no torch here\); see camcli doctor"):
        visible_gpus()


@pytest.mark.parametrize(("place", "gpu"), [(None, 0), ("1", 1), ("5", 1), ("x", 0), ("", 0)])
def test_processes_that_torchrun_started_take_a_gpu_each(
    monkeypatch: pytest.MonkeyPatch, place: str | None, gpu: int
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4 if place == "1" else 2)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if place is not None:
        monkeypatch.setenv("LOCAL_RANK", place)
    assert find_device("auto") == torch.device(f"cuda:{gpu}")
