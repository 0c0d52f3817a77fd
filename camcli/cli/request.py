"""The settings that say which model, and how pictures are decoded."""

from __future__ import annotations

from collections.abc import Set
from typing import TYPE_CHECKING, Any, Literal, cast

from camcli.config import Config
from camcli.errors import UsageError

if TYPE_CHECKING:
    from camcli.records import ModelRequest, Precision

OPENING = ("arch", "trust_model", "output_key", "output_index", "activation", "precision")
_PREPARING = ("size", "resize", "mean", "std", "interpolation", "fit")


def model_request(chosen: Config) -> ModelRequest:
    """The model that the settings ask for."""
    from camcli.records import ModelRequest

    if chosen.output_key is not None and chosen.output_index is not None:
        raise UsageError("--output-key and --output-index say the same thing; give one of them")
    return ModelRequest(
        chosen.model,
        chosen.weights,
        chosen.labels,
        chosen.device,
        _overrides(chosen),
        chosen.arch,
        chosen.trust_model,
        chosen.output_index if chosen.output_key is None else chosen.output_key,
        cast("Literal['auto', 'softmax', 'sigmoid']", chosen.activation),
        cast("Precision", chosen.precision),
    )


def check_decoding(chosen: Config, asked: Set[str]) -> None:
    """UsageError where a time limit was asked for that cannot be kept."""
    if "decode_timeout" in asked and not chosen.isolate:
        raise UsageError(
            f"--decode-timeout {chosen.decode_timeout:g} needs --isolate: "
            "a thread that decodes cannot be stopped, a process can"
        )


def _overrides(chosen: Config) -> dict[str, Any]:
    """The preprocessing flags that were given, as fields of Preprocessing."""
    given = {name: getattr(chosen, name) for name in _PREPARING}
    fields = {name: value for name, value in given.items() if value is not None}
    for name in ("mean", "std"):
        if name in fields and len(fields[name]) != 3:
            raise UsageError(f"--{name} needs three numbers (R,G,B), not {len(fields[name])}")
    if "size" in fields:
        fields["size"] = (chosen.size, chosen.size)
    return fields
