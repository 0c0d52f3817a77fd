"""`--labels`: every form in which people keep the names of classes, and what is wrong with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from camcli.errors import UsageError
from camcli.models.labels import imagenet_labels, parse_labels, read_labels

ANIMALS = ("cat", "dog", "emu")
GIVEN = {
    "txt": ("l.txt", "cat\ndog\nemu\n"),
    "windows": ("l.txt", "\ufeffcat\r\ndog\r\nemu\r\n"),
    "blank lines": ("l.txt", "cat\n\n dog\nemu"),
    "list": ("l.json", '["cat", "dog", "emu"]'),
    "json with a mark": ("l.json", '\ufeff["cat", "dog", "emu"]'),
    "index to name": ("l.json", '{"2": "emu", "0": "cat", "1": "dog"}'),
    "name to index": ("l.json", '{"emu": 2, "cat": 0, "dog": 1}'),
    "class index": ("l.json", '{"0": ["n0", "cat"], "1": ["n1", "dog"], "2": ["n2", "emu"]}'),
    "id2label": (
        "l.json",
        '{"model_type": "vit", "label2id": {"dog": 1, "cat": 0, "emu": 2},'
        ' "id2label": {"0": "cat", "1": "dog", "2": "emu"}}',
    ),
    "one column": ("l.csv", "cat\ndog\nemu\n"),
    "headed column": ("l.csv", "label\ncat\ndog\nemu\n"),
    "headed": ("l.csv", "index,label\r\n2,emu\r\n0,cat\r\n1,dog\r\n"),
    "headed, label first": ("l.csv", "Name,wnid,class_id\nemu,x,2\ncat,y,0\ndog,z,1\n"),
    "last column": ("l.csv", "index,what\n2,emu\n1,dog\n0,cat\n"),
    "numbered": ("l.csv", '1,dog\n0,"cat"\n2,emu\n'),
}


@pytest.mark.parametrize(("name", "text"), GIVEN.values(), ids=GIVEN)
def test_labels_are_read_in_the_order_of_their_classes(name: str, text: str, tmp_path: Path):
    path = tmp_path / name
    path.write_bytes(text.encode())
    assert read_labels(path) == ANIMALS


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("l.txt", "", "it is empty"),
        ("l.json", "[]", "it is empty"),
        ("l.json", "{}", "it is empty"),
        ("l.csv", "index,label\n", "it is empty"),
        ("l.json", "", "Expecting value: line 1 column 1 (char 0)"),
        ("l.json", "3", "neither a list nor an object but int"),
        ("l.json", '{"0": "cat", "0": "dog"}', "'0' is there twice"),
        ("l.json", '{"0": "cat", "00": "dog"}', "index 0 is there twice"),
        ("l.json", '{"cat": 1, "dog": 1}', "index 1 is there twice"),
        ("l.json", '{"1": "cat", "2": "dog"}', "index 0 is missing among 2"),
        ("l.json", '{"cat": "x"}', "'cat' is no index"),
        ("l.json", '["cat", null]', "null is no label"),
        ("l.json", '["cat", {"name": "dog"}]', '{"name": "dog"} is no label'),
        ("l.csv", "index,label\n0,cat\n0,dog\n", "index 0 is there twice"),
        ("l.csv", "index,label\n0,cat\none,dog\n", "'one' is no index"),
        ("l.csv", "index,label\n0,cat\n1\n", "a row has no label: 1"),
        ("l.txt", b"caf\xe9\n", "'utf-8' codec can't decode byte 0xe9 in position 3"),
        ("gone.txt", None, "No such file or directory"),
    ],
)
def test_a_file_that_does_not_name_classes_is_one_sentence(
    name: str, text: str | bytes | None, reason: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UsageError) as caught:
        read_labels(path)
    said = str(caught.value)
    assert said.startswith(f"--labels {path} cannot be read ({reason}")
    assert said.endswith("a .json list or {index: label}, or a .csv")
    assert "\n" not in said


def test_labels_survive_being_written_in_each_form() -> None:
    """A thousand real ones, two of which are there twice, with commas and apostrophes."""
    names = imagenet_labels()
    by_index = {str(k): name for k, name in enumerate(names)}
    assert parse_labels("\n".join(names), ".txt") == names
    assert parse_labels(json.dumps(list(names)), ".json") == names
    assert parse_labels(json.dumps(dict(sorted(by_index.items()))), ".JSON") == names
    quoted = "\n".join(f'{k},"{name}"' for k, name in reversed(list(by_index.items())))
    assert parse_labels(quoted, ".csv") == names
