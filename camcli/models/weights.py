"""Weights files: fetched, opened without running code, and fitted to an architecture."""

from __future__ import annotations

import hashlib
import os
import pickle
import re
import warnings
from collections.abc import Callable, Container, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from torch import Tensor, nn
from torch.nn.init import trunc_normal_
from torch.overrides import TorchFunctionMode

from camcli.errors import ModelError

StateDict = Mapping[str, Tensor]
SEED = 0

# Where training scripts put the weights; averaged ones first, for those are what is evaluated.
_WRAPPERS = ("state_dict_ema", "model_ema", "ema_state_dict", "ema", "state_dict",
             "model_state_dict", "model_state", "model", "net", "network", "weights",
             "module")  # fmt: skip
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.")
_SAVE = "save the weights alone: torch.save(model.state_dict(), FILE)"


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_state_dict(path: Path) -> StateDict:
    """The tensors of a state-dict file. Nothing in the file is executed."""
    return plain(unwrapped(read_tensors(path), path)[0])


def read_tensors(path: Path) -> Any:
    """The content of a file of tensors (torch or safetensors). Nothing in it is executed."""
    try:
        if _is_safetensors(path):
            from safetensors.torch import load_file

            return load_file(path)
        with warnings.catch_warnings():  # what torch warns of here, the error says again
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ModelError(f"no weights file '{path}'") from None
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"it names {found[1]}" if found else "it holds more than tensors"
        raise ModelError(
            f"'{path}' is a whole pickled model or not a weights file ({what}), and opening it "
            f"could run any code; {_SAVE}"
        ) from error
    except Exception as error:  # a damaged file raises whatever its reader stumbles over
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(
            f"'{path}' is not a weights file that torch can read ({reason}); "
            "save one with torch.save(model.state_dict(), FILE)"
        ) from error


def _is_safetensors(path: Path) -> bool:
    """Whether a file begins as safetensors do, with the length of a JSON object, or is named so."""
    with open(path, "rb") as file:
        return file.read(9)[8:] == b"{" or path.suffix == ".safetensors"


def unwrapped(content: Any, path: Path) -> tuple[StateDict, str]:
    """The state dict inside what a training script saved, and the entries that led to it."""
    entries: list[str] = []
    while isinstance(content, Mapping):
        if content and all(isinstance(value, Tensor) for value in content.values()):
            return content, ".".join(entries)
        inner = [name for name in _WRAPPERS if isinstance(content.get(name), Mapping)]
        inner = [name for name in inner if content[name]]
        if not inner:
            break
        entries.append(inner[0])
        content = content[inner[0]]
    if not isinstance(content, Mapping) or not content:
        raise ModelError(f"'{path}' holds a {type(content).__name__}, not a state dict")
    keys = ", ".join(list(map(str, content))[:5])
    raise ModelError(f"'{path}' is not a plain state dict (its entries: {keys}); {_SAVE}")


def plain(state: StateDict, own: Container[str] = ()) -> StateDict:
    """A state dict without what wrappers (DataParallel, Lightning, averaging) put before names.

    Nothing more is taken off once a name is one of the module's `own`.
    """
    state = {name: tensor for name, tensor in state.items() if name != "n_averaged"}
    while not any(name in own for name in state):
        prefix = next((p for p in _PREFIXES if any(name.startswith(p) for name in state)), None)
        if prefix is None:
            break
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


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


# What initialisation does to a tensor; without values it only takes time.
_FILLING = ("normal_", "uniform_", "fill_", "zero_", "add_", "mul_", "clamp_", "erfinv_")


class Unfilled(TorchFunctionMode):
    """Modules built inside have parameters without memory or values.

    On torch's meta device alone, RegNets cannot be built: they compute their widths with tensors.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Put what is allocated without a value on the meta device, and leave it without one."""
        kwargs = dict(kwargs or {})
        tensor: Any = args[0] if args else kwargs.get("tensor")
        if getattr(func, "__name__", "") in _FILLING and tensor.is_meta:
            return tensor
        if func is torch.empty and kwargs.get("device") is None:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


def seeded(build: Callable[[], nn.Module], fill: bool = True) -> nn.Module:
    """A module whose random weights are the same every time.

    A linear layer that is zero, so that nothing could be explained, is filled where asked for.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        module = build()
        linear = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
        for layer in linear if fill else []:
            if not layer.weight.is_meta and not layer.weight.any():
                trunc_normal_(layer.weight, std=0.02)
    return module


def head_size(
    build: Callable[[int], nn.Module], state: StateDict, origin: str, architecture: str
) -> int:
    """The number of outputs in a state dict: the size of the tensor that depends on it."""
    with Unfilled():
        one, other = build(8).state_dict(), build(16).state_dict()
    for key, tensor in one.items():
        saved = state.get(key)
        if tensor.shape != other[key].shape and saved is not None and saved.numel():
            return int(saved.shape[0]) if saved.dim() else 1
    raise ModelError(
        f"{origin} does not fit {architecture}: it has no classifier under the names "
        f"{[key for key in one if one[key].shape != other[key].shape]}; "
        "choose the architecture the weights were saved from with --model or --arch"
    )


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
        f"{len(names)} {what} (first: {', '.join(names[:3])})"
        for what, names in (("missing", missing), ("unknown", extra), ("of another shape", shapes))
        if names
    ]
    if faults:
        raise ModelError(
            f"{source} does not fit {architecture}: {', '.join(faults)}; "
            "choose the architecture the weights were saved from with --model or --arch"
        )
    module.load_state_dict(state)
