"""The user's own code: `package.module:callable` or `path/to/file.py:callable`.

It runs with the user's rights, which is why it is only ever run where it is named.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from camcli.errors import CamcliError, ModelError, UsageError, did_you_mean
from camcli.records import ModelRequest
from camcli.registry import source

if TYPE_CHECKING:
    from torch import nn

    from camcli.models.loaded import LoadedModel

_NAMED = re.compile(r"(?P<home>.+\.py|[^\W\d]\w*(\.[^\W\d]\w*)*):(?P<name>[^\W\d]\w*)")


@source(name="python", opens=lambda name: _NAMED.fullmatch(name) is not None)
def load(request: ModelRequest) -> LoadedModel:
    """What a callable without arguments returns, with the weights it has or those of a file."""
    from camcli.models.weights import file_sha256, load_into, plain, read_tensors, unwrapped

    if request.weights == "none":
        raise UsageError(f"--weights none: {request.name} makes its own weights; leave it away")
    with _beside(_folder(request.name)):
        factory = _factory(request.name)
        module = _made(factory, request.name)
    weights, digest = f"{request.name}", _code_sha256(factory)
    if request.weights != "DEFAULT":
        path = Path(request.weights)
        state, _ = unwrapped(read_tensors(path), path)
        load_into(module, plain(state, module.state_dict()), str(path), request.name)
        weights, digest = str(path), f"{file_sha256(path)}+{digest}"
    return of_module(request, module, request.name, weights, digest)


def of_object(request: ModelRequest, module: nn.Module) -> LoadedModel:
    """The caller's own module, on the device where it is unless another is named."""
    if request.weights != "DEFAULT" or request.arch is not None:
        raise UsageError("weights and arch are for a model's name; a module has its own")
    module = _module(module, "open_model was given")
    module = getattr(module, "_orig_mod", module)  # torch.compile's takes no hooks
    tensor = next(iter(module.state_dict().values()), None)
    if request.device == "auto" and tensor is not None:
        request = replace(request, device=str(tensor.device))
    return of_module(request, module, request.name, "the module's own")


def of_module(
    request: ModelRequest, module: nn.Module, name: str, weights: str, code: str = ""
) -> LoadedModel:
    """A model around a module that somebody else made.

    timm's modules carry the way in which pictures are prepared for them; of others it must be
    said. The digest is that of the values, and of the code that made them where it is known.
    """
    from camcli.models.assembly import assembled, prepared_remark, recipe_of
    from camcli.models.eager import EagerNetwork
    from camcli.models.timm import module_sha256, published_labels, recipe_fields

    config = getattr(module, "pretrained_cfg", None)
    config = config if isinstance(config, dict) and "mean" in config else {}
    known = recipe_fields(config) if config else {}
    recipe = recipe_of(request, known, f"the pretrained_cfg of {name}")
    labels = published_labels(config or {"num_classes": 1000}, name, sure=False)
    digest = module_sha256(module)
    return assembled(
        request,
        EagerNetwork(module, request.output),
        name=name,
        weights=weights,
        sha256=f"{digest}+{code}" if code else digest,
        recipe=recipe,
        labels=labels,
        remarks=(prepared_remark(recipe),),
    )


def _factory(name: str) -> Callable[[], Any]:
    """The callable of that name."""
    found = _NAMED.fullmatch(name)
    assert found is not None  # the registry asked
    home, attribute = found["home"], found["name"]
    with _told(f"--model {name}: {home}"):
        module = _from_file(home) if home.endswith(".py") else _imported(home)
    try:
        factory = getattr(module, attribute)
    except AttributeError:
        public = [word for word in vars(module) if not word.startswith("_")]
        hint = did_you_mean(attribute, public) or ""
        raise UsageError(f"--model {name}: {home} has no '{attribute}'{hint}") from None
    if not callable(factory):
        raise UsageError(
            f"--model {name}: '{attribute}' is a {type(factory).__name__}; name a function or a "
            "class that returns the model when it is called without arguments"
        )
    made: Callable[[], Any] = factory
    return made


def _from_file(home: str) -> Any:
    """A Python file, run as a module that finds its neighbours."""
    if not os.path.isfile(home):
        raise UsageError(f"no Python file '{home}'")
    name = "camcli_model_" + re.sub(r"\W", "_", Path(home).stem)
    specification = importlib.util.spec_from_file_location(name, home)
    assert specification is not None  # it ends in .py
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module  # dataclasses and pickle look it up
    specification.loader.exec_module(module)
    return module


def _imported(home: str) -> Any:
    try:
        return importlib.import_module(home)
    except ModuleNotFoundError as error:
        if error.name is None or not (home + ".").startswith(error.name + "."):
            raise
        raise UsageError(
            f"no Python module '{home}', neither here nor installed (missing: {error.name})"
        ) from error


def _folder(name: str) -> str:
    """Where the user's modules are: beside a named file, else here."""
    home, _, _ = name.rpartition(":")
    return os.path.dirname(os.path.abspath(home)) if home.endswith(".py") else os.getcwd()


@contextmanager
def _beside(folder: str) -> Iterator[None]:
    """Modules of that folder can be imported, as where Python itself starts a file."""
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def _made(factory: Callable[[], Any], name: str) -> nn.Module:
    from camcli.models.weights import seeded

    with _told(f"--model {name}"):
        return seeded(lambda: _module(factory(), f"--model {name} returned"), fill=False)


def _module(value: Any, come: str) -> nn.Module:
    """An object that takes hooks; of others, a sentence that begins with how it has come."""
    import torch
    from torch import nn

    if isinstance(value, torch.jit.ScriptModule):
        raise ModelError(f"{come} a TorchScript module; save it, and give the file")
    if not isinstance(value, nn.Module):
        raise ModelError(f"{come} {type(value).__name__}; a torch.nn.Module is needed")
    return value


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Whatever the user's code raises is one sentence that says where."""
    try:
        yield
    except CamcliError:
        raise
    except (Exception, SystemExit) as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        reason = (str(error) or type(error).__name__).strip().splitlines()[0]
        raise ModelError(
            f"{what} raised {type(error).__name__}: {reason} ({last.filename}:{last.lineno})"
        ) from error


def _code_sha256(factory: Callable[[], Any]) -> str:
    """The digest of the file in which a callable is written."""
    from camcli.models.weights import file_sha256

    try:
        path = inspect.getsourcefile(inspect.unwrap(factory))
    except TypeError:  # built in
        path = None
    return file_sha256(Path(path)) if path and os.path.isfile(path) else ""
