"""What can go wrong for a reason outside the code, and the exit status it ends a run with."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class CamcliError(Exception):
    """A fault the user can understand and mend; its text says what, the value, and what to do."""

    exit_status = 1


class ModelError(CamcliError):
    """The model or its weights cannot be loaded, or cannot be explained."""


class DerivativeError(ModelError):
    """An operator between a layer and the score has no derivative."""


class ModelWarning(UserWarning):
    """The model can be explained, but something about it should be known."""


class OutputError(CamcliError):
    """The output directory cannot be used."""


class UsageError(CamcliError):
    """An option, a configuration value, a layer or a class that does not exist."""

    exit_status = 2


class NoInputsError(CamcliError):
    """Nothing to explain was found."""

    exit_status = 4


class LockedError(CamcliError):
    """Another run is writing to the output directory."""

    exit_status = 75


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`"; did you mean 'layer4'?"`, or nothing where no known name is close."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else ""
