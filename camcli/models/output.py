"""The logits among whatever a model returns: a tensor, a tuple, a dict, an object with names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from camcli.errors import ModelError, UsageError

_NAMES = ("logits", "out", "output", "scores", "prediction", "predictions")


def logits_of(output: Any, choice: str | int | None = None, count: int | None = None) -> Tensor:
    """The logits (N, classes) of a model's answer to `count` pictures.

    `choice` is the user's word: a key or attribute, or a place in a tuple. Without it they are the
    only tensor of two dimensions, or the one under a usual name. Of a tuple of equally wide ones
    they are the first, for auxiliary heads follow the main one; of anything else a ModelError.
    Where no tensor has two dimensions, one that lacks them or has them to spare will do: a map of
    one place, a logit a picture, or the classes of the only picture.
    """
    if choice is not None:
        return logits_of(_chosen(output, choice), None, count)
    if isinstance(output, Tensor):
        return _checked(output, count)
    parts = _parts(output)
    shaped = {key: _shaped(part, count) for key, part in parts.items()}
    usable = {key: part for key, part in shaped.items() if part is not None}
    named = [usable[name] for name in _NAMES if name in usable]
    if named:
        return named[0]
    found = {key: part for key, part in usable.items() if parts[key].dim() == 2} or usable
    inner = [part for part in parts.values() if _parts(part)]
    if not found and len(inner) == 1:
        return logits_of(inner[0], None, count)
    listed = isinstance(output, Sequence)
    if len(found) == 1 or (listed and len({part.shape for part in found.values()}) == 1):
        return next(iter(found.values()))
    if not found:
        raise ModelError(
            f"the model returned {_shown(output)}; one tensor of logits (N, classes) is needed"
        )
    raise ModelError(
        f"the model returned {_shown(output)}, any of which may be the logits; "
        "say which with --output-key NAME or --output-index K"
    )


def _chosen(output: Any, choice: str | int) -> Any:
    parts = _parts(output)
    if isinstance(choice, int) and isinstance(output, Sequence):
        chosen = output[choice] if -len(output) <= choice < len(output) else None
    else:
        chosen = parts.get(choice)
    if chosen is None:
        flag = "--output-index" if isinstance(choice, int) else "--output-key"
        raise UsageError(f"{flag} {choice}: the model returned {_shown(output)}")
    return chosen


def _parts(output: Any) -> dict[str | int, Any]:
    """The parts of an answer by key, by attribute, or by place."""
    if isinstance(output, Mapping):
        return dict(output)
    if isinstance(output, Sequence) and not isinstance(output, str):
        names = getattr(output, "_fields", range(len(output)))
        return dict(zip(names, output, strict=True))
    return {} if isinstance(output, Tensor) else dict(getattr(output, "__dict__", {}))


def _shaped(part: Any, count: int | None) -> Tensor | None:
    """A tensor as (N, classes), where it can be nothing else."""
    if not isinstance(part, Tensor) or part.dim() == 2:
        return part if isinstance(part, Tensor) else None
    if part.dim() > 2:  # a fully convolutional head's map of one place
        return part.flatten(1) if part.shape[:2].numel() == part.numel() else None
    if part.numel() == count:  # squeezed: one logit a picture
        return part.reshape(-1, 1)
    return part[None] if count == 1 and part.dim() == 1 and part.numel() else None


def _checked(part: Tensor, count: int | None) -> Tensor:
    shaped = _shaped(part, count)
    if shaped is None:
        raise ModelError(
            f"the model returned {_shown(part)}; one tensor of logits (N, classes) is needed"
        )
    return shaped


def _shown(output: Any) -> str:
    if isinstance(output, Tensor):
        return str(tuple(output.shape))
    tensors = {key: part for key, part in _parts(output).items() if isinstance(part, Tensor)}
    parts = ", ".join(f"{key} {tuple(part.shape)}" for key, part in tensors.items())
    return f"{type(output).__name__} ({parts})" if parts else type(output).__name__
