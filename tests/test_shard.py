"""Which inputs a shard holds, and what its files are called."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from camcli.errors import UsageError
from camcli.shard import WHOLE, Shard, place

COUNTS = st.integers(1, 40)


@given(st.text(), COUNTS)
@example("\udcff", 3)
def test_every_key_is_in_exactly_one_shard(key: str, count: int) -> None:
    assert [Shard(i, count).holds(key) for i in range(count)].count(True) == 1
    assert Shard(place(key, count), count).holds(key)


@given(COUNTS, st.text(max_size=20))
def test_shards_are_about_as_large_as_each_other(count: int, prefix: str) -> None:
    keys = [f"{prefix}{n:05}.jpg" for n in range(2000)]
    expected = len(keys) / count
    held = Counter(place(key, count) for key in keys)
    for index in range(count):
        assert abs(held[index] - expected) < 6 * expected**0.5  # six standard deviations


def test_files_that_are_added_move_none_of_the_old_ones() -> None:
    old = [f"a/{n}.jpg" for n in range(100)]
    new = [f"{folder}/{n}.jpg" for folder in ("0", "a/a", "b") for n in range(100)]
    for index in range(8):
        holds = Shard(index, 8).holds
        assert [key for key in sorted(old + new) if holds(key) and key in old] == [
            key for key in sorted(old) if holds(key)
        ]


def test_the_shard_of_a_key_is_the_same_in_every_release() -> None:
    """Or a run that was begun with one would be finished wrongly by the next."""
    keys = ["coffee.jpg", "sub/rocket.jpg", "é.png", "0"]
    assert [[i for i in range(8) if Shard(i, 8).holds(key)] for key in keys] == [[2], [4], [6], [5]]


@given(COUNTS, st.integers(1, 8), st.data())
def test_shards_that_are_split_alike_are_those_of_the_finer_count(
    count: int, parts: int, data: st.DataObject
) -> None:
    finer = [part for i in range(count) for part in Shard(i, count).split(parts)]
    assert finer == [Shard(i, count * parts) for i in range(count * parts)]
    assert WHOLE.split(1) == (WHOLE,)


def test_names_carry_the_shard_and_those_of_a_whole_run_do_not() -> None:
    shard = Shard(2, 16)
    assert shard.run_file == "run-002-of-016.json"
    assert shard.journal == "results-002-of-016.jsonl"
    assert shard.temporary == ".camcli-tmp-002-of-016-"
    assert (WHOLE.run_file, WHOLE.journal) == ("run.json", "results.jsonl")
    assert (WHOLE.temporary, WHOLE.lock) == (".camcli-tmp-", ".camcli.lock")


@given(st.integers(2, 10**9 - 1), st.data())
def test_a_run_file_says_whose_it_is(count: int, data: st.DataObject) -> None:
    shard = Shard(data.draw(st.integers(0, count - 1)), count)
    assert Shard.of_run_file(shard.run_file) == shard
    assert Shard.parsed(str(shard), "--shard") == shard


def test_other_files_are_nobodys() -> None:
    assert Shard.of_run_file("run.json") == WHOLE
    for name in ("results.jsonl", "run-1-of-2.json", "run-001-of-002.json~", "a/run.json", "run"):
        assert Shard.of_run_file(name) is None


@pytest.mark.parametrize("text", ["none", "0/1"])
def test_a_whole_run_can_be_asked_for(text: str) -> None:
    assert Shard.parsed(text, "--shard") == WHOLE


@pytest.mark.parametrize(
    "text", ["", "3", "3/", "/3", "3/3", "4/3", "-1/3", "1/0", "0/0", "1.0/3", "a/b", "1/3/5",
             " 1/3", "٣/٥", "1/" + "9" * 5000],
)  # fmt: skip
def test_what_is_no_shard_is_refused(text: str) -> None:
    sentence = f"--shard must be none or I/N, with I from 0 to N-1 for the N shards, not '{text}'"
    with pytest.raises(UsageError, match=f"^{re.escape(sentence)}$"):
        Shard.parsed(text, "--shard")
