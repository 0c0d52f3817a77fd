"""What the answers of a study come to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from camcli.study import statistics
from camcli.study.answers import Answers, Collected
from camcli.study.statistics import Ratings

Json = dict[str, Any]


def score(key: Json, collected: Collected, seed: int) -> Json:
    """The figures of a study, ready for JSON. `seed` is that of the bootstrap."""
    answered = sum(bool(values) for of_item in collected.answers.values()
                   for values in of_item.values())  # fmt: skip
    figures = _pairs if key["protocol"] == "pairs" else _classes
    return {
        "study": key["study"], "protocol": key["protocol"], "arms": key["arms"],
        "items": len(key["items"]), "raters": len(collected.raters), "answers": answered,
        "replaced": collected.replaced, **figures(key, collected.answers, seed),
    }  # fmt: skip


def _pairs(key: Json, answers: Answers, seed: int) -> Json:
    """Preference for side B, from -2 (A is clearly more reliable) to +2.

    The test is over items: the sum of each one's answers may have either sign.
    """
    toward_b = {
        item: {
            rater: values["value"] * (1 if key["items"][item]["right"] == "B" else -1)
            for rater, values in of_item.items()
            if "value" in values
        }
        for item, of_item in answers.items()
    }
    values = [value for of_item in toward_b.values() for value in of_item.values()]
    total = len(values) or 1
    sums = [sum(of_item.values()) for of_item in toward_b.values()]
    return {
        "preference": _estimate(toward_b, seed),
        "prefers": {
            "A": sum(value < 0 for value in values) / total,
            "B": sum(value > 0 for value in values) / total,
            "neither": sum(value == 0 for value in values) / total,
        },
        "p": statistics.sign_flip(sums),
        "alpha": statistics.alpha(toward_b),
    }


def _classes(key: Json, answers: Answers, seed: int) -> Json:
    """Accuracy and focus of every side, and what is between them on the same picture and class."""
    items = key["items"]
    right = _picked(answers, "class", lambda item, value: int(value == items[item]["answer"]))
    focus = _picked(answers, "focus", lambda item, value: value)
    names = _picked(answers, "class", lambda item, value: items[item]["choices"][value])
    numbers = {name: at for at, name in enumerate(
        sorted({name for of_item in names.values() for name in of_item.values()}))}  # fmt: skip
    chosen = {item: {rater: float(numbers[name]) for rater, name in of_item.items()}
              for item, of_item in names.items()}  # fmt: skip
    found: Json = {"by_arm": {}, "chance": _chance(items.values())}
    for arm in key["arms"]:
        mine = [item for item, about in items.items() if about["arm"] == arm]
        found["by_arm"][arm] = {
            "accuracy": _estimate({item: right[item] for item in mine}, seed),
            "focus": _estimate({item: focus[item] for item in mine}, seed),
        }
    if len(key["arms"]) == 2:
        for name, ratings in (("accuracy", right), ("focus", focus)):
            found[f"{name}_p"] = statistics.sign_flip(_differences(items, ratings))
    return found | {
        "focus_alpha": statistics.alpha(focus),
        "class_alpha": statistics.alpha(chosen, statistics.nominal),
    }


def _picked(answers: Answers, name: str, convert: Any) -> dict[str, dict[str, Any]]:
    return {
        item: {r: convert(item, values[name]) for r, values in of_item.items() if name in values}
        for item, of_item in answers.items()
    }


def _differences(items: Json, ratings: Ratings) -> list[int]:
    """For every picture and class: the answers to B less those to A, of raters who gave both."""
    places: dict[tuple[str, str], dict[str, str]] = {}
    for item, about in items.items():
        places.setdefault((about["key"], about["label"]), {})[about["arm"]] = item
    found = []
    for pair in places.values():
        a, b = ratings[pair["A"]], ratings[pair["B"]]
        found.append(int(sum(b[rater] - a[rater] for rater in a.keys() & b.keys())))
    return found


def _chance(items: Iterable[Json]) -> float:
    """How often guessing would be right."""
    shares = [1 / len(about["choices"]) for about in items]
    return sum(shares) / len(shares)


def _estimate(ratings: Ratings, seed: int) -> Json:
    return {"mean": statistics.mean(ratings), "interval": statistics.interval(ratings, seed)}
