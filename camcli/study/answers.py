"""The key of a study and the answers to it, read and checked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from camcli.errors import UsageError

Json = dict[str, Any]
Answers = dict[str, dict[str, Json]]
"""Of every item, by rater."""
_LARGEST = 64 * 2**20


def read_key(folder: Path) -> Json:
    """The key in a study's directory; UsageError where it is none."""
    path = folder / "key.json"
    content = _read(path, "the key of a study that camcli study build has written")
    kinds = {"arms": dict, "items": dict, "study": str, "protocol": str}
    if not all(isinstance(content.get(name), kind) for name, kind in kinds.items()):
        raise UsageError(f"'{path}' is no key of a study; give the -o of camcli study build")
    return content


@dataclass
class Collected:
    """All answers, the last of a rater to an item counting; how many earlier ones did not."""

    answers: Answers = field(default_factory=dict)
    replaced: dict[str, int] = field(default_factory=dict)

    @property
    def raters(self) -> list[str]:
        """Everybody who answered."""
        return sorted({rater for of_item in self.answers.values() for rater in of_item})


def collect(key: Json, files: Sequence[Path]) -> Collected:
    """The answers of these files, in order; UsageError where one does not fit the study."""
    found = Collected({item: {} for item in key["items"]})
    for path in files:
        content = _read(path, "an answers file that a study's page has saved")
        if content.get("camcli_study") != key["study"]:
            other = _short(content.get("camcli_study"))
            raise UsageError(f"'{path}' answers another study ({other}), not {key['study']}")
        rater, given = content.get("rater"), content.get("answers")
        if not isinstance(rater, str) or not rater or not isinstance(given, list):
            raise UsageError(f"'{path}' has no rater or no answers; download it again")
        for answer in given:
            item, checked = _checked(path, answer, key)
            if rater in found.answers[item]:
                found.replaced[rater] = found.replaced.get(rater, 0) + 1
            found.answers[item][rater] = found.answers[item].get(rater, {}) | checked
    return found


def _checked(path: Path, answer: Any, key: Json) -> tuple[str, Json]:
    """The item and the values of an answer; a question that was passed over has none."""
    item = answer.get("item") if isinstance(answer, dict) else None
    if not isinstance(item, str) or item not in key["items"]:
        raise UsageError(f"'{path}' answers item '{_short(item)}', which this study has not")
    ranges = {"value": (-2, 2)}
    if key["protocol"] == "classes":
        ranges = {"class": (0, len(key["items"][item]["choices"]) - 1), "focus": (1, 5)}
    values = {}
    for name, (low, high) in ranges.items():
        value = answer.get(name)
        if value is None:
            continue
        if type(value) is not int or not low <= value <= high:
            raise UsageError(
                f"'{path}' answers item '{item}' with {name} {_short(value)}; it has to be a whole "
                f"number from {low} to {high}"
            )
        values[name] = value
    return item, values


def _read(path: Path, what: str) -> Json:
    try:
        if path.stat().st_size > _LARGEST:
            raise UsageError(f"'{path}' is too large to be {what}")
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise UsageError(f"'{path}' cannot be read ({error.strerror}); give {what}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"'{path}' is damaged ({error}); give {what}") from error
    if not isinstance(content, dict):
        raise UsageError(f"'{path}' is not {what}")
    return content


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:39]}…"
