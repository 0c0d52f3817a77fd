"""Durability points: files first, lines after them, and none once the disk has failed."""

from __future__ import annotations

import ctypes
import errno
import threading
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from camcli.errors import OutputError
from camcli.outputs import commits
from camcli.outputs.commits import Commits, Disk


class Recorded:
    """A disk and a journal that remember what reached them, in order."""

    def __init__(self) -> None:
        self.events: list[tuple[str, list[object]]] = []
        self.fails = False
        self.appended = threading.Event()
        self.free = threading.Event()
        self.free.set()

    def sync(self, names: Iterable[str]) -> None:
        self.free.wait(10)
        self.events.append(("sync", list(names)))
        if self.fails:
            raise OutputError("no space left")

    def append(self, *lines: dict[str, object]) -> None:
        self.events.append(("append", [line["key"] for line in lines]))
        self.appended.set()

    def commits(self, first: float = 60, longest: float = 60) -> Commits:
        return Commits(self.sync, self.append, first, longest)

    @property
    def keys(self) -> list[object]:
        return [key for what, keys in self.events if what == "append" for key in keys]


@pytest.fixture
def disk() -> Recorded:
    return Recorded()


def test_leaving_takes_the_last_point_files_first(disk: Recorded) -> None:
    with disk.commits() as held:
        held.add({"key": "a"}, ["json/a", "maps/a"])
        held.add({"key": "b"}, ["json/b"])
        assert disk.events == []
    assert disk.events == [("sync", ["json/a", "maps/a", "json/b"]), ("append", ["a", "b"])]


def test_nothing_to_commit_touches_no_disk(disk: Recorded) -> None:
    with disk.commits():
        pass
    assert disk.events == []


def test_points_are_taken_meanwhile_and_every_line_follows_its_files(disk: Recorded) -> None:
    with disk.commits(0.001, 0.004) as held:
        for number in range(300):
            held.add({"key": str(number)}, [f"json/{number}"])
            time.sleep(0.0005)
    assert disk.keys == [str(number) for number in range(300)]
    assert len(disk.events) > 6
    for (what, files), (then, keys) in zip(disk.events[::2], disk.events[1::2], strict=True):
        assert (what, then) == ("sync", "append")
        assert files == [f"json/{key}" for key in keys]


def test_the_first_point_comes_early_and_the_others_further_apart(disk: Recorded) -> None:
    with disk.commits(0.01, 60) as held:
        held.add({"key": "a"}, [])
        assert disk.appended.wait(10)
        for _ in range(200):
            held.add({"key": "b"}, [])
            time.sleep(0.001)
        assert 1 <= len(disk.events) // 2 <= 6  # after 10, 30, 70, 150 and 310 ms


def test_a_point_whose_files_cannot_be_made_durable_commits_nothing(disk: Recorded) -> None:
    disk.fails = True
    with pytest.raises(OutputError, match="no space left"), disk.commits() as held:
        held.add({"key": "a"}, ["json/a"])
    assert disk.keys == []


def test_after_a_failed_point_nothing_more_is_committed_and_whoever_adds_is_told(
    disk: Recorded,
) -> None:
    """A kernel reports what it could not write once: the next sync would succeed for nothing."""
    disk.fails = True
    held = disk.commits(0.001)

    def until_told() -> None:
        while True:
            held.add({"key": "a"}, [])
            disk.fails = len(disk.events) == 0
            time.sleep(0.001)

    with pytest.raises(OutputError, match="no space left"), held:
        until_told()
    assert [what for what, _ in disk.events] == ["sync"]


@pytest.mark.parametrize("fault", [OutputError("the picture's"), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("fails", [False, True])
def test_what_ends_a_run_is_what_is_told_and_what_was_whole_is_committed(
    disk: Recorded, fault: BaseException, fails: bool
) -> None:
    disk.fails = fails
    held = disk.commits()

    def ended() -> None:
        held.add({"key": "a"}, [])
        raise fault

    with pytest.raises(type(fault)) as told, held:
        ended()
    assert told.value is fault
    assert disk.keys == ([] if fails else ["a"])


def test_no_more_than_so_many_lines_wait_for_a_slow_disk(
    disk: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commits, "_MOST", 5)
    disk.free.clear()
    added: list[int] = []

    def fill(held: Commits) -> None:
        for number in range(30):
            held.add({"key": number}, [])
            added.append(number)

    with disk.commits() as held:
        filling = threading.Thread(target=fill, args=[held])
        filling.start()
        filling.join(0.3)
        assert len(added) == 10  # five at the disk, five that wait
        disk.free.set()
        filling.join(10)
    assert disk.keys == list(range(30))


@pytest.fixture
def written(tmp_path: Path) -> list[str]:
    names = ["json/a/1.json", "json/a/2.json", "maps/3.npz"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    return names


@pytest.fixture
def synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was made durable one by one."""
    paths: list[str] = []

    def fsync(path: Path) -> None:
        paths.append(path.relative_to(tmp_path).as_posix())

    monkeypatch.setattr(commits, "fsync", fsync)
    return paths


@pytest.mark.skipif(commits._syncfs() is None, reason="no syncfs that reports errors")
def test_one_call_makes_all_files_durable_where_the_kernel_has_it(
    tmp_path: Path, written: list[str], synced: list[str]
) -> None:
    disk = Disk(tmp_path)
    disk.sync(written)
    disk.close()
    assert synced == []


def refusing(number: int):
    def call(descriptor: int) -> int:
        ctypes.set_errno(number)
        return -1

    return call


@pytest.mark.parametrize("missing", [None, refusing(errno.ENOSYS), refusing(errno.EPERM)])
def test_elsewhere_every_file_and_every_directory_that_names_one_is_synced(
    tmp_path: Path,
    written: list[str],
    synced: list[str],
    missing: object,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(commits, "_syncfs", lambda: missing)
    disk = Disk(tmp_path)
    disk.sync(written)
    disk.close()
    assert synced[:1] == written[:1]
    assert sorted(synced) == sorted([*written, "json/a", "json", "maps", "."])


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_an_error_of_the_disk_is_an_output_error(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commits, "_syncfs", lambda: refusing(number))
    disk = Disk(tmp_path)
    with pytest.raises(OutputError, match=r"cannot write to .* everything written so far is kept"):
        disk.sync([])
    disk.close()
