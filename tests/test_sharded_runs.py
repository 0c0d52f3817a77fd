"""Shards in one directory: together they are one run, and none touches what another did."""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
import torch

from camcli import config
from camcli.cli.explain import job_of
from camcli.errors import LockedError, NoInputsError, OutputError, UsageError
from camcli.images.discover import Inputs, Walk
from camcli.outputs.files import locked
from camcli.outputs.merging import merge
from camcli.outputs.redraw import Redraw
from camcli.run import Run
from camcli.shard import WHOLE, Shard
from tests.benchmarks.million import plant
from tests.written import outputs

SAMPLES = Path(__file__).parent.parent / "samples"
SMALL = {"model": "squeezenet1_1", "weights": "none", "size": "64", "batch_size": "2"}
FLAGS = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
KINDS = ("json", "maps", "overlays")


def a_run(images: Path, out: Path, shard: Shard = WHOLE, **settings: object) -> Run:
    chosen, origins = config.resolve(SMALL | {"output": str(out)} | settings, {}, None)
    asked = {name for name, origin in origins.items() if origin != "default"}
    return Run(job_of(chosen, (str(images),), asked, shard))


def explain(images: Path, out: Path, shard: Shard = WHOLE, **settings: object) -> Run:
    run = a_run(images, out, shard, **settings)
    with locked(out, 0, shard):
        list(run.records())
    return run


def keys(out: Path, shard: Shard) -> list[str]:
    lines = (out / shard.journal).read_bytes().splitlines()
    return [json.loads(line)["key"] for line in lines]


def run_file(out: Path, shard: Shard) -> dict:
    return json.loads((out / shard.run_file).read_bytes())


def started(images: Path, out: Path, shards: Iterable[Shard]) -> list[subprocess.Popen[bytes]]:
    """Each shard in a process of its own."""
    command = [sys.executable, "-m", "camcli", "explain", images, "-o", out, *FLAGS]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return [
        subprocess.Popen([*command, f"--shard={shard}"], stderr=subprocess.PIPE, env=environment)
        for shard in shards
    ]


def finished(running: Iterable[subprocess.Popen[bytes]]) -> None:
    for process in running:
        said = process.communicate(timeout=600)[1]
        assert process.returncode == 0, said


def at_once(images: Path, out: Path, count: int) -> None:
    """All shards, in processes of their own."""
    finished(started(images, out, WHOLE.split(count)))


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """As the processes have, which would be in each other's way; on a CPU it decides a last bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards") / "images"
    for n, sample in itertools.product(range(6), sorted(SAMPLES.glob("*.jpg"))):
        (folder / str(n % 2)).mkdir(parents=True, exist_ok=True)
        shutil.copy(sample, folder / str(n % 2) / f"{n}-{sample.name}")
    return folder


@pytest.fixture(scope="module")
def few(images: Path) -> Path:
    """Six pictures, of which a shard of three holds some, and a shard of fifty none."""
    folder = images.parent / "few"
    folder.mkdir()
    for n in range(6):
        shutil.copy(SAMPLES / "coffee.jpg", folder / f"{n}.jpg")
    return folder


@pytest.fixture(scope="module")
def whole(images: Path) -> dict[str, bytes]:
    """What a run without shards writes."""
    explain(images, images.parent / "whole")
    return outputs(images.parent / "whole")


@pytest.fixture(scope="module")
def made(images: Path) -> Path:
    """What three shards write that run at once."""
    out = images.parent / "made"
    at_once(images, out, 3)
    return out


@pytest.fixture
def sharded(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "out")


@pytest.fixture(scope="module")
def begun(few: Path) -> Path:
    explain(few, few.parent / "begun", Shard(0, 2))
    return few.parent / "begun"


@pytest.fixture
def one_of_two(begun: Path, tmp_path: Path) -> Path:
    """A directory in which the first of two shards was explained."""
    return shutil.copytree(begun, tmp_path / "out")


def test_shards_that_run_at_once_write_what_one_run_writes(
    made: Path, whole: dict[str, bytes]
) -> None:
    assert outputs(made) == whole
    names = {name for i in range(3) for name in (Shard(i, 3).run_file, Shard(i, 3).journal)}
    assert {path.name for path in made.iterdir() if path.name[0] != "."} == names | {*KINDS}
    assert not list(made.rglob(".camcli-tmp-*"))
    for i in range(3):
        run = run_file(made, Shard(i, 3))
        assert (run["status"], run["shard"]) == ("done", {"index": i, "count": 3})


def test_every_input_is_in_the_journal_of_one_shard(images: Path, made: Path) -> None:
    parts = [keys(made, Shard(i, 3)) for i in range(3)]
    every = [ref.key for ref in Walk(Inputs((str(images),))).refs()]
    assert sorted(itertools.chain(*parts)) == sorted(every)
    assert len(every) == 30
    assert all(parts)


@pytest.mark.slow
def test_eight_processes_share_a_thousand_pictures_and_then_a_hundred_more(tmp_path: Path) -> None:
    """Four of them are killed at work, and sweep when they start again, beside the other four."""
    images, out, eight = tmp_path / "images", tmp_path / "out", WHOLE.split(8)
    plant(images, 1000, 100)
    explain(images, tmp_path / "whole")
    running = started(images, out, eight)
    deadline = time.monotonic() + 300
    while not (any(out.rglob("*.npz")) and all((out / each.run_file).exists() for each in eight)):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    for process in running[4:]:
        process.kill()
        process.communicate()
    assert {run_file(out, shard)["status"] for shard in eight[4:]} == {"running"}
    halves = [out / "maps" / f"{shard.temporary}9-9" for shard in eight]
    for half in halves:
        half.write_bytes(b"half")
    finished(running[:4] + started(images, out, eight[4:]))
    assert sorted(out.rglob(".camcli-tmp-*")) == halves[:4]
    parts = [keys(out, shard) for shard in eight]
    assert sum(map(len, parts)) == len(set(itertools.chain(*parts))) == 1000
    assert outputs(out) == outputs(tmp_path / "whole") | {
        f"maps/{half.name}": b"half" for half in halves[:4]
    }

    plant(tmp_path / "added", 100, 100)
    (tmp_path / "added" / "folder-0000").rename(images / "added")
    before = {name: (out / name).stat().st_mtime_ns for name in outputs(out)}
    at_once(images, out, 8)
    now = [keys(out, shard) for shard in eight]
    assert [each[: len(part)] for each, part in zip(now, parts, strict=True)] == parts
    added = itertools.chain(*(each[len(part) :] for each, part in zip(now, parts, strict=True)))
    assert sorted(added) == [f"added/picture-{number:07}.jpg" for number in range(100)]
    assert {name: (out / name).stat().st_mtime_ns for name in before} == before


def test_a_second_run_of_a_shard_finds_everything_done_and_touches_nothing(
    images: Path, sharded: Path
) -> None:
    before = {path: path.stat().st_mtime_ns for path in sharded.rglob("*") if path.is_file()}
    run = explain(images, sharded, Shard(1, 3))
    assert (run.summary.done, run.summary.already_done) == (0, len(keys(sharded, Shard(1, 3))))
    after = {path: path.stat().st_mtime_ns for path in sharded.rglob("*") if path.is_file()}
    assert {path.name for path in before if before[path] != after[path]} <= {".camcli.lock"}


def test_a_killed_shard_sweeps_what_it_was_writing_and_nothing_of_the_others(
    images: Path, sharded: Path, whole: dict[str, bytes]
) -> None:
    mine, theirs = Shard(0, 3), Shard(1, 3)
    for shard in (mine, theirs):
        (sharded / "maps" / f"{shard.temporary}1-1").write_bytes(b"half")
        (sharded / shard.run_file).write_text(
            json.dumps(run_file(sharded, shard) | {"status": "running"})
        )
    lines = (sharded / mine.journal).read_bytes().splitlines(keepends=True)
    (sharded / mine.journal).write_bytes(b"".join(lines[:-1]) + lines[-1][:9])
    assert explain(images, sharded, mine).summary.done == 1
    left = [path.name for path in sharded.rglob(".camcli-tmp-*")]
    assert left == [f"{theirs.temporary}1-1"]
    assert run_file(sharded, theirs)["status"] == "running"
    assert explain(images, sharded, theirs).summary.done == 0
    assert run_file(sharded, theirs)["status"] == "done"
    assert outputs(sharded) == whole


def test_a_shard_without_inputs_is_done_and_says_so(few: Path, tmp_path: Path) -> None:
    count = 50
    held = {i for ref in Walk(Inputs((str(few),))).refs() for i in range(count)
            if Shard(i, count).holds(ref.key)}  # fmt: skip
    empty = Shard(min(set(range(count)) - held), count)
    run = explain(few, tmp_path / "out", empty)
    assert (run.summary.found, run.summary.done) == (0, 0)
    assert run_file(tmp_path / "out", empty)["status"] == "done"
    assert outputs(tmp_path / "out") == {}


def test_a_folder_without_pictures_is_nobodys_shard(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(NoInputsError):
        a_run(tmp_path / "empty", tmp_path / "out", Shard(1, 2))


def test_shards_share_the_directory_and_each_is_held_by_one_process(tmp_path: Path) -> None:
    with locked(tmp_path, 0, Shard(0, 2)), locked(tmp_path, 0, Shard(1, 2)):
        with (
            pytest.raises(LockedError, match="another run is writing shard 1/2 to"),
            locked(tmp_path, 0, Shard(1, 2)),
        ):
            pass
        with pytest.raises(LockedError, match="another run is writing to"), locked(tmp_path, 0):
            pass
    with (
        locked(tmp_path, 0),
        pytest.raises(LockedError, match="another run is writing to"),
        locked(tmp_path, 0, Shard(1, 2)),
    ):
        pass  # fmt: skip


@pytest.mark.parametrize(
    ("shard", "sentence"),
    [
        (WHOLE, r"in 2 shards; go on with --shard I/2, I from 0 to 1, .*camcli merge .*with -o"),
        (Shard(0, 3), r"in 2 shards, not 3; go on with --shard I/2, I from 0 to 1, .*with -o"),
    ],
    ids=str,
)
def test_a_directory_is_divided_once(
    few: Path, one_of_two: Path, shard: Shard, sentence: str
) -> None:
    before = outputs(one_of_two)
    for act in (Run.records, Run.pending):
        with pytest.raises(UsageError, match=sentence):
            list(act(a_run(few, one_of_two, shard)))
    assert outputs(one_of_two) == before


def test_a_shard_does_not_go_into_a_run_without_shards(few: Path, tmp_path: Path) -> None:
    explain(few, tmp_path / "out", limit="1")
    with pytest.raises(UsageError, match=r"that is not in shards; .*--shard none.* with -o"):
        explain(few, tmp_path / "out", Shard(0, 2))


@pytest.mark.parametrize(
    ("change", "named"),
    [({"method": ["gradcam"]}, "method"), ({"size": "32"}, "preprocessing"),
     ({"batch_size": "3"}, "batch size")],
)  # fmt: skip
def test_shards_with_other_maps_do_not_mix(
    few: Path, one_of_two: Path, change: dict[str, object], named: str
) -> None:
    before = outputs(one_of_two)
    with pytest.raises(UsageError, match=f"made with another .*{named}.* with -o$"):
        explain(few, one_of_two, Shard(1, 2), **change)
    assert outputs(one_of_two) == before
    assert not (one_of_two / Shard(1, 2).run_file).exists()


def test_shards_take_over_a_batch_size_that_memory_decided(few: Path, one_of_two: Path) -> None:
    """Another GPU may have less room, or the same one have lost some."""
    explain(few, one_of_two, Shard(1, 2), batch_size=None)
    assert run_file(one_of_two, Shard(1, 2))["batch_size"] == 2
    first, second = (run_file(one_of_two, Shard(i, 2))["config_hash"] for i in range(2))
    assert first == second


@pytest.mark.parametrize(
    ("shard", "change", "sentence"),
    [(Shard(1, 2), {"method": ["gradcam"]}, "made with another method"),
     (Shard(1, 3), {}, "holds a run in 2 shards, not 3")],
    ids=str,
)  # fmt: skip
def test_of_shards_that_start_at_the_same_moment_the_first_decides(
    few: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    shard: Shard,
    change: dict[str, object],
    sentence: str,
) -> None:
    out, opened = tmp_path / "out", Run._engine

    def meanwhile(self: Run, before: object) -> object:
        engine = opened(self, before)
        monkeypatch.undo()
        explain(few, out, Shard(0, 2))
        return engine

    monkeypatch.setattr(Run, "_engine", meanwhile)
    with pytest.raises(UsageError, match=sentence):
        explain(few, out, shard, **change)
    assert not (out / shard.run_file).exists()
    assert {path.stem for path in (out / "json").rglob("*.json")} == set(keys(out, Shard(0, 2)))


def test_a_shard_cannot_start_over(few: Path, one_of_two: Path) -> None:
    before = outputs(one_of_two)
    with pytest.raises(UsageError, match=r"shard 0/2 cannot --overwrite .*; remove it .* with -o"):
        a_run(few, one_of_two, Shard(0, 2), overwrite="true")
    assert outputs(one_of_two) == before


def test_a_whole_run_that_starts_over_takes_the_place_of_all_shards(
    few: Path, one_of_two: Path
) -> None:
    explain(few / "0.jpg", one_of_two, overwrite="true")
    assert len(list((one_of_two / "maps").rglob("*.npz"))) == 1
    assert (one_of_two / "run.json").exists()
    assert not [*one_of_two.glob("run-*"), *one_of_two.glob("results-*")]


@pytest.mark.parametrize("name", ["maps", "results-000-of-002.jsonl"])
def test_what_is_called_like_a_shards_and_is_not_is_left_alone(
    few: Path, tmp_path: Path, name: str
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_text("mine")
    with pytest.raises(OutputError, match=f"{name}' is not camcli's"):
        explain(few, out, Shard(0, 2))
    assert (out / name).read_text() == "mine"


def test_a_shards_directory_is_no_folder_of_pictures(few: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(few, tmp_path / "images")
    explain(folder, folder / "out", Shard(0, 2))
    explain(folder, folder, Shard(0, 2))  # into the pictures' own folder
    assert sum(1 for _ in Walk(Inputs((str(folder),))).refs()) == 6


def test_a_shard_that_is_drawn_otherwise_draws_its_own_pictures_again(
    few: Path, one_of_two: Path
) -> None:
    explain(few, one_of_two, Shard(1, 2))
    before = outputs(one_of_two)
    run = explain(few, one_of_two, Shard(0, 2), colormap="jet")
    after = outputs(one_of_two)
    changed = {name for name in before if before[name] != after[name]}
    own = keys(one_of_two, Shard(0, 2))
    records = {f"json/{key}.json" for key in own}  # which hold the overlays' checksums
    assert records <= changed
    assert all(name.startswith("overlays/") for name in changed - records)
    assert run.summary.redrawn == len(changed - records) == len(own)
    colormaps = [run_file(one_of_two, Shard(i, 2))["drawing"]["colormap"] for i in range(2)]
    assert colormaps == ["jet", "inferno"]


def test_render_draws_the_pictures_of_all_shards(
    sharded: Path, whole: dict[str, bytes], camcli: Callable
) -> None:
    done = camcli("render", sharded, "--scale", "run", "--colormap", "viridis", check=0)
    assert b"30 pictures redrawn" in done.stderr
    after = outputs(sharded)
    assert {name for name in whole if whole[name] != after[name]} == {
        name for name in whole if not name.startswith("maps/")
    }
    drawings = [run_file(sharded, Shard(i, 3))["drawing"] for i in range(3)]
    assert drawings[0]["scale"] == "run"
    assert drawings[0] == drawings[1] == drawings[2]
    assert len(Redraw(sharded, a_run(SAMPLES, sharded).job.style, "run", 10**8).maxima) == 1


def test_render_waits_for_no_shard(sharded: Path, camcli: Callable) -> None:
    with open(sharded / WHOLE.lock, "rb") as held:
        fcntl.flock(held, fcntl.LOCK_SH)
        done = camcli("render", sharded, check=75)
    assert b"another run is writing to" in done.stderr


def test_merged_shards_go_on_as_one_run(
    images: Path, sharded: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    with locked(sharded, 0):
        assert merge(sharded) == 3
    assert keys(sharded, WHOLE) == keys(images.parent / "whole", WHOLE)
    summary = explain(images, sharded).summary
    assert (summary.done, summary.already_done) == (0, 30)
    assert outputs(sharded) == whole
    folder = shutil.copytree(images, tmp_path / "images")
    shutil.copy(SAMPLES / "coffee.jpg", folder / "new.jpg")
    summary = explain(folder, sharded).summary
    assert (summary.done, summary.already_done) == (1, 30)
    with pytest.raises(UsageError, match="holds a run that is not in shards"):
        explain(images, sharded, Shard(0, 3))


@pytest.fixture
def slurm() -> dict[str, str]:
    array = {"ID": "2", "COUNT": "3", "MIN": "1"}
    return os.environ | {f"SLURM_ARRAY_TASK_{name}": value for name, value in array.items()}


def test_the_environment_says_which_shard_unless_a_setting_does(
    images: Path, sharded: Path, camcli: Callable, slurm: dict[str, str]
) -> None:
    resumed = ["explain", images, "-o", sharded, *FLAGS]
    held = len(keys(sharded, Shard(1, 3)))
    done = camcli(*resumed, env=slurm, check=0)
    told, said = done.stderr.decode().splitlines()
    assert told == (
        "camcli: shard 1/3, as SLURM_ARRAY_TASK_ID and SLURM_ARRAY_TASK_COUNT say; "
        "--shard none explains all inputs"
    )
    assert f"{held} already done" in said
    assert camcli(*resumed, "-q", env=slurm, check=0).stderr == b""
    held = len(keys(sharded, Shard(2, 3)))
    done = camcli(*resumed, "--shard", "2/3", env=slurm, check=0)
    assert f"camcli: 0 explained, {held} already done".encode() in done.stderr
    listed = camcli(*resumed, env=slurm | {"CAMCLI_SHARD": "none"}, check=2)
    assert b"holds a run in 3 shards; go on with --shard I/3" in listed.stderr
