"""The journal: what was committed stays, what was torn never was."""

from __future__ import annotations

import io
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from camcli.errors import OutputError
from camcli.outputs import journal
from camcli.outputs.journal import Journal, State
from camcli.records import ImageRef
from tests.written import journalled


def line(key: str, **more: object) -> dict[str, object]:
    source = {"source": "/" + key}
    return {"key": key} | source | {"status": "ok", "size": 10, "mtime_ns": 20} | more


def state(book: Journal, key: str, stamp: tuple[int, int] = (10, 20)) -> State | None:
    """What the journal says of an input whose file has that size and time of change."""
    size, mtime_ns = stamp
    file = book.path.with_name("input")
    file.write_bytes(bytes(size))
    os.utime(file, ns=(0, mtime_ns))
    return book.state(ImageRef(str(file), key))


@pytest.fixture(scope="module", autouse=True)
def _no_disk() -> Iterator[None]:
    """What is written and read is tested here; waiting for the disk would take most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


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
        assert state(book, "a") is None
    assert not (tmp_path / "results.jsonl").exists()


def test_the_last_line_of_an_input_counts(tmp_path: Path) -> None:
    failed = line("a", status="error", transient=False)
    with opened(tmp_path) as book:
        book.append(failed)
        assert state(book, "a") == "failed"
        book.append(line("a", mtime_ns=30))
        assert state(book, "a") == "changed"
        assert state(book, "a", (10, 30)) == "done"
    with opened(tmp_path) as again:
        assert state(again, "a", (10, 30)) == "done"
        assert len(again) == 1
    assert len((tmp_path / "results.jsonl").read_bytes().splitlines()) == 2


def test_a_line_has_reached_the_disk_once_it_is_appended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    durable: list[bytes] = []

    def fsync(descriptor: int) -> None:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            durable.append((tmp_path / "results.jsonl").read_bytes())

    monkeypatch.setattr(os, "fsync", fsync)
    with opened(tmp_path) as book:
        book.append(line("a"), line("b"))
        book.append(line("c"))
    assert [content.count(b"\n") for content in durable] == [2, 3]


def test_failures_that_may_pass_are_told_from_those_that_stay(tmp_path: Path) -> None:
    with opened(tmp_path) as book:
        book.append(line("a"))
        book.append(line("b", status="error", transient=True))
        book.append(line("c", status="error", transient=False))
        book.append(line("d", status="error", transient=False))
        states = [state(book, key) for key in "abcd"]
        assert states == ["done", "transient", "failed", "failed"]


def test_an_input_without_size_or_time_is_the_same_while_it_has_none(tmp_path: Path) -> None:
    with opened(tmp_path) as book:
        book.append(line("a", status="error", size=None, mtime_ns=None))
        assert book.state(ImageRef(str(tmp_path / "gone"), "a")) == "failed"
        assert state(book, "a") == "changed"


@pytest.mark.parametrize("mtime_ns", [0, -5_000_000_000, 1_790_000_000_123_456_789])
def test_any_time_of_change_is_told_from_the_nanosecond_after(
    tmp_path: Path, mtime_ns: int
) -> None:
    with opened(tmp_path) as book:
        book.append(line("a", mtime_ns=mtime_ns))
        for known in (book, Journal(tmp_path)):
            assert state(known, "a", (10, mtime_ns)) == "done"
            assert state(known, "a", (10, mtime_ns + 1)) == "changed"
            assert state(known, "a", (11, mtime_ns)) == "changed"


@pytest.mark.parametrize("key", ["plain", "new\nline", "\x1b[31m", "é", "\udcff raw byte", "\x00"])
def test_any_key_takes_one_line_and_is_found_again(tmp_path: Path, key: str) -> None:
    with opened(tmp_path) as book:
        book.append(line(key))
    assert (tmp_path / "results.jsonl").read_bytes().count(b"\n") == 1
    with opened(tmp_path) as again:
        assert state(again, key) == "done"


def test_a_torn_last_line_is_cut_off_and_the_run_goes_on(tmp_path: Path) -> None:
    with opened(tmp_path) as book:
        book.append(line("a"))
        book.append(line("b"))
    path = tmp_path / "results.jsonl"
    whole = path.read_bytes()
    for cut in range(len(whole) // 2 + 1, len(whole)):
        path.write_bytes(whole[:cut])
        with opened(tmp_path) as book:
            assert state(book, "a") == "done"
            assert state(book, "b") is None
            book.append(line("c"))
        keys = [json.loads(raw)["key"] for raw in path.read_bytes().splitlines()]
        assert keys == ["a", "c"]


def test_a_journal_that_is_one_torn_line_starts_over(tmp_path: Path) -> None:
    (tmp_path / "results.jsonl").write_bytes(b'{"key": "a", "stat')
    with opened(tmp_path) as book:
        book.append(line("b"))
    assert [entry["key"] for entry in journalled(tmp_path / "results.jsonl")] == ["b"]


def test_reading_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "results.jsonl").write_bytes(b'{"key": "a", "stat')
    with opened(tmp_path) as book:
        assert len(book) == 0
    assert (tmp_path / "results.jsonl").read_bytes() == b'{"key": "a", "stat'


@pytest.mark.parametrize("garbage", [
    b"", b"\x00\x00\x00", b"null", b"[1, 2]", b'"key"', b"{}", b'{"key": "x"}', b"\xff\xfe",
    b'{"status": "ok"}', b"[" * 100_000, b'{"key": 7, "status": "ok"}',
    b'{"key": "x", "status": null, "size": "big"}', b"1" * 5000,
], ids=lambda raw: repr(raw[:20]))  # fmt: skip
def test_a_line_that_is_no_entry_is_passed_over(tmp_path: Path, garbage: bytes) -> None:
    path = tmp_path / "results.jsonl"
    good = json.dumps(line("a")).encode()
    path.write_bytes(good + b"\n" + garbage + b"\n" + good.replace(b'"a"', b'"b"') + b"\n")
    with opened(tmp_path) as book:
        assert state(book, "a") == state(book, "b") == "done"


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
        path = Path(folder) / "results.jsonl"
        path.write_bytes(b"".join(raw + b"\n" for raw in lines) + torn)
        with opened(Path(folder)) as book:
            book.append(line("new"))
        with opened(Path(folder)) as again:
            assert state(again, "new") == "done"


lines_of_runs = st.builds(
    lambda number, more: json.dumps(line(f"whole-{number}") | more, ensure_ascii=True).encode(),
    st.integers(0, 5),
    st.fixed_dictionaries({"source": st.text(), "error": st.text('ab"{}key: \\\n')}),
)
damages = (
    st.binary(max_size=30)
    | st.integers(1, 5000).map(bytes)
    | st.tuples(lines_of_runs, st.integers(1, 60)).map(lambda cut: cut[0][: cut[1]])
    | raw_lines
)


@given(st.lists(st.tuples(damages | st.just(b""), lines_of_runs), max_size=5), damages)
def test_whole_lines_survive_whatever_stands_before_and_after_them(
    pieces: list[tuple[bytes, bytes]], torn: bytes
) -> None:
    """Zeros, half a line and other bytes, on lines of their own or not."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "results.jsonl"
        content = b"".join(damage + whole + b"\n" for damage, whole in pieces)
        path.write_bytes(content + torn.replace(b"\n", b""))
        keys = {json.loads(whole)["key"] for _, whole in pieces}
        with opened(Path(folder)) as book:
            assert {state(book, key) for key in keys} <= {"done"}
            last = journal.LastLines(path)
            assert all(key in last for key in keys)
            assert keys <= {entry["key"] for entry in last}
            book.append(line("new"))
        assert path.read_bytes().startswith(content)
        with opened(Path(folder)) as again:
            assert {state(again, key) for key in keys | {"new"}} == {"done"}


@pytest.mark.parametrize("zeros", [1, 7, 4096, 200_000])
def test_zeros_that_a_power_cut_left_are_cut_off(tmp_path: Path, zeros: int) -> None:
    with opened(tmp_path) as book:
        book.append(line("a"))
    path = tmp_path / "results.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + bytes(zeros))
    with opened(tmp_path) as book:
        assert state(book, "a") == "done"
        book.append(line("b"))
    assert path.read_bytes() == whole + json.dumps(line("b")).encode() + b"\n"


def test_a_line_that_goes_on_after_a_torn_one_counts(tmp_path: Path) -> None:
    raw = json.dumps(line("b")).encode()
    (tmp_path / "results.jsonl").write_bytes(b'{"key": "a", "status": "o' + raw + b"\n")
    with opened(tmp_path) as book:
        assert (state(book, "a"), state(book, "b")) == (None, "done")


def test_of_lines_that_came_twice_the_last_counts(tmp_path: Path) -> None:
    with opened(tmp_path) as book:
        book.append(line("a"), line("b"), line("a"), line("a", status="error"))
    last = journal.LastLines(tmp_path / "results.jsonl")
    assert [(entry["key"], entry["status"]) for entry in last] == [("b", "ok"), ("a", "error")]
    with opened(tmp_path) as again:
        assert (state(again, "a"), len(again)) == ("failed", 2)
        assert (again.count("done"), again.count("failed")) == (1, 1)


def test_an_input_whose_outputs_are_lost_is_not_done_whatever_its_file(tmp_path: Path) -> None:
    with opened(tmp_path) as book:
        book.append(line("a"), line("a", status=journal.LOST, size=None, mtime_ns=None))
        book.append(line("b"), line("b", status=journal.LOST))
        for known in (book, Journal(tmp_path)):
            assert (state(known, "a"), state(known, "b")) == ("lost", "lost")


def test_a_journal_that_cannot_be_read_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "results.jsonl").mkdir()
    with pytest.raises(OutputError, match=r"results\.jsonl' cannot be read \(Is a directory\)"):
        Journal(tmp_path)


texts = st.text() | st.text('ab/.\\"\x7f\né\ud800🐈', max_size=6)
counts = st.integers(-(10**19), 10**19) | st.integers(10**13, 10**14 + 1) | st.just(None)
numbers = st.floats() | st.integers()
written_lines = st.fixed_dictionaries(
    {"key": texts, "source": texts, "status": st.sampled_from(["ok", "error"])},
    optional={"transient": st.booleans()},
).flatmap(
    lambda first: st.fixed_dictionaries(
        {"size": counts, "mtime_ns": counts, "sha256": texts | st.none()},
        optional={
            "error": texts,
            "predicted": st.fixed_dictionaries({"index": st.integers(), "logit": numbers}),
            "elapsed_ms": numbers,
        },
    ).map(lambda rest: first | rest)
).map(lambda value: json.dumps(value).encode() + b"\n")  # fmt: skip


def says_what_json_says(raw: bytes) -> None:
    """Lines that are read together, most of them without parsing, say what json makes of each."""
    lines = [*io.BytesIO(raw)]
    if lines and not lines[-1].endswith(b"\n"):
        lines.pop()
    parsed = [journal._parsed(one) for one in lines]
    wanted = [None if one is None else journal._entry(one) for one in parsed]
    assert [*journal._entries(lines)] == wanted


@given(st.lists(written_lines, min_size=1, max_size=3).map(b"".join))
def test_lines_that_are_read_quickly_say_what_json_says(raw: bytes) -> None:
    says_what_json_says(raw)


@given(st.lists(written_lines, min_size=1, max_size=3).map(b"".join), st.data())
def test_so_do_lines_that_were_changed(raw: bytes, data: st.DataObject) -> None:
    pieces = [
        b'"key": "b", ',
        b', "status": "error"',
        b"\\u006bey",
        b'"',
        b"\\",
        b",",
        b"}",
        b"0",
        b"-",
        b".5",
        b"e9",
        b"\x1f",
        b"\xe9",
        b"\x7f",
        b" ",
        b"null",
        b"\n",
    ]
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(raw)))
        cut = data.draw(st.integers(0, 3))
        raw = raw[:at] + data.draw(st.sampled_from(pieces)) + raw[at + cut :]
    says_what_json_says(raw)


@pytest.mark.parametrize("changed", [
    (b'"ok"', b'"ok", "status": "error"'), (b"}", b', "key": "b"}'), (b"}", b', "size": 11}'),
    (b"}", b', "k\\u0065y": "b"}'), (b"10", b"010"), (b"10", b"1" * 5000), (b"}", b"}}"),
    (b"}", b', "more": "\x01"}'), (b"}", b', "more": "\xff"}'), (b"}", b', "more": 01}'),
    (b'"a"', b'"\\ud83d\\ude00"'), (b'"a"', b'"\\x"'), (b"\n", b""), (b"\n", b"\r\n"),
], ids=lambda pair: repr(pair[1][:24]))  # fmt: skip
def test_and_one_that_json_reads_otherwise_than_it_looks(changed: tuple[bytes, bytes]) -> None:
    written = {"key": "a", "source": "/a", "status": "ok", "size": 10, "mtime_ns": 20}
    raw = json.dumps(written).encode() + b"\n"
    mutated = raw.replace(*changed)
    assert mutated != raw
    for whole in (mutated, raw + mutated, mutated + raw):
        says_what_json_says(whole)


@pytest.mark.parametrize("key", ["a", "é", 'a"b'])
def test_lines_as_they_are_written_are_read_without_parsing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    """So that the tests above are of both ways."""
    with opened(tmp_path) as book:
        book.append(*(line(key + str(number)) for number in range(3)))
    monkeypatch.setattr(journal, "_parsed", None)
    with opened(tmp_path) as book:
        assert book.count("done") == 3


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
        assert state(again, "a") is None
        again.append(line("b"))
    assert len((tmp_path / "results.jsonl").read_bytes().splitlines()) == 1
