"""Finding the logits in what a model returns."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models import GoogLeNetOutputs, InceptionOutputs

import camcli
from camcli.errors import ModelError, UsageError
from camcli.models.batches import rows_at_a_time
from camcli.models.output import logits_of
from camcli.models.python import of_module
from camcli.records import ModelRequest

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
        GoogLeNetOutputs(LOGITS, AUXILIARY, AUXILIARY),
        GoogLeNetOutputs(LOGITS, None, None),
        InceptionOutputs(LOGITS, AUXILIARY),
        {"out": {"logits": LOGITS, "hidden": OTHER}},
        (LOGITS, {"attention": MAP}),
        {"loss": torch.zeros(()), "logits": LOGITS},
        (MAP.mean(dim=(2, 3), keepdim=True), LOGITS),
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


ONE, MANY = torch.rand(1, 10), torch.rand(3, 10)


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (ONE[:, :, None, None], ONE),  # fully convolutional
        (MANY[:, :, None, None], MANY),
        (MANY[:, :, None], MANY),
        (ONE[0], ONE),  # squeezed
        (MANY[:, 0], MANY[:, :1]),  # one logit a picture
        (ONE[0, :1], ONE[:, :1]),
        (ONE[0, 0], ONE[:, :1]),
        ({"logits": MANY[:, 0], "loss": torch.zeros(())}, MANY[:, :1]),
        ({"logits": MANY[:, :, None, None], "hidden": torch.rand(3, 64)}, MANY),
    ],
    ids=lambda given: str(tuple(given.shape)) if isinstance(given, torch.Tensor) else "dict",
)
def test_logits_that_lost_or_kept_dimensions_are_given_theirs(output, expected) -> None:
    torch.testing.assert_close(logits_of(output, None, len(expected)), expected)


@pytest.mark.parametrize("output", [MANY[0], MANY.flatten(), torch.rand(3, 10, 2, 2), MANY[0, 0]])
def test_what_is_not_a_row_a_picture_is_refused(output: torch.Tensor) -> None:
    with pytest.raises(ModelError, match=r"\(N, classes\) is needed$"):
        logits_of(output, None, 3)


class Headed(nn.Module):
    """A small network whose answer goes through a function."""

    def __init__(self, classes: int, shape: Any) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.ReLU())
        self.head, self.shape = nn.Conv2d(8, classes, 1), shape

    def forward(self, x: torch.Tensor) -> Any:
        return self.shape(self.head(self.features(x)).mean(dim=(2, 3), keepdim=True))


HALF = {"size": (32, 32), "mean": (0.5,) * 3, "std": (0.5,) * 3}


def loaded(module: nn.Module) -> camcli.models.loaded.LoadedModel:
    return of_module(ModelRequest("mine", device="cpu", preprocessing=HALF), module, "mine", "own")


@pytest.mark.parametrize(
    ("classes", "shape"),
    [(5, lambda y: y), (5, torch.squeeze), (1, torch.squeeze), (1, torch.flatten)],
    ids=["convolutional", "squeezed", "one logit squeezed", "one logit flattened"],
)
def test_such_a_model_has_the_maps_of_its_twin_that_keeps_to_two_dimensions(
    classes: int, shape: Any, picture: Any
) -> None:
    torch.manual_seed(0)
    odd = Headed(classes, shape)
    twin = Headed(classes, lambda y: y.flatten(1))
    twin.load_state_dict(odd.state_dict())
    given = [picture(f"{n}.png", seed=n) for n in range(3)]
    # Batches of two: the last is padded, and classes are counted on a batch of one.
    found = [list(camcli.explain(given, model=loaded(m), batch_size=2)) for m in (odd, twin)]
    for one, other in zip(*found, strict=True):
        assert one.cams[0].cam.any()
        assert one.cams[0].cam.tobytes() == other.cams[0].cam.tobytes()
        assert one.predictions == other.predictions


def test_an_answer_for_the_first_picture_alone_is_not_taken_for_one_of_each() -> None:
    """Two classes of one picture look like a logit each of two."""
    first = Headed(2, lambda y: y[0].flatten())
    model = loaded(first)
    with pytest.raises(
        ModelError, match=r"^mine returned one logit a picture for a batch of 2, but"
    ):
        model.logits(torch.rand(2, 3, 32, 32))
    # A trace of it is run picture by picture.
    x = torch.rand(1, 3, 32, 32)
    assert rows_at_a_time(lambda x, _: logits_of(first(x), None, len(x)), x, traced=1) == 1


@pytest.mark.parametrize("output", [MAP, (), {}, None, "logits", [MAP, MAP]])
def test_what_holds_no_logits_is_refused(output: Any) -> None:
    with pytest.raises(ModelError, match=r"one tensor of logits \(N, classes\) is needed$"):
        logits_of(output)
