"""What torch.export files may not hold, for it becomes code: specifications, guards, members."""

from __future__ import annotations

import json
import sys
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from camcli.errors import ModelError
from camcli.models.exported import open_exported
from camcli.models.exported_file import load
from tests.models.files import quiet, rewritten

CPU = torch.device("cpu")
Json = dict[str, Any]


@pytest.fixture
def good(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 4, 8, stride=8), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with quiet():
        program = torch.export.export(module.eval(), (torch.zeros(1, 3, 16, 16),))
        torch.export.save(program, tmp_path / "good.pt2")
    return tmp_path / "good.pt2"


def changed(path: Path, change: Callable[[Json], None]) -> Path:
    """A copy whose serialized program is changed."""

    def edit(name: str, content: bytes) -> bytes:
        if "/models/" not in name:
            return content
        program = json.loads(content)
        change(program)
        return json.dumps(program).encode()

    return rewritten(path, edit)


@pytest.fixture
def mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What appears where the module `harm` is imported."""
    mark = tmp_path / "mark"
    (tmp_path / "path").mkdir()
    (tmp_path / "path/harm.py").write_text(
        f"import enum, os\nos.mkdir({str(mark)!r})\nclass Kind(enum.Enum):\n    one = 1\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path / "path"))
    monkeypatch.delitem(sys.modules, "harm", raising=False)
    return mark


FACTORY = {
    "type": "collections.defaultdict",
    "context": {
        "default_factory_module": "harm",
        "default_factory_name": "Kind",
        "dict_context": [],
    },
    "children_spec": [],
}
ENUM = {
    "type": "builtins.dict",
    "context": json.dumps([{"__enum__": True, "fqn": "harm:Kind", "name": "one"}]),
    "children_spec": [{"type": None, "context": None, "children_spec": []}],
}


@pytest.mark.parametrize(
    ("spec", "named"), [(FACTORY, "default_factory_module"), (ENUM, "__enum__")]
)
@pytest.mark.parametrize("place", ["in_spec", "out_spec"])
def test_a_specification_that_imports_a_module_is_refused(
    good: Path, mark: Path, spec: Json, named: str, place: str
) -> None:
    def change(program: Json) -> None:
        signature = program["graph_module"]["module_call_graph"][0]["signature"]
        signature[place] = json.dumps([1, spec]) + " " * len(place)  # torch remembers texts

    bad = changed(good, change)
    with pytest.raises(ModelError, match=rf"holds what may run as code \('{named}'\)"):
        load(bad)
    assert not mark.exists()
    with suppress(ModelError):  # that it does not fit the graph is found out later
        load(bad, trusted=True)
    assert mark.exists()


def test_guards_are_left_unused(good: Path, tmp_path: Path) -> None:
    """They are Python source, which torch would compile into a check of the inputs."""
    mark = tmp_path / "mark"
    harm = f"__import__('os').mkdir('{mark}') is None"
    bad = changed(good, lambda program: program.update(guards_code=[harm]))
    network = open_exported(bad, CPU)
    x = torch.rand(1, 3, 16, 16)
    with network.prepared(), torch.no_grad():
        torch.testing.assert_close(network.run(x, {}), open_exported(good, CPU).run(x, {}))
    assert not mark.exists()
    with quiet():
        module = torch.export.load(bad).module()
        module(x)
    assert mark.exists()


def test_a_bound_of_sizes_that_is_code_is_refused(good: Path) -> None:
    bad = changed(
        good,
        lambda program: program["range_constraints"].update(
            {"print('harm')": {"min_val": 0, "max_val": 9}}
        ),
    )
    with pytest.raises(ModelError, match=r"holds what may run as code \(\"print\('harm'\)\"\)"):
        load(bad)


@pytest.mark.parametrize("spelled", [str, str.upper])
def test_two_members_of_one_name_are_refused(good: Path, spelled: Callable[[str], str]) -> None:
    """torch's reader knows no upper case, and takes either."""
    with zipfile.ZipFile(good, "a") as archive, quiet():
        (name,) = (name for name in archive.namelist() if "/models/" in name)
        archive.writestr(spelled(name), archive.read(name))
    with pytest.raises(ModelError, match=r"holds what may run as code .'good/models/model.json'"):
        load(good)


@pytest.mark.parametrize("content", ["[]", "print('harm')", '"text"'])
def test_a_program_that_is_no_object_is_refused(good: Path, content: str) -> None:
    bad = rewritten(good, lambda name, own: content.encode() if "/models/" in name else own)
    with pytest.raises(ModelError, match=r"holds what may run as code \('good/models/model.json'"):
        load(bad)


@pytest.mark.parametrize(
    "content", ["[" * 100_000, '{"config": []}', '{"graph_module": {}, "range_constraints": 1}']
)
def test_what_torch_did_not_build_is_called_damaged(good: Path, content: str) -> None:
    bad = rewritten(good, lambda name, own: content.encode() if "/models/" in name else own)
    with pytest.raises(ModelError, match="is truncated or damaged"):
        load(bad)
