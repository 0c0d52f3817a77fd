"""Twenty thousand inputs in small: what is held for each, and what a resumed run does with them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from camcli import config
from camcli.cli.explain import job_of
from camcli.images.discover import Inputs, Walk
from camcli.outputs import journal
from camcli.outputs.journal import Journal, LastLines
from camcli.run import Run
from tests.benchmarks.million import SAMPLE, all_done, plant

FILES, FOLDER_SIZE = 20_000, 4_000
SMALL = {"model": "squeezenet1_1", "weights": "none", "size": "64"}


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output directory of a run over two files, one of them no picture."""
    folder = tmp_path_factory.mktemp("two")
    (folder / "é.jpg").write_bytes(SAMPLE.read_bytes())
    (folder / "no picture.jpg").write_bytes(b"text")
    chosen, _ = config.resolve(SMALL | {"output": str(folder / "out")}, {}, None)
    list(Run(job_of(chosen, (str(folder),), set())).records())
    return folder / "out"


@pytest.fixture(scope="module")
def done(out: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds a tree, and an output directory in which all of it is done."""
    folder = tmp_path_factory.mktemp("many")
    plant(folder / "tree", FILES, FOLDER_SIZE)
    shutil.copytree(out, folder / "out")
    all_done(folder / "tree", folder / "out")
    return folder


def peak(work: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        kept = work()
        del kept
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def resumed(folder: Path, *settings: str) -> subprocess.CompletedProcess[str]:
    code = (
        "import sys\n"
        "from camcli.cli.app import main\n"
        "try: main()\n"
        "finally: print('torch' in sys.modules)\n"
    )
    command = [sys.executable, "-c", code, "explain", folder / "tree", "-o", folder / "out"]
    settings += tuple(f"--{name}={value}" for name, value in SMALL.items())
    return subprocess.run(
        [*command, *settings], capture_output=True, text=True, check=False, timeout=60
    )


def test_the_journal_holds_a_digest_and_a_number_for_each_input(done: Path) -> None:
    # 48 + 40 bytes, the dictionary's own 30, and half of that again while it grows.
    assert peak(lambda: Journal(done / "out")) / FILES < 150


def test_verifying_holds_no_more(done: Path) -> None:
    assert peak(lambda: LastLines(done / "out" / "results.jsonl")) / FILES < 150


def test_a_walk_holds_the_names_of_one_folder(done: Path) -> None:
    def walk() -> None:
        assert sum(1 for _ in Walk(Inputs((str(done / "tree"),))).refs()) == FILES

    # A name takes 68 bytes, and its place in the list.
    assert peak(walk) / FOLDER_SIZE < 120


def test_a_resumed_run_with_nothing_to_do_counts_every_input_and_loads_no_torch(
    done: Path,
) -> None:
    run = resumed(done)
    assert run.returncode == 0, run.stderr
    assert f"0 explained, {FILES:,} already done: " in run.stderr
    assert run.stdout == "False\n"


def test_what_is_new_changed_or_failed_is_told_from_what_is_done(done: Path) -> None:
    lines = done / "out" / "results.jsonl"
    before = lines.read_bytes()
    new = done / "tree" / "folder-0003" / "new.jpg"
    new.write_bytes(SAMPLE.read_bytes())
    first, second, third, *_ = (json.loads(raw) for raw in before.splitlines())
    first["mtime_ns"] += 1
    second |= {"status": "error", "transient": False}
    third |= {"status": "error", "transient": True}
    try:
        with lines.open("a") as file:
            file.writelines(json.dumps(line) + "\n" for line in (first, second, third))
        run = resumed(done, "--dry-run")
    finally:
        lines.write_bytes(before)
        new.unlink()
    changed = [done / "tree" / line["key"] for line in (first, third)]
    assert run.stdout.splitlines() == [*map(str, changed), str(new), "False"]
    assert f"3 would be explained, {FILES - 3:,} already done, 1 failed earlier" in run.stderr


def test_lines_of_a_run_are_read_without_parsing_all_of_them(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = (out / "results.jsonl").read_bytes().splitlines()
    assert [json.loads(raw)["status"] for raw in lines] == ["error", "ok"]
    monkeypatch.setattr(journal, "_parsed", None)
    book = journal.Journal(out)
    assert (book.count("failed"), book.count("done")) == (1, 1)
