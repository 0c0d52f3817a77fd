"""torchvision imports with its compiled operators and without them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

# What torchvision does beside a torch that its operators were not built for: by the time that
# they turn out to be missing, a part of the package has been imported.
NEEDS_OPERATORS = """
import torch
import torchvision.models
try:
    torch.ops.torchvision.nms, torch.ops.torchvision.qnms
except AttributeError:
    raise RuntimeError("operator torchvision::nms does not exist") from None
"""

WITHOUT_OPERATORS = """
import json, sys
try:
    import torchvision
except RuntimeError as error:
    plain = str(error)
half = sys.modules["torchvision.models"]
package = import_torchvision()
import torch
print(json.dumps({
    "plain import": plain,
    "imported": sys.modules["torchvision"] is package,
    "again": import_torchvision() is package,
    "models left over": package.models is half,
    "missing": operators_missing(),
    "schemas": [str(getattr(torch.ops.torchvision, name).default._schema)
                for name in ("nms", "qnms")],
}))
"""


def python(script: str, **variables: str) -> str:
    """What a script prints that runs in a new interpreter."""
    imports = "from camcli.models.fallback import import_torchvision, operators_missing\n"
    done = subprocess.run(
        [sys.executable, "-c", imports + script],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def beside(folder: Path, package: str, script: str) -> str:
    """What a script prints that finds a torchvision of our making first."""
    (folder / "torchvision").mkdir()
    (folder / "torchvision" / "__init__.py").write_text(package)
    (folder / "torchvision" / "models.py").write_text("")
    return python(script, PYTHONPATH=str(folder))


@pytest.fixture(scope="module")
def without_operators(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    folder = tmp_path_factory.mktemp("without_operators")
    facts: dict[str, object] = json.loads(beside(folder, NEEDS_OPERATORS, WITHOUT_OPERATORS))
    return facts


def test_where_operators_are_missing_the_import_succeeds_all_the_same(without_operators) -> None:
    assert without_operators["plain import"] == "operator torchvision::nms does not exist"
    assert without_operators["imported"] is True
    assert without_operators["missing"] is True


def test_the_half_that_was_imported_is_imported_anew(without_operators) -> None:
    assert without_operators["models left over"] is False


def test_a_second_call_finds_the_package_that_is_there(without_operators) -> None:
    assert without_operators["again"] is True


def test_the_declared_schemas_are_torchvisions_own(without_operators) -> None:
    arguments = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
    assert without_operators["schemas"] == [
        f"torchvision::nms{arguments}",
        f"torchvision::qnms{arguments}",
    ]


def test_nothing_is_declared_where_the_import_succeeds(tmp_path: Path) -> None:
    """Declaring an operator that a library then registers aborts the process."""
    printed = beside(
        tmp_path,
        "",
        "import_torchvision()\n"
        "import torch\n"
        "print(operators_missing(), hasattr(torch.ops.torchvision, 'nms'))",
    )
    assert printed == "False False\n"


def test_the_installed_package_builds_its_models() -> None:
    printed = python(
        "models = import_torchvision().models\n"
        "import torch\n"
        "print(tuple(models.resnet18().eval()(torch.zeros(1, 3, 64, 64)).shape))"
    )
    assert printed == "(1, 1000)\n"


def test_any_other_fault_surfaces_unchanged_and_declares_nothing(tmp_path: Path) -> None:
    printed = beside(
        tmp_path,
        "raise RuntimeError('operator torchvision::roi_align is broken')",
        "try:\n"
        "    import_torchvision()\n"
        "except RuntimeError as error:\n"
        "    print(type(error).__name__, '|', error, '|', operators_missing())",
    )
    assert printed == "RuntimeError | operator torchvision::roi_align is broken | False\n"


def test_a_torchvision_that_cannot_be_imported_is_one_sentence(tmp_path: Path) -> None:
    printed = beside(
        tmp_path,
        "raise ImportError('libcudart.so.13: cannot open shared object file')",
        "from camcli.errors import ModelError\n"
        "try:\n"
        "    import_torchvision()\n"
        "except ModelError as error:\n"
        "    print(error)",
    )
    assert printed == (
        "torchvision cannot be imported (libcudart.so.13: cannot open shared object file); "
        "install the release that goes with torch\n"
    )
