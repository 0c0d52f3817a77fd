"""`camcli methods`: the list, the cards, and what neither of them loads."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import get_args

import pytest

from camcli import config
from camcli.cam import methods as _registered
from camcli.cli import methods
from camcli.cli.options import _completion
from camcli.registry import METHODS, Needs, Scope, Units, all_gradient

assert _registered.__name__.endswith("methods")


def test_the_list_has_a_line_for_every_method_in_the_order_of_registration(cli: Callable) -> None:
    *rows, last = cli("methods").stdout.splitlines()
    assert [row.split()[0] for row in rows] == list(METHODS)
    columns = [part.strip() for part in rows[0].split("  ") if part.strip()]
    assert columns == ["hirescam", "HiResCAM", "gradient", "score units", "arXiv 2011.08891"]
    assert last.startswith("all-gradient ")


def test_the_columns_of_the_list_are_aligned(cli: Callable) -> None:
    rows = cli("methods").stdout.splitlines()[:-1]
    for row, card in zip(rows, METHODS.values(), strict=True):
        assert row.rindex(f" {card.needs} ") == rows[0].rindex(" gradient ")
        assert row.index("score units" if card.units == "score" else "no units ") == rows[0].index(
            "score units"
        )
        assert row.endswith(f"  {card.paper}")


def test_the_last_line_says_what_all_gradient_is(cli: Callable) -> None:
    names = [card.name for card in all_gradient()]
    told = f"the {len(names)} whose maps all come out of one forward pass: {', '.join(names)}"
    assert " ".join(cli("methods").stdout.splitlines()[-1].split()) == f"all-gradient {told}"
    for spelling in ("all-gradient", "all gradient"):
        assert cli("methods", spelling).stdout == f"all-gradient: {told}\n"


def test_a_card_says_cost_units_scope_and_the_whole_docstring(cli: Callable) -> None:
    assert cli("methods", "gradcampp").stdout == (
        "gradcampp: Grad-CAM++, arXiv 1710.11063\n"
        "needs gradient: one backward pass through what follows the layer, shared by all such "
        "methods\n"
        "no units: a map's sum means nothing, only its places do\n"
        "scope layer: a map of one layer, for every --layer\n\n"
        f"{METHODS['gradcampp'].doc}\n"
    )


@pytest.mark.parametrize("name", METHODS)
def test_every_card_has_equation_cost_and_what_is_known(name: str, cli: Callable) -> None:
    card = cli("methods", name).stdout
    assert card.startswith(f"{name}: {METHODS[name].title}, {METHODS[name].paper}\n")
    for part in ("L", "Cost: ", "Guaranteed: ", "Known to get wrong: "):
        assert f"\n{part}" in card, part


@pytest.mark.parametrize("spelling", ["Grad-CAM++", "grad_cam++", "GradCAMpp", "GRAD CAM ++"])
def test_any_usual_spelling_prints_the_card(spelling: str, cli: Callable) -> None:
    assert cli("methods", spelling) == cli("methods", "gradcampp")


def test_a_method_that_does_not_exist_is_a_usage_error_with_a_suggestion(cli: Callable) -> None:
    assert cli("methods", "hirescan") == (
        2,
        "",
        "camcli: no method 'hirescan'; did you mean 'hirescam'? List them: camcli methods\n",
    )


def test_every_kind_of_method_is_put_into_words() -> None:
    assert list(methods.COSTS) == list(get_args(Needs))
    assert list(methods.UNITS) == list(get_args(Units))
    assert list(methods.SCOPES) == list(get_args(Scope))


def test_completion_offers_every_method_and_all_gradient() -> None:
    complete = _completion("method", config.options()["method"])
    assert complete is not None
    assert complete("") == [*METHODS, "all-gradient"]
    assert complete("all") == ["all-gradient"]


def test_neither_the_list_nor_a_card_nor_completion_loads_torch() -> None:
    code = (
        "import sys\n"
        "from camcli.cli.app import main\n"
        "from camcli.cli.options import _completion\n"
        "from camcli import config\n"
        "from camcli.registry import METHODS\n"
        "_completion('method', config.options()['method'])('')\n"
        "for arguments in [[], *([name] for name in METHODS)]:\n"
        "    sys.argv = ['camcli', 'methods', *arguments]\n"
        "    try:\n"
        "        main()\n"
        "    except SystemExit as ended:\n"
        "        assert ended.code == 0, arguments\n"
        "    assert 'torch' not in sys.modules, arguments\n"
        "print(len(METHODS), 'cards')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(f"{len(METHODS)} cards\n")
