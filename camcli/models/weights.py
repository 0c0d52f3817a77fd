"""Weights files: fetched, opened without running code, and fitted to an architecture."""

from __future__ import annotations

import hashlib
import os
import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlparse

import torch
from torch import Tensor, nn

from camcli.errors import ModelError

StateDict = Mapping[str, Tensor]


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_state_dict(path: Path) -> StateDict:
    """The tensors of a state-dict file. Nothing in the file is executed."""
    try:
        with warnings.catch_warnings():  # what torch warns of here, the error says again
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ModelError(f"no weights file '{path}'") from None
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"it names {found[1]}" if found else "it holds more than tensors"
        raise ModelError(
            f"'{path}' is a whole pickled model or not a weights file ({what}), and opening it "
            "could run any code; save the weights alone: torch.save(model.state_dict(), FILE)"
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(
            f"'{path}' is not a weights file that torch can read ({reason}); "
            "save one with torch.save(model.state_dict(), FILE)"
        ) from error
    if not isinstance(content, dict) or not content:
        raise ModelError(f"'{path}' holds a {type(content).__name__}, not a state dict")
    if not all(isinstance(value, Tensor) for value in content.values()):
        keys = ", ".join(list(map(str, content))[:5])
        raise ModelError(
            f"'{path}' is not a plain state dict (its entries: {keys}); "
            "save the weights alone: torch.save(model.state_dict(), FILE)"
        )
    return content


def fetch(url: str) -> Path:
    """The cached copy of a published weights file, downloaded and checked if need be.

    The file's name carries the first digits of its SHA-256, as torch.hub has it; the cache is
    torch.hub's, so that files already there are used.
    """
    name = os.path.basename(urlparse(url).path)
    target = Path(torch.hub.get_dir()) / "checkpoints" / name
    if target.exists():
        return target
    digits = re.search(r"-([a-f0-9]{8,})\.", name)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(
            url, str(target), digits[1] if digits else None, progress=False
        )
    except (OSError, RuntimeError) as error:
        raise ModelError(
            f"the weights cannot be downloaded from {url} ({error}); download the file elsewhere "
            "and give it as --weights FILE, or use --weights none for seeded random weights"
        ) from error
    return target


def load_into(module: nn.Module, state: StateDict, source: str, architecture: str) -> None:
    """Load a state dict strictly; where it does not fit, one sentence says what does not."""
    own = module.state_dict()
    missing = [key for key in own if key not in state]
    extra = [key for key in state if key not in own]
    shapes = [
        f"{key} is {tuple(state[key].shape)}, not {tuple(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    faults = [
        f"{len(names)} {what} (first: {names[0]})"
        for what, names in (("missing", missing), ("unknown", extra), ("of another shape", shapes))
        if names
    ]
    if faults:
        raise ModelError(
            f"{source} does not fit {architecture}: {', '.join(faults)}; "
            "choose the architecture the weights were saved from with --model"
        )
    module.load_state_dict(state)
