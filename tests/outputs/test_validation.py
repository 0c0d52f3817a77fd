"""The record's own validation says what a validator of JSON schemas says."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from camcli.outputs import schema
from camcli.outputs.record import record
from camcli.outputs.validation import mismatch
from tests.outputs.made import a_cam, a_failure, a_map, explanation

RECORDS = [
    record(explanation([a_cam(a_map()), a_cam(-abs(a_map()))]), "c0ffee"),
    record(explanation([a_cam(a_map())]), "c0ffee", [("overlays/a.jpg", "0badcafe")]),
    record(a_failure(), "c0ffee"),
    record(a_failure(facts=None, transient=True), "c0ffee"),
]
OTHER = [None, True, -1, 0, 3, 0.5, 2.5, "", "x", "ok", "error", "a" * 64, [], {}, [1, 2], ["flip"],
         [1, 2, 3, 4], {"x": 1}]  # fmt: skip


@pytest.mark.parametrize("made", RECORDS, ids=lambda made: made["status"])
def test_what_camcli_writes_is_valid(made: dict[str, Any]) -> None:
    assert mismatch(json.loads(json.dumps(made))) is None


def places(value: Any) -> list[tuple[Any, Any]]:
    """Everything in a record, as its container and the key there."""
    if not isinstance(value, dict | list):
        return []
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    found = [(value, key) for key, _ in inner]
    return found + [place for container, key in found for place in places(container[key])]


@given(st.sampled_from(RECORDS), st.data())
def test_a_record_that_was_changed_is_valid_where_the_schema_says_so(
    made: dict[str, Any], data: st.DataObject
) -> None:
    changed = json.loads(json.dumps(made))
    container, key = data.draw(st.sampled_from(places(changed)))
    how = data.draw(st.sampled_from(["replaced", "removed", "added"]))
    if how == "replaced":
        container[key] = data.draw(st.sampled_from(OTHER))
    elif how == "removed":
        del container[key]
    elif isinstance(container, dict):
        container[data.draw(st.sampled_from(["more", "error", "width"]))] = 3
    else:
        container.append(data.draw(st.sampled_from(OTHER)))
    valid = jsonschema.Draft202012Validator(schema()).is_valid(changed)
    assert (mismatch(changed) is None) == valid


@pytest.mark.parametrize("value", OTHER, ids=repr)
def test_anything_else_is_no_record(value: object) -> None:
    assert mismatch(value) is not None
