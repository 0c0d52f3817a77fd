"""`camcli study score`: known answers give the known score; what does not fit is one sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

ARMS = {"A": {"output": "/x", "model": "m", "method": "gradcam"},
        "B": {"output": "/x", "model": "m", "method": "hirescam\x1b[31m"}}  # fmt: skip


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Four pairs, B on the right in two of them."""
    items = {
        f"i{n}": {"key": f"{n}.jpg", "left": "AB"[n % 2], "right": "BA"[n % 2]} for n in range(4)
    }
    key = {"study": "s1", "protocol": "pairs", "arms": ARMS, "items": items}
    (tmp_path / "key.json").write_text(json.dumps(key))
    return tmp_path


def answers(folder: Path, who: str, values: dict, **fields: object) -> Path:
    listed = [{"item": item, **({"value": v} if isinstance(v, int) else v)}
              for item, v in values.items()]  # fmt: skip
    content = {"camcli_study": "s1", "rater": who, "answers": listed} | fields
    path = folder / f"{who}.json"
    path.write_text(json.dumps(content))
    return path


def test_known_answers_give_the_known_score(study: Path, cli: Callable) -> None:
    # In preference for B, ann: 2 2 1 0, bob: 1 2 -1 0.
    ann = answers(study, "ann", {"i0": 2, "i1": -2, "i2": 1, "i3": 0})
    bob = answers(study, "bob", {"i0": 1, "i1": -2, "i2": -1, "i3": 0})
    found = json.loads(cli("study", "score", study, ann, bob, "--json").stdout)
    assert (found["items"], found["raters"], found["answers"]) == (4, 2, 8)
    assert found["preference"]["mean"] == 7 / 8
    assert found["prefers"] == {"A": 1 / 8, "B": 5 / 8, "neither": 2 / 8}
    assert found["p"] == 2 / 2**2  # sums 3, 4, 0, 0: as far out where 3 and 4 agree in sign
    low, high = found["preference"]["interval"]
    assert low < 7 / 8 < high
    assert 0 < found["alpha"] < 1
    printed = cli("study", "score", study, ann, bob).stdout
    assert "preference for B  +0.88 [" in printed
    assert "p = 0.5\n" in printed
    assert r"hirescam\x1b[31m" in printed


def test_sides_taken_every_time_are_certain(study: Path, cli: Callable) -> None:
    files = [answers(study, name, {"i0": 2, "i1": -2, "i2": 2, "i3": -2}) for name in "xy"]
    found = json.loads(cli("study", "score", study, *files, "--json").stdout)
    assert found["preference"] == {"mean": 2.0, "interval": [2.0, 2.0]}
    assert found["p"] == 2 / 2**4
    assert found["alpha"] is None  # nothing varies
    assert "alpha = not to be told" in cli("study", "score", study, *files).stdout


def test_the_last_answer_of_a_rater_counts(study: Path, cli: Callable) -> None:
    first = answers(study, "ann", {"i0": -2, "i2": 1})
    first = first.rename(study / "first.json")
    second = answers(study, "ann", {"i0": 2})
    done = cli("study", "score", study, first, second, "--json")
    assert done.stderr == "camcli: 'ann' answered 1 item again; the last counts\n"
    assert json.loads(done.stdout)["preference"]["mean"] == 1.5


def test_classes_have_accuracy_focus_and_chance(tmp_path: Path, cli: Callable) -> None:
    items = {}
    for n in range(4):
        for arm in "AB":
            items[f"{arm}{n}"] = {"key": f"{n}.jpg", "arm": arm, "label": "x",
                                  "choices": ["x", "y", "z", "w"], "answer": 0}  # fmt: skip
    key = {"study": "s1", "protocol": "classes", "arms": ARMS, "items": items}
    (tmp_path / "key.json").write_text(json.dumps(key))
    given = {f"A{n}": {"class": n, "focus": 2} for n in range(4)}
    given |= {f"B{n}": {"class": 0, "focus": 4} for n in range(4)}
    path = answers(tmp_path, "ann", given)
    found = json.loads(cli("study", "score", tmp_path, path, "--json").stdout)
    assert found["by_arm"]["A"]["accuracy"]["mean"] == 0.25
    assert found["by_arm"]["B"]["accuracy"] == {"mean": 1.0, "interval": [1.0, 1.0]}
    assert [found["by_arm"][arm]["focus"]["mean"] for arm in "AB"] == [2, 4]
    assert found["chance"] == 0.25
    assert found["accuracy_p"] == 2 / 2**3  # differences 0, 1, 1, 1
    assert found["focus_p"] == 2 / 2**4
    assert found["class_alpha"] is None  # one rater
    assert "chance            0.25" in cli("study", "score", tmp_path, path).stdout


@pytest.mark.parametrize(("values", "fields", "sentence"), [
    ({"i0": 1}, {"camcli_study": "s2"}, "answers another study (s2), not s1"),
    ({"i9": 1}, {}, "answers item 'i9', which this study has not"),
    ({"i0": 3}, {}, "item 'i0' with value 3; it has to be a whole number from -2 to 2"),
    ({"i0": {"value": True}}, {}, "with value True"),
    ({"i0": {"value": "2"}}, {}, "with value 2; it has to be a whole number"),
    ({"i0": 1}, {"rater": ""}, "has no rater or no answers"),
    ({"i0": 1}, {"answers": None}, "has no rater or no answers"),
])  # fmt: skip
def test_answers_that_do_not_fit_are_one_sentence(
    study: Path, cli: Callable, values: dict, fields: dict, sentence: str
) -> None:
    done = cli("study", "score", study, answers(study, "ann", values, **fields))
    assert (done.status, done.stdout) == (2, "")
    assert sentence in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("content", "sentence"),
    [("{", "is damaged ("), ("[]", "is not an answers file"), ("\x00", "is damaged ("),
     (None, "cannot be read (No such file"), ("[" * 100_000, "is damaged (")],
    ids=["torn", "a list", "zeros", "gone", "deep"],
)  # fmt: skip
def test_files_that_are_no_answers_are_one_sentence(
    study: Path, cli: Callable, content: str | None, sentence: str
) -> None:
    if content is not None:
        (study / "a.json").write_text(content)
    done = cli("study", "score", study, study / "a.json")
    assert (done.status, done.stdout) == (2, "")
    assert sentence in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_directory_without_a_key_says_so(tmp_path: Path, cli: Callable) -> None:
    done = cli("study", "score", tmp_path, tmp_path / "a.json")
    assert done.status == 2
    assert "key.json' cannot be read (No such file or directory)" in done.stderr
    (tmp_path / "key.json").write_text('{"study": "s"}')
    assert "is no key of a study" in cli("study", "score", tmp_path, tmp_path / "a.json").stderr
