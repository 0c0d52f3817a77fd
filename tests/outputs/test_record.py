"""The JSON record: valid by its schema whatever happened, and what its numbers mean."""

from __future__ import annotations

import base64
import json
import os
from dataclasses import replace

import jsonschema
import numpy as np
import pytest

from camcli.outputs import schema
from camcli.outputs.record import Record, record
from camcli.records import Explanation, Failure, ImageRef, Prediction, Target
from tests.outputs.made import a_cam, a_failure, a_map, explanation


def valid(outcome: Explanation | Failure, *rest: object) -> Record:
    """The record, as it is after a round trip through strict JSON, checked by the schema."""
    text = json.dumps(record(outcome, *rest), allow_nan=False)
    made: Record = json.loads(text)
    jsonschema.Draft202012Validator(schema()).validate(made)
    return made


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())


def test_an_explanation_says_what_was_seen_predicted_and_claimed() -> None:
    cam = a_map()
    made = valid(explanation([a_cam(cam)]), "c0ffee", [("overlays/a.jpg", "0badcafe")])
    assert made["status"] == "ok"
    assert (made["width"], made["height"], made["exif_orientation"]) == (120, 60, 6)
    assert made["view"] == {"size": [64, 48], "crop_box": [20, 0, 100, 60]}
    assert [p["label"] for p in made["predictions"]] == ["tabby", "tiger cat"]
    assert made["config_hash"] == "c0ffee"
    (entry,) = made["explanations"]
    assert entry["target"] == {"index": 1, "against": None, "label": "tabby"}
    assert entry["overlay"] == "overlays/a.jpg"
    assert entry["cam"]["shape"] == [3, 4]
    assert entry["cam"]["min"] == cam.min()
    assert entry["cam"]["max"] == cam.max()
    assert entry["cam"]["sum"] == pytest.approx(float(cam.astype(np.float64).sum()))


def test_the_sum_is_added_up_in_double_precision() -> None:
    cam = np.full((100, 100), 0.1, np.float32)
    cam[0, 0] = 1e6
    (entry,) = valid(explanation([a_cam(cam)]))["explanations"]
    assert entry["cam"]["sum"] == pytest.approx(1e6 + 9999 * float(np.float32(0.1)), rel=1e-12)


@pytest.mark.parametrize(
    ("cam", "status"),
    [
        (a_map(), "ok"),
        (-np.abs(a_map()), "all_negative"),
        (np.array([[-1, 0]], np.float32), "all_negative"),
        (np.zeros((2, 2), np.float32), "constant"),
        (np.ones((2, 2), np.float32), "constant"),
        (np.array([[np.nan, 1]], np.float32), "nonfinite"),
        (np.array([[np.inf, 1]], np.float32), "nonfinite"),
        (np.array([[-np.inf, 1]], np.float32), "nonfinite"),
        (np.full((2, 2), np.nan, np.float32), "nonfinite"),
    ],
)
def test_only_a_map_that_shows_something_has_a_peak_and_a_box(cam: np.ndarray, status: str) -> None:
    (entry,) = valid(explanation([a_cam(cam)]))["explanations"]
    assert entry["cam"]["status"] == status
    for name in ("peak_xy", "hot_box", "hot_fraction"):
        assert (entry[name] is not None) == (status == "ok")


def test_numbers_that_json_has_not_are_null() -> None:
    worthless = dict.fromkeys(
        ("score", "remainder", "outside_grid", "baseline", "completeness_error", "location_error"),
        float("nan"),
    )
    made = explanation([a_cam(np.full((2, 2), np.nan, np.float32), faithful=False, **worthless)])
    predictions = (Prediction(0, "tench", float("inf"), float("nan")),)
    outcome = valid(replace(made, predictions=predictions))
    (entry,) = outcome["explanations"]
    for name in worthless:
        assert entry[name] is None
    assert [entry["cam"][name] for name in ("min", "max", "sum")] == [None] * 3
    assert outcome["predictions"][0]["logit"] is None


def test_each_map_names_its_place_in_the_npz() -> None:
    made = valid(explanation([
        a_cam(a_map((3, 4))), a_cam(a_map((6, 8)), target=Target(None, 1)), a_cam(a_map((3, 4))),
    ]))  # fmt: skip
    places = [(e["cam"]["npz_key"], e["cam"]["npz_row"]) for e in made["explanations"]]
    assert places == [("cams", 0), ("cams_2", 0), ("cams", 1)]
    assert [e["overlay"] for e in made["explanations"]] == [None] * 3


def test_a_failure_says_why_and_whether_it_may_pass() -> None:
    made = valid(a_failure(transient=True), "c0ffee")
    assert made["error"] == {
        "type": "OSError", "message": "image file is truncated", "stage": "decode",
        "transient": True,
    }  # fmt: skip
    assert made["sha256"].endswith("f")
    assert "explanations" not in made


@pytest.mark.parametrize("facts", [None, replace(a_failure().facts, sha256="")])
def test_a_file_that_could_not_be_read_has_no_digest(facts: object) -> None:
    assert valid(a_failure(facts=facts))["sha256"] is None


def test_a_path_that_is_not_text_is_kept_byte_by_byte() -> None:
    raw = b"/photos/\xff\xfe.jpg"
    made = valid(a_failure(path=os.fsdecode(raw), key="photos/~1.jpg"))
    assert base64.b64decode(made["path_b64"]) == raw
    assert made["path"] == "/photos/\ufffd\ufffd.jpg"


@pytest.mark.parametrize("path", ["plain.jpg", "new\nline.jpg", "\x1b[31m.jpg", "猫.jpg"])
def test_a_path_that_is_text_is_the_path(path: str) -> None:
    made = valid(a_failure(path=path, key=path))
    assert (made["path"], made["key"]) == (path, path)
    assert "path_b64" not in made


@pytest.mark.parametrize(
    "break_it",
    [
        lambda r: r.pop("sha256"),
        lambda r: r.update(status="fine"),
        lambda r: r.update(surprise=1),
        lambda r: r["explanations"][0].update(faithful=None),
        lambda r: r["explanations"][0]["cam"].update(status="blank"),
        lambda r: r["explanations"].clear(),
        lambda r: r["view"].update(crop_box=[1, 2, 3]),
    ],
)
def test_the_schema_refuses_what_is_no_record(break_it) -> None:
    made = record(explanation([a_cam(a_map())]))
    break_it(made)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(made, schema())


def test_the_reference_of_the_record_is_the_input(tmp_path) -> None:
    made = explanation([a_cam(a_map())], path="x.jpg", key="k.jpg")
    assert made.ref == ImageRef("x.jpg", "k.jpg")
    assert (valid(made)["path"], valid(made)["key"]) == ("x.jpg", "k.jpg")
