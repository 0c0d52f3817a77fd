"""Every form of `--target`: which score it picks for which picture, and what it refuses."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from camcli.cam.targets import Classes, NoTargetError, parse_target, score
from camcli.errors import UsageError
from camcli.records import ImageRef, Target

LABELS = ("tabby", "tiger cat", "black-and-tan coonhound", "crane", "crane", "corgi, Cardigan",
          "coonhound", "jack-o'-lantern")  # fmt: skip
CLASSES = Classes(len(LABELS), LABELS)
REF = ImageRef("photos/tabby/a.jpg", "tabby/a.jpg")
RANKED = [6, 0, 3, 2, 1, 4, 5, 7]


def chosen(text: str, classes: Classes = CLASSES, ref: ImageRef = REF) -> tuple[Target, ...]:
    return parse_target(text, classes)(ref, RANKED)


@pytest.mark.parametrize(
    ("text", "targets"),
    [
        ("predicted", [Target(6)]),
        ("top:1", [Target(6)]),
        ("top:3", [Target(6), Target(0), Target(3)]),
        ("top:8", [Target(index) for index in RANKED]),
        ("3", [Target(3)]),
        ("tabby", [Target(0)]),
        ("Tiger CAT", [Target(1)]),
        ("tabby,3,tiger cat", [Target(0), Target(3), Target(1)]),
        ("tabby, 3 , ", [Target(0), Target(3)]),
        ("tabby,0,TABBY", [Target(0)]),  # one map, not three of the same name
        ("corgi, Cardigan", [Target(5)]),
        ("black-and-tan coonhound", [Target(2)]),
        ("tabby-tiger cat", [Target(0, 1)]),
        ("tabby - tiger cat", [Target(0, 1)]),
        ("0-1", [Target(0, 1)]),
        ("tabby-1", [Target(0, 1)]),
        ("black-and-tan coonhound-coonhound", [Target(2, 6)]),
        ("coonhound-black-and-tan coonhound", [Target(6, 2)]),
        ("jack-o'-lantern - black-and-tan coonhound", [Target(7, 2)]),
        ("-tabby", [Target(None, 0)]),
        ("- tabby", [Target(None, 0)]),
        ("-0", [Target(None, 0)]),
        ("-black-and-tan coonhound", [Target(None, 2)]),
        ("tabby,0-1,-tabby", [Target(0), Target(0, 1), Target(None, 0)]),
    ],
)
def test_a_target_names_these_scores(text: str, targets: list[Target]) -> None:
    assert list(chosen(text)) == targets


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tabbi", "no class 'tabbi' among 8; did you mean 'tabby'? "),
        ("8", "no class '8' among 8."),
        ("tabby,zebra crossing", "no class 'zebra crossing' among 8."),
        ("-zebra", "no class 'zebra' among 8."),
        ("tabby-zebra", "no class 'tabby-zebra' among 8; did you mean 'tabby'?"),
        ("crane", "class 'crane' is ambiguous: give one of the indices [3, 4]"),
        ("tabby-crane", "class 'crane' is ambiguous: give one of the indices [3, 4]"),
        ("crane-tabby", "class 'crane' is ambiguous: give one of the indices [3, 4]"),
        ("-crane", "class 'crane' is ambiguous: give one of the indices [3, 4]"),
        ("top:0", "--target top:0: K must be a number from 1 to 8"),
        ("top:9", "--target top:9: K must be a number from 1 to 8"),
        ("top:all", "--target top:all: K must be a number from 1 to 8"),
        ("", "no class '' among 8."),
        (",", "no class ',' among 8."),
    ],
)
def test_a_target_that_does_not_exist_is_refused_before_any_picture(text, message) -> None:
    with pytest.raises(UsageError) as caught:
        parse_target(text, CLASSES)
    assert str(caught.value).startswith(message.strip())


def test_without_labels_classes_go_by_index_alone() -> None:
    plain = Classes(3)
    assert chosen("2-0", plain) == (Target(2, 0),)
    assert plain.label(2) == "2"
    with pytest.raises(UsageError, match=r"^no class 'tabby' among 3\.$"):
        chosen("tabby", plain)


def test_an_index_comes_before_a_label_that_looks_like_one() -> None:
    assert Classes(3, ("1", "2", "0")).find("2") == 2


def test_targets_are_named_by_their_labels() -> None:
    assert CLASSES.name(Target(0)) == "tabby"
    assert CLASSES.name(Target(0, 1)) == "tabby - tiger cat"
    assert CLASSES.name(Target(None, 1)) == "- tiger cat"
    assert Classes(3).name(Target(2, 0)) == "2 - 0"


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("photos/tabby/a.jpg", Target(0)),
        ("photos/Tiger Cat/a.jpg", Target(1)),
        ("/data/2/a.jpg", Target(2)),
    ],
)
def test_folder_takes_the_class_from_the_parent_folder(path: str, target: Target) -> None:
    assert chosen("folder", ref=ImageRef(path, "a.jpg")) == (target,)


def test_folder_finds_the_folder_of_a_bare_file_name(tmp_path, monkeypatch) -> None:
    (tmp_path / "tabby").mkdir()
    monkeypatch.chdir(tmp_path / "tabby")
    assert chosen("folder", ref=ImageRef("a.jpg", "a.jpg")) == (Target(0),)


def test_a_folder_that_is_no_class_leaves_the_picture_without_a_target() -> None:
    with pytest.raises(NoTargetError, match=r"^the folder 'misc' is no class: no class 'misc' amo"):
        chosen("folder", ref=ImageRef("photos/misc/a.jpg", "misc/a.jpg"))


def csv_file(folder: Path, text: str) -> str:
    path = folder / "labels.csv"
    path.write_text(text, encoding="utf-8")
    return f"csv:{path}"


@pytest.mark.parametrize("where", ["path", "file", "filename", "image", "key"])
@pytest.mark.parametrize("what", ["class_index", "index", "class", "label", "target"])
def test_a_csv_is_read_by_the_names_of_its_columns(tmp_path, where, what) -> None:
    value = "2" if "index" in what else "black-and-tan coonhound"
    rule = csv_file(tmp_path, f"note,{what},{where}\n,{value},tabby/a.jpg\n")
    assert chosen(rule) == (Target(2),)


def test_a_csv_prefers_the_index_to_the_label(tmp_path) -> None:
    assert chosen(csv_file(tmp_path, "path,label,class_index\ntabby/a.jpg,crane,4\n")) == (
        Target(4),
    )


def test_a_csv_from_a_spreadsheet_starts_with_a_byte_order_mark(tmp_path) -> None:
    assert chosen(csv_file(tmp_path, "\ufeffpath,class\r\ntabby/a.jpg,1\r\n\r\n")) == (Target(1),)


@pytest.mark.parametrize("name", ["set/a.jpg", "./set/a.jpg", "set//a.jpg", "{root}/set/a.jpg"])
@pytest.mark.parametrize("ref", ["{root}/set/a.jpg", "set/../set/a.jpg"])
def test_a_csv_row_is_found_by_the_path_beside_the_file(tmp_path, monkeypatch, name, ref) -> None:
    monkeypatch.chdir(tmp_path)
    rule = csv_file(tmp_path, f"path,class\n{name.format(root=tmp_path)},1\n")
    picture = ImageRef(ref.format(root=tmp_path), "unrelated key")
    assert chosen(rule, ref=picture) == (Target(1),)


def test_a_picture_without_a_row_has_no_target(tmp_path) -> None:
    rule = csv_file(tmp_path, "path,class\nb.jpg,1\n")
    with pytest.raises(NoTargetError, match=r"^no row for 'tabby/a.jpg' in .*labels.csv$"):
        chosen(rule)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.jpg,3\nb.jpg,4\n", "must name a column of path|file|filename|image|key"),
        ("path,colour\na.jpg,red\n", "one of class_index|index|class|label|target"),
        ("", "must name a column"),
        ("path,class\na.jpg,tabbi\n", "no class 'tabbi' among 8; did you mean 'tabby'?"),
        ("path,class\na.jpg\n", "no class '' among 8."),
    ],
)
def test_a_csv_that_cannot_be_meant_is_refused(tmp_path, text, message) -> None:
    with pytest.raises(UsageError) as caught:
        parse_target(csv_file(tmp_path, text), CLASSES)
    assert message in str(caught.value)


def test_a_csv_that_cannot_be_read_is_refused_in_one_sentence(tmp_path) -> None:
    (tmp_path / "picture.csv").write_bytes(b"\xff\xd8\xff\xe0 no text")
    for path in (tmp_path / "missing.csv", tmp_path / "picture.csv", tmp_path):
        with pytest.raises(UsageError, match=r"^--target csv:.* cannot be read: ") as caught:
            parse_target(f"csv:{path}", CLASSES)
        assert "\n" not in str(caught.value)


def test_rows_of_a_csv_match_whichever_folder_the_run_is_started_from(tmp_path, monkeypatch):
    rule = csv_file(tmp_path, "path,class\nset/a.jpg,1\n")
    (tmp_path / "set").mkdir()
    monkeypatch.chdir(tmp_path / "set")
    assert chosen(rule, ref=ImageRef("a.jpg", "a.jpg")) == (Target(1),)
    assert chosen(rule, ref=ImageRef(os.path.join("..", "set", "a.jpg"), "x")) == (Target(1),)


def test_the_score_is_the_logit_minus_the_logit_it_is_weighed_against() -> None:
    logits = torch.tensor([[1.0, 20.0, 300.0], [4.0, 50.0, 600.0], [7.0, 80.0, 900.0]])
    targets = [Target(2), Target(2, 1), Target(None, 0)]
    assert score(logits, targets).tolist() == [300.0, 550.0, -7.0]


def test_a_missing_target_scores_zero_and_asks_for_no_gradient() -> None:
    logits = torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    values = score(logits, [Target(None), Target(1)])
    (gradient,) = torch.autograd.grad(values.sum(), [logits])
    assert values.tolist() == [0.0, 4.0]
    assert gradient.tolist() == [[0.0, 0.0], [0.0, 1.0]]
