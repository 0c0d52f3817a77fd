"""The flow between threads: in order, bounded in number and in bytes, nothing lost on the way."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from camcli import pipeline
from camcli.pipeline import bounded_map


@dataclass(frozen=True)
class Item:
    number: int
    nbytes: int = 1


class Gauge:
    """Work that says how many items are in flight: taken from the source, not yet handed on."""

    def __init__(self, nbytes: int = 1) -> None:
        self.nbytes = nbytes
        self.taken = self.handed_on = self.most = 0

    def source(self, count: int | None = None) -> Iterator[int]:
        for number in itertools.count() if count is None else range(count):
            self.taken += 1
            self.most = max(self.most, self.taken - self.handed_on)
            yield number

    def work(self, number: int) -> Item:
        return Item(number, self.nbytes)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


def test_results_come_in_the_order_of_their_items(pool: ThreadPoolExecutor) -> None:
    def later_items_are_faster(number: int) -> Item:
        time.sleep(0.002 * (number % 5 == 0))
        return Item(number)

    results = bounded_map(pool, later_items_are_faster, range(60), ahead=8)
    assert [item.number for item in results] == list(range(60))


@pytest.mark.parametrize("prompt", [False, True])
@pytest.mark.parametrize("ahead", [1, 3, 16])
def test_no_more_than_so_many_are_in_flight(
    pool: ThreadPoolExecutor, ahead: int, prompt: bool
) -> None:
    gauge = Gauge()
    for item in bounded_map(pool, gauge.work, gauge.source(50), ahead, prompt):
        assert item.number == gauge.handed_on
        gauge.handed_on += 1
    assert gauge.handed_on == 50
    assert gauge.most <= ahead


def test_large_results_leave_room_for_fewer(
    pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "_BYTES_AHEAD", 100)
    gauge = Gauge(nbytes=40)
    for item in bounded_map(pool, gauge.work, gauge.source(50), ahead=16):
        if item.number == 20:
            gauge.most = 0  # by now the size of the results is known
        gauge.handed_on += 1
    assert gauge.handed_on == 50
    assert gauge.most <= 2


def test_one_result_larger_than_all_the_room_still_passes(
    pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "_BYTES_AHEAD", 100)
    results = bounded_map(pool, lambda number: Item(number, 10**9), range(5), ahead=4)
    assert [item.number for item in results] == list(range(5))


def test_an_endless_source_is_read_only_as_far_as_needed(pool: ThreadPoolExecutor) -> None:
    gauge = Gauge()
    results = bounded_map(pool, gauge.work, gauge.source(), ahead=4)
    assert gauge.taken == 0
    assert [item.number for item in itertools.islice(results, 3)] == [0, 1, 2]
    results.close()
    assert gauge.taken <= 3 + 4


def test_a_prompt_result_does_not_wait_for_items_that_are_slow_to_come(
    pool: ThreadPoolExecutor,
) -> None:
    gauge = Gauge()

    def slowly() -> Iterator[int]:
        for number in gauge.source(300):
            yield number
            time.sleep(0.01)

    assert next(bounded_map(pool, gauge.work, slowly(), ahead=1000, prompt=True)).number == 0
    assert gauge.taken < 300


def test_an_exception_surfaces_where_its_result_would_have_been(pool: ThreadPoolExecutor) -> None:
    def work(number: int) -> Item:
        if number == 3:
            raise OSError("no room")
        return Item(number)

    results = bounded_map(pool, work, range(100), ahead=8)
    assert [next(results).number for _ in range(3)] == [0, 1, 2]
    with pytest.raises(OSError, match="no room"):
        next(results)
    assert next(results, None) is None


def test_what_has_not_begun_when_the_reader_leaves_is_never_done() -> None:
    release, done = threading.Event(), []

    def work(number: int) -> Item:
        if number:
            release.wait(10)
        done.append(number)
        return Item(number)

    with ThreadPoolExecutor(1) as pool:
        results = bounded_map(pool, work, range(100), ahead=16)
        assert next(results).number == 0
        results.close()
        release.set()
    assert done in ([0], [0, 1])
