"""Finding the logits in what a model returns."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from camcli.errors import ModelError, UsageError
from camcli.models.output import logits_of

LOGITS, OTHER, AUXILIARY = torch.rand(2, 10), torch.rand(2, 64), torch.rand(2, 10)
MAP = torch.rand(2, 64, 7, 7)
Answer = namedtuple("Answer", ["features", "logits"])


@pytest.mark.parametrize(
    "output",
    [
        LOGITS,
        (LOGITS,),
        [MAP, LOGITS],
        (LOGITS, AUXILIARY),
        (LOGITS, None),
        {"x": MAP, "y": LOGITS},
        {"aux": AUXILIARY, "out": LOGITS},
        OrderedDict(hidden=OTHER, logits=LOGITS),
        Answer(OTHER, LOGITS),
        SimpleNamespace(logits=LOGITS, hidden=OTHER),
    ],
    ids=lambda output: type(output).__name__,
)
def test_the_logits_are_found_where_there_is_no_doubt(output: Any) -> None:
    assert logits_of(output) is LOGITS


@pytest.mark.parametrize(
    "output", [(OTHER, LOGITS), {"a": LOGITS, "b": AUXILIARY}, SimpleNamespace(a=LOGITS, b=OTHER)]
)
def test_where_several_could_be_the_logits_the_user_is_asked(output: Any) -> None:
    with pytest.raises(ModelError, match=r"^the model returned \w+ \(.*\), any of which may be"):
        logits_of(output)


@pytest.mark.parametrize(
    ("output", "choice"),
    [
        ((OTHER, LOGITS), 1),
        ((OTHER, LOGITS), -1),
        ({"a": AUXILIARY, "b": LOGITS}, "b"),
        (Answer(LOGITS, OTHER), "features"),
        (Answer(LOGITS, OTHER), 0),
        (SimpleNamespace(a=LOGITS, b=OTHER), "a"),
    ],
)
def test_the_user_may_say_which_they_are(output: Any, choice: str | int) -> None:
    assert logits_of(output, choice) is LOGITS


@pytest.mark.parametrize("choice", ["z", 2, -3])
def test_a_choice_that_does_not_exist_is_a_usage_error_that_lists_what_there_is(choice) -> None:
    with pytest.raises(UsageError) as caught:
        logits_of((OTHER, MAP), choice)
    flag = "--output-key" if choice == "z" else "--output-index"
    assert str(caught.value) == (
        f"{flag} {choice}: the model returned tuple (0 (2, 64), 1 (2, 64, 7, 7))"
    )


@pytest.mark.parametrize("output", [MAP, (), {}, None, "logits", [MAP, MAP]])
def test_what_holds_no_logits_is_refused(output: Any) -> None:
    with pytest.raises(ModelError, match=r"one tensor of logits \(N, classes\) is needed$"):
        logits_of(output)
