"""Inputs over which processes are lost: which are suspects, and which is guilty."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from camcli.outputs.flight import Flight, Reader
from camcli.outputs.sink import Written
from camcli.records import Decoded, Failure, ImageRef

REFS = [ImageRef(f"/{n}.jpg", f"{n}.jpg") for n in range(12)]


class LostError(Exception):
    """Stands for the end of the process."""


class Flow:
    """Takes four inputs at once, and is lost over some; what it fails is all it writes."""

    def __init__(self, deadly: Iterable[int]) -> None:
        self.deadly = {REFS[n].key for n in deadly}
        self.batches: list[list[str]] = []

    def __call__(self, refs: Iterable[ImageRef], read: Reader) -> Iterator[Written]:
        waiting = list(refs)
        for start in range(0, len(waiting), 4):
            batch = [read(ref) for ref in waiting[start : start + 4]]
            self.batches.append([item.ref.key for item in batch if item.type == "read"])
            if self.deadly & set(self.batches[-1]):
                raise LostError
            yield from (Written(item, {}) for item in batch)


def read(ref: ImageRef) -> Decoded | Failure:
    return Failure(ref, None, "read", "", "read")


def run(folder: Path, flow: Flow, refs: list[ImageRef] = REFS) -> dict[str, str]:
    """One process: the type of each input's outcome."""
    return {w.outcome.ref.key: w.outcome.type for w in Flight(folder).over(refs, read, flow)}


def test_nothing_is_left_of_a_run_that_ends_in_order(tmp_path: Path) -> None:
    flow = Flow([])
    assert set(run(tmp_path, flow).values()) == {"read"}
    assert [len(batch) for batch in flow.batches] == [4, 4, 4]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("deadly", [[0], [5], [11], [5, 6], [0, 4, 11]])
def test_the_inputs_over_which_processes_are_lost_fail_and_no_others(
    tmp_path: Path, deadly: list[int]
) -> None:
    for _ in range(1 + 2 * len(deadly)):
        with pytest.raises(LostError):
            run(tmp_path, Flow(deadly))
    outcomes = run(tmp_path, Flow(deadly))
    failed = {key for key, kind in outcomes.items() if kind == "ProcessLostError"}
    assert failed == {REFS[n].key for n in deadly}
    assert len(outcomes) == len(REFS)
    assert not list(tmp_path.iterdir())


def test_what_was_in_hand_comes_one_by_one_and_the_rest_together(tmp_path: Path) -> None:
    with pytest.raises(LostError):
        run(tmp_path, Flow([2]), REFS[:6])
    flow = Flow([])
    run(tmp_path, flow)
    assert [len(batch) for batch in flow.batches] == [1] * 6 + [4, 2]


def test_being_alone_in_hand_once_is_no_guilt(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(LostError):
            run(tmp_path, Flow([3]))
    assert set(run(tmp_path, Flow([])).values()) == {"read"}


def test_notes_that_are_torn_or_foreign_are_passed_over(tmp_path: Path) -> None:
    notes = tmp_path / ".camcli.flight"
    notes.write_bytes(b'["taken", "3.jpg"]\n[1]\nnull\n\xff\n[["x"]\n["alone", "4.j')
    flight = Flight(tmp_path)
    assert (flight.suspects, flight.guilty) == ({"3.jpg"}, frozenset())
