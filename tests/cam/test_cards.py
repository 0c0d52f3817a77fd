"""A method's docstring is its card, which `camcli methods NAME` prints: it says everything."""

from __future__ import annotations

import re

import pytest

import camcli.cam.methods  # noqa: F401 (registers them)
from camcli.registry import METHODS, Method

every_card = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


def paragraphs(method: Method) -> list[str]:
    return [" ".join(part.split()) for part in method.doc.split("\n\n")]


def cited(method: Method) -> str:
    """The number of an arXiv paper, or the name and year of any other."""
    return re.sub(r"^arXiv ", "", method.paper)


@every_card
def test_a_card_starts_with_the_equation_of_the_map(method: Method) -> None:
    assert re.match(r"L(_\w+)? = \S", method.doc)


@every_card
def test_a_card_says_what_it_costs_what_is_guaranteed_and_what_is_not(method: Method) -> None:
    wanted = ("Cost: ", "Guaranteed: ", "Known to get wrong: ")
    found = [text for line in method.doc.splitlines() for text in wanted if line.startswith(text)]
    assert found == list(wanted)
    assert all(line[len(text):].strip() for line in method.doc.splitlines() for text in wanted
               if line.startswith(text))  # fmt: skip


@every_card
def test_a_card_names_the_source_that_the_list_of_methods_names(method: Method) -> None:
    assert method.paper
    words = [word for word in re.findall(r"[\w.+-]+", cited(method)) if word != "baseline"]
    first = paragraphs(method)[0] + " " + paragraphs(method)[1]
    assert all(word in first for word in words)


@every_card
def test_a_method_whose_maps_have_units_of_the_score_says_so(method: Method) -> None:
    assert ("Units of the score" in method.doc) == (method.units == "score")


@every_card
def test_a_card_fits_into_a_terminal(method: Method) -> None:
    assert max(map(len, method.doc.splitlines())) <= 100
