"""The journal: what was committed stays, what was torn never was."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from camcli.errors import OutputError
from camcli.outputs import journal
from camcli.outputs.journal import Entry, Journal
from camcli.records import FileFacts


def line(key: str, **more: object) -> dict[str, object]:
    return {"key": key, "status": "ok", "size": 10, "mtime_ns": 20} | more


@contextmanager
def opened(directory: Path) -> Iterator[Journal]:
    book = Journal(directory)
    try:
        yield book
    finally:
        book.close()


def test_a_new_directory_has_no_entries_and_no_file(tmp_path: Path) -> None:
    with opened(tmp_path) as book:
        assert len(book) == 0
        assert book.find("a") is None
    assert not (tmp_path / journal.NAME).exists()


def test_the_last_line_of_an_input_counts(tmp_path: Path) -> None:
    failed = line("a", status="error", transient=False)
    with opened(tmp_path) as book:
        book.append(failed)
        assert book.find("a") == Entry("failed", (10, 20))
        book.append(line("a", mtime_ns=30))
        assert book.find("a") == Entry("done", (10, 30))
    with opened(tmp_path) as again:
        assert again.find("a") == Entry("done", (10, 30))
        assert len(again) == 1
    assert len((tmp_path / journal.NAME).read_bytes().splitlines()) == 2


def test_failures_that_may_pass_are_told_from_those_that_stay(tmp_path: Path) -> None:
    with opened(tmp_path) as book:
        book.append(line("a"))
        book.append(line("b", status="error", transient=True))
        book.append(line("c", status="error", transient=False))
        book.append(line("d", status="error", transient=False))
        states = [entry.state for key in "abcd" if (entry := book.find(key))]
        assert states == ["done", "transient", "failed", "failed"]


def test_an_input_without_size_or_time_has_no_stamp(tmp_path: Path) -> None:
    with opened(tmp_path) as book:
        book.append(line("a", status="error", size=None, mtime_ns=None))
        assert book.find("a") == Entry("failed", None)
    assert journal.stamp(None) is None
    assert journal.stamp(FileFacts(10, 20)) == (10, 20)


@pytest.mark.parametrize("key", ["plain", "new\nline", "\x1b[31m", "é", "\udcff raw byte", "\x00"])
def test_any_key_takes_one_line_and_is_found_again(tmp_path: Path, key: str) -> None:
    with opened(tmp_path) as book:
        book.append(line(key))
    assert (tmp_path / journal.NAME).read_bytes().count(b"\n") == 1
    with opened(tmp_path) as again:
        assert again.find(key) is not None


def test_a_torn_last_line_is_cut_off_and_the_run_goes_on(tmp_path: Path) -> None:
    with opened(tmp_path) as book:
        book.append(line("a"))
        book.append(line("b"))
    path = tmp_path / journal.NAME
    whole = path.read_bytes()
    for cut in range(len(whole) // 2 + 1, len(whole)):
        path.write_bytes(whole[:cut])
        with opened(tmp_path) as book:
            assert book.find("a") is not None
            assert book.find("b") is None
            book.append(line("c"))
        keys = [json.loads(raw)["key"] for raw in path.read_bytes().splitlines()]
        assert keys == ["a", "c"]


def test_a_journal_that_is_one_torn_line_starts_over(tmp_path: Path) -> None:
    (tmp_path / journal.NAME).write_bytes(b'{"key": "a", "stat')
    with opened(tmp_path) as book:
        book.append(line("b"))
    assert [entry["key"] for entry in journal.read_lines(tmp_path / journal.NAME)] == ["b"]


def test_reading_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / journal.NAME).write_bytes(b'{"key": "a", "stat')
    with opened(tmp_path) as book:
        assert len(book) == 0
    assert (tmp_path / journal.NAME).read_bytes() == b'{"key": "a", "stat'


@pytest.mark.parametrize("garbage", [
    b"", b"\x00\x00\x00", b"null", b"[1, 2]", b'"key"', b"{}", b'{"key": "x"}', b"\xff\xfe",
    b'{"status": "ok"}', b"[" * 100_000, b'{"key": 7, "status": "ok"}',
    b'{"key": "x", "status": null, "size": "big"}', b"1" * 5000,
], ids=lambda raw: repr(raw[:20]))  # fmt: skip
def test_a_line_that_is_no_entry_is_passed_over(tmp_path: Path, garbage: bytes) -> None:
    path = tmp_path / journal.NAME
    good = json.dumps(line("a")).encode()
    path.write_bytes(good + b"\n" + garbage + b"\n" + good.replace(b'"a"', b'"b"') + b"\n")
    with opened(tmp_path) as book:
        assert book.find("a") == book.find("b") == Entry("done", (10, 20))


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
fields = st.sampled_from(["key", "status", "size", "mtime_ns", "transient", "error"])
raw_lines = st.binary(max_size=40) | st.dictionaries(fields, anything).map(
    lambda value: json.dumps(value).encode()
)


@given(st.lists(raw_lines, max_size=6), st.binary(max_size=30))
def test_nothing_that_a_journal_may_hold_stops_a_run(lines: list[bytes], torn: bytes) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / journal.NAME
        path.write_bytes(b"".join(raw + b"\n" for raw in lines) + torn)
        with opened(Path(folder)) as book:
            book.append(line("new"))
        with opened(Path(folder)) as again:
            assert again.find("new") == Entry("done", (10, 20))


def test_a_line_that_cannot_be_written_whole_is_an_output_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk may take some bytes of a line and report no error."""
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:5]))
    with opened(tmp_path) as book, pytest.raises(OutputError, match="No space left on device"):
        book.append(line("a"))
    monkeypatch.undo()
    with opened(tmp_path) as again:
        assert again.find("a") is None
        again.append(line("b"))
    assert len((tmp_path / journal.NAME).read_bytes().splitlines()) == 1
