"""What surrounds tasks on Ray, without a cluster: watched processes, the desk, sentences."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from camcli.cli.ray import spelled_out
from camcli.cluster import joining, tasks, watch
from camcli.cluster.joining import Need
from camcli.cluster.tasks import Desk, Order
from camcli.cluster.watch import Growth, Said
from camcli.errors import CamcliError, UsageError
from camcli.shard import Shard

SAMPLES = Path(__file__).parents[2] / "samples"


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (["--ray"], ["--ray=local"]),
        (["--ray", "-o", "out"], ["--ray=local", "-o", "out"]),
        (["--ray", "pictures/"], ["--ray=local", "pictures/"]),
        (["--ray", "head:6379", "a"], ["--ray", "head:6379", "a"]),
        (["--ray", "[::1]:6379"], ["--ray", "[::1]:6379"]),
        (["--ray", "auto"], ["--ray", "auto"]),
        (["--ray", "none"], ["--ray", "none"]),
        (["--ray=x", "a"], ["--ray=x", "a"]),
        (["--ray", "--", "auto"], ["--ray=local", "--", "auto"]),
        (["--", "--ray"], ["--", "--ray"]),
    ],
)
def test_the_address_may_be_left_out(typed: list[str], meant: list[str]) -> None:
    assert spelled_out(typed) == meant


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (["--ray", "--overwrite"], 2, "--overwrite does not go with --ray, whose processes share"),
        (["--ray", "--limit", "5"], 2, "--limit 5 takes the first inputs, which the processes of"),
        (["--ray", "--device", "cuda:1"], 2, "--device cuda:1 does not go with --ray, which gives"),
        (["--ray=there"], 2, "--ray must be HOST:PORT, auto, local or none, not 'there'"),
    ],
)
def test_what_does_not_go_together_is_refused_before_ray_is_imported(
    camcli: Callable, tmp_path: Path, arguments: list[str], status: int, sentence: str
) -> None:
    done = camcli("explain", SAMPLES, "-o", tmp_path / "out", *arguments, check=status)
    assert done.stderr.decode().startswith(f"camcli: {sentence}")
    assert not (tmp_path / "out").exists()


def test_a_dry_run_lists_what_all_shards_would_do(camcli: Callable, tmp_path: Path) -> None:
    names = sorted(str(path) for path in SAMPLES.glob("*.jpg"))
    listed = camcli("explain", SAMPLES, "-o", tmp_path / "out", "--ray", "--ray-shards=3", "-n")
    assert listed.returncode == 0
    assert sorted(listed.stdout.decode().splitlines()) == names
    assert f"camcli: {len(names)} would be explained".encode() in listed.stderr


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"pip install 'camcli\[ray\]'"), joining.connected("auto"):
        pass


def test_an_address_where_nobody_listens_is_one_sentence() -> None:
    pytest.importorskip("ray", reason="the extra ray is not installed")
    with (
        pytest.raises(CamcliError, match=r"at '127\.0\.0\.1:1' \(Connection refused\); give HOST"),
        joining.connected("127.0.0.1:1"),
    ):
        pass


@pytest.mark.parametrize(
    ("nodes", "device", "workers", "need", "held"),
    [
        ([(1, 0), (1, 0)], "auto", None, Need(1, 0, "cpu"), 2),
        ([(16, 0), (8, 0)], "auto", None, Need(4, 0, "cpu"), 6),
        ([(16, 0), (2, 0)], "auto", None, Need(2, 0, "cpu"), 9),
        ([(16, 0), (2, 0)], "auto", 8, Need(8, 0, "cpu"), 2),
        ([(64, 8), (16, 0)], "auto", None, Need(8, 1, "cuda"), 8),
        ([(64, 8), (16, 4)], "cuda", None, Need(4, 1, "cuda"), 12),
        ([(64, 8)], "cpu", 16, Need(16, 0, "cpu"), 4),
    ],
)
def test_a_task_asks_for_a_gpu_and_its_share_of_the_processors(
    monkeypatch: pytest.MonkeyPatch,
    nodes: list[tuple[int, int]],
    device: str,
    workers: int | None,
    need: Need,
    held: int,
) -> None:
    found = [{"Alive": True, "Resources": {"CPU": float(c), "GPU": float(g)}} for c, g in nodes]
    found.append({"Alive": False, "Resources": {"CPU": 1.0, "GPU": 99.0}})
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(nodes=lambda: found))
    assert joining.needed(device, workers) == (need, held)


@pytest.mark.parametrize(("device", "workers"), [("cuda", None), ("auto", 5)])
def test_what_no_node_has_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, device: str, workers: int | None
) -> None:
    found = [{"Alive": True, "Resources": {"CPU": 4.0}}]
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(nodes=lambda: found))
    with pytest.raises(CamcliError, match="no node of the Ray cluster has "):
        joining.needed(device, workers)


def test_a_task_that_is_started_again_waits_for_the_lock_of_the_lost_one() -> None:
    order = Order(("explain", "a", "--", "-b"), "/", "/out", 4, Need(2, 0, "cpu"), 0.0, {}, None)
    first, again = (order.command(Shard(1, 4), again) for again in (False, True))
    assert "--lock-timeout=0.0" in first
    assert "--lock-timeout=60.0" in again
    assert first[-2:] == ["--", "-b"]
    assert {"--ray=none", "--device=cpu", "--shard=1/4", "--workers=2"} < set(first)


def test_the_desk_keeps_what_is_said_until_it_is_taken_and_tells_all_to_end() -> None:
    desk = Desk()
    assert desk.begin(0, "here") == (0, False)
    assert not desk.hear(0, 3, [b'{"event": "failed"}\n', b"a warning\xff\n"], [b"{}\n"])
    desk.tell()
    assert desk.hear(0, 4, [], [])
    assert desk.begin(0, "there") == (1, True)
    heard, begun = desk.take()
    assert heard.events == [
        (0, {"event": "failed"}),
        (0, {"event": "line", "text": "a warning\\xff"}),
        (0, {"event": "lost", "where": "there"}),
    ]
    assert (heard.records, heard.lines, begun) == ([b"{}\n"], {0: 4}, {0})
    emptied, _ = desk.take()
    assert (emptied.events, emptied.records, emptied.lines) == ([], [], {0: 4})


def test_a_desk_that_is_full_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "_MOST_BYTES", 10)
    desk = Desk()
    desk.hear(0, 0, [], [b"12345678\n"])
    assert not desk.full()
    desk.hear(1, 0, [], [b"12345678\n"])
    assert desk.full()
    desk.take()
    assert not desk.full()


def child(code: str, stdin: bytes | None = None) -> subprocess.Popen[bytes]:
    return watch.started([sys.executable, "-c", code], "/", {"GIVEN": "it"}, stdin)


class Ear:
    """Hears a process, and tells it to end after so many words."""

    def __init__(self, end_at: bytes = b"never") -> None:
        self.end_at, self.records, self.events = end_at, b"", b""

    def __call__(self, said: Said) -> bool:
        self.records += b"".join(said.records)
        self.events += b"".join(said.events)
        said.records.clear()
        said.events.clear()
        return self.end_at in self.records


def test_a_watched_process_gets_its_list_and_is_heard_to_the_last_line() -> None:
    code = (
        "import os, sys\n"
        "print(sys.stdin.read(), os.environ['GIVEN'], os.getcwd())\n"
        "sys.stderr.write('x' * 200_000 + '\\nno newline')"
    )
    ear = Ear()
    assert watch.attend(child(code, b"a list"), ear) == 0
    assert ear.records == b"a list it /\n"
    assert ear.events == b"x" * 200_000 + b"\nno newline\n"


def test_a_watched_process_that_is_to_end_gets_one_sigterm() -> None:
    code = (
        "import signal, sys, time\n"
        "def told(*_): print('told', flush=True); time.sleep(1.5); sys.exit(143)\n"
        "signal.signal(signal.SIGTERM, told)\n"
        "print('ready', flush=True)\n"
        "time.sleep(60)\n"
    )
    ear = Ear(b"ready")
    assert watch.attend(child(code), ear) == 143
    assert ear.records == b"ready\ntold\n"


def test_a_watched_process_ends_with_whoever_watches_it() -> None:
    process = child("import time; time.sleep(60)")

    def deaf(said: Said) -> bool:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        watch.attend(process, deaf)
    assert process.returncode == -signal.SIGKILL


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell a child")
def test_a_process_dies_with_its_parent_and_not_before() -> None:
    code = (
        "import os, sys, time\n"
        "from camcli.cli.process import die_with\n"
        "die_with(int(sys.argv[1]) if len(sys.argv) > 1 else os.getppid())\n"
        "print(os.getpid(), flush=True)\n"
        "time.sleep(60)\n"
    )
    middle = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {code!r}])"
    parent = subprocess.Popen([sys.executable, "-c", middle], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    os.kill(pid, 0)
    parent.kill()
    assert parent.stdout.read() == b""  # which it holds for as long as it lives
    parent.wait()
    parent.stdout.close()
    orphan = subprocess.run([sys.executable, "-c", code, "1"], check=False, timeout=30)
    assert orphan.returncode == 128 + signal.SIGKILL


def test_a_journal_is_counted_as_it_grows_and_anew_where_it_shrank(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    growth = Growth(path)
    assert growth.count() == 0
    path.write_bytes(b"1\n2\ntorn")
    assert growth.count() == 2
    path.write_bytes(b"1\n2\n")
    assert growth.count() == 2
    with path.open("ab") as file:
        file.write(b"3\n")
    assert growth.count() == 3


def test_how_a_process_was_lost_is_named() -> None:
    assert watch.crashed(-9) == "SIGKILL"
