"""Making one run of shards: whole at every moment, and the same however often."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from camcli.errors import LockedError, OutputError, UsageError
from camcli.outputs import manifest
from camcli.outputs.files import locked
from camcli.outputs.merging import merge
from camcli.shard import WHOLE, Shard
from tests.written import journalled

KEYS = [f"{folder}{n}.jpg" for folder in ("", "a/", "a-b/", "b/c/") for n in range(6)]


def line(key: str, **more: object) -> dict[str, object]:
    return {"key": key, "source": f"/{key}", "status": "ok", "size": 1, "mtime_ns": 2} | more


def run_file(shard: Shard, **more: object) -> dict[str, object]:
    count = sum(map(shard.holds, KEYS))
    return {
        "camcli_version": "0.1.0",
        "status": "done",
        "shard": {"index": shard.index, "count": shard.count},
        "argv": ["camcli", "explain", f"--shard={shard}"],
        "cwd": "/",
        "device": f"cuda:{shard.index}",
        "first_started": f"2026-01-0{3 - shard.index}",
        "started": f"2026-02-0{3 - shard.index}",
        "ended": f"2026-03-0{3 + shard.index}",
        "identity": {"method": ["hirescam"], "batch size": 8},
        "config_hash": "8",
        "batch_size": 8,
        "drawing_hash": "1",
        "write": ["json", "npz", "overlay"],
        "counts": {"found": count, "done": count, "failed": 0, "ignored": 4, "journal": count},
        "timings": {"explain_seconds": 1.5},
        "verdict": [f"{count} maps", "a sentence for all"],
    } | more


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Three shards that are done; one input was explained twice."""
    out = tmp_path / "out"
    (out / "maps").mkdir(parents=True)
    for shard in WHOLE.split(3):
        with locked(out, 0, shard):
            manifest.write(out, run_file(shard), shard)
        lines = [line(key) for key in reversed(KEYS) if shard.holds(key)]
        if shard.holds(KEYS[0]):
            lines.insert(0, line(KEYS[0], status="error"))
        whole = "".join(json.dumps(entry) + "\n" for entry in lines)
        (out / shard.journal).write_text(whole + '{"key": "torn')
    (out / ".camcli-tmp-001-of-003-7-7").touch()
    return out


def state(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}


def test_one_journal_and_one_run_file_take_the_place_of_the_shards(out: Path) -> None:
    assert merge(out) == 3
    assert set(state(out)) == {"run.json", "results.jsonl", ".camcli.lock"}
    merged = journalled(out / "results.jsonl")
    assert [entry["key"] for entry in merged] == sorted(KEYS, key=lambda key: key.split("/"))
    assert {entry["status"] for entry in merged} == {"ok"}


def test_the_run_file_sums_what_was_counted_and_keeps_what_each_shard_did(out: Path) -> None:
    merge(out)
    run = json.loads((out / "run.json").read_bytes())
    assert run["counts"] == {"found": 24, "done": 24, "failed": 0, "ignored": 4, "journal": 24}
    assert run["timings"] == {"explain_seconds": 4.5}
    assert (run["first_started"], run["started"]) == ("2026-01-01", "2026-02-01")
    assert (run["ended"], run["status"]) == ("2026-03-05", "done")
    assert run["verdict"].count("a sentence for all") == 1
    assert [part["index"] for part in run["shards"]] == [0, 1, 2]
    assert [part["device"] for part in run["shards"]] == ["cuda:0", "cuda:1", "cuda:2"]
    assert "shard" not in run


def test_merging_again_changes_nothing(out: Path) -> None:
    merge(out)
    before = state(out)
    assert merge(out) == 0
    assert state(out) == before


def test_the_same_shards_give_the_same_bytes_whatever_their_lines_order(
    out: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(out, tmp_path / "other")
    last = Shard(2, 3).journal
    lines = (other / last).read_bytes().splitlines(keepends=True)
    (other / last).write_bytes(b"".join(sorted(lines[:-1]) + lines[-1:]))
    merge(out)
    merge(other)
    assert state(other) == state(out)


@pytest.mark.parametrize("act", ["replace", "unlink", "fsync"])
def test_a_merge_that_is_broken_off_leaves_one_of_the_two_and_the_next_ends_it(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, act: str
) -> None:
    whole = shutil.copytree(out, tmp_path / "whole")
    merge(whole)
    usual, broken = getattr(os, act), 0
    for allowed in range(12):
        here = shutil.copytree(out, tmp_path / f"{allowed}")
        left = [allowed]

        def fails(*arguments: object, left: list[int] = left, **more: object) -> object:
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            return usual(*arguments, **more)

        with monkeypatch.context() as patch:
            patch.setattr(os, act, fails)
            try:
                merge(here)
            except KeyboardInterrupt:
                broken += 1
        runs = manifest.read_all(here)
        assert list(runs) in ([WHOLE], list(WHOLE.split(3)))
        found = {entry["key"] for shard in runs for entry in journalled(here / shard.journal)}
        assert found == set(KEYS)
        merge(here)
        assert state(here) == state(whole)
    assert broken >= 2


def test_a_full_disk_is_one_sentence_and_the_shards_stay(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = state(out)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=r"cannot write to .* \(No space left on device\)"):
        merge(out)
    assert before.items() <= state(out).items()


def test_shards_that_are_missing_or_not_done_are_named(out: Path) -> None:
    (out / Shard(1, 3).run_file).unlink()
    manifest.write(out, run_file(Shard(2, 3), status="stopped"), Shard(2, 3))
    before = state(out)
    with pytest.raises(UsageError) as error:
        merge(out)
    assert str(error.value) == (
        f"'{out}' cannot be merged yet: shard 1/3 is not started and shard 2/3 is not finished; "
        "run explain again with --shard 1/3"
    )
    assert state(out) == before


def test_a_directory_without_a_run_cannot_be_merged(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no camcli run; give the -o of an explain run"):
        merge(tmp_path)


def test_the_smaller_batches_of_a_shard_that_ran_out_of_memory_go_on(out: Path) -> None:
    halved = {"batch_size": 4, "config_hash": "4",
              "identity": {"method": ["hirescam"], "batch size": 4}}  # fmt: skip
    manifest.write(out, run_file(Shard(1, 3), **halved), Shard(1, 3))
    merge(out)
    run = manifest.read(out)
    assert run is not None
    assert (run["batch_size"], run["config_hash"]) == (4, "4")
    assert run["earlier_config_hashes"] == ["8"]  # the other shards' records name that one
    assert [part["batch_size"] for part in run["shards"]] == [8, 4, 8]


def test_a_shard_that_was_killed_after_its_last_input_is_merged_too(out: Path) -> None:
    """The run that found nothing left to do noted how it ended; how long it took is not known."""
    killed = run_file(Shard(1, 3))
    del killed["timings"], killed["verdict"]
    manifest.write(out, killed, Shard(1, 3))
    merge(out)
    run = manifest.read(out)
    assert run is not None
    assert run["timings"] == {"explain_seconds": 3.0}
    assert (run["shards"][1]["timings"], run["shards"][1]["verdict"]) == ({}, [])


def test_other_maps_are_not_merged(out: Path) -> None:
    other = {"identity": {"method": ["gradcam"], "batch size": 8}}
    manifest.write(out, run_file(Shard(1, 3), **other), Shard(1, 3))
    with pytest.raises(UsageError, match="hold different maps and cannot be merged"):
        merge(out)


def test_overlays_that_were_drawn_otherwise_are_for_the_next_run_to_draw(out: Path) -> None:
    manifest.write(out, run_file(Shard(1, 3), drawing_hash="2"), Shard(1, 3))
    merge(out)
    run = manifest.read(out)
    assert run is not None
    assert run["write"] == ["json", "npz"]


def test_the_command_says_what_it_did_and_waits_for_no_shard(out: Path, camcli: Callable) -> None:
    with locked(out, 0, Shard(1, 3)):
        assert b"another run is writing to" in camcli("merge", out, check=75).stderr
    done = camcli("merge", out, check=0)
    assert done.stderr.decode() == f"camcli: 3 shards are one run now: {out}\n"
    done = camcli("merge", out, check=0)
    assert done.stderr.decode() == f"camcli: one run already: {out}\n"
    assert camcli("merge", out, "-q", check=0).stderr == b""
    done = camcli("merge", out / "none", check=2)
    assert b"no directory" in done.stderr
    assert not (out / "none").exists()


def test_several_directories_are_merged_each_for_itself(out: Path, camcli: Callable) -> None:
    other = out.with_name("other")
    shutil.copytree(out, other)
    before = sorted(path.name for path in out.iterdir())
    camcli("merge", out, other / "none", check=2)  # what is wrong is said before anything is done
    assert sorted(path.name for path in out.iterdir()) == before
    done = camcli("merge", out, other, check=0)
    assert done.stderr.decode().splitlines() == [
        f"camcli: 3 shards are one run now: {folder}" for folder in (out, other)
    ]
    assert (out / "results.jsonl").read_bytes() == (other / "results.jsonl").read_bytes()


def test_a_shards_lock_can_be_taken_after_a_merge(out: Path) -> None:
    merge(out)
    with locked(out, 0), pytest.raises(LockedError), locked(out, 0, Shard(0, 3)):
        pass
