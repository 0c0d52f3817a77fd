"""TorchScript files: traced, scripted or frozen networks, run through taps in their graph."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from camcli.cam.layers import Layer, ModuleCall
from camcli.errors import ModelWarning, UsageError
from camcli.models.batches import filled, in_chunks, rows_at_a_time
from camcli.models.calls import CallTrace, State, state_of
from camcli.models.derivatives import refuse_underived
from camcli.models.loaded import Edit, Edits
from camcli.models.output import logits_of
from camcli.models.precision import raised
from camcli.models.script_file import load, refuse_writing, traced_shape
from camcli.models.script_graph import TappedGraph, argument, arguments_beyond_the_image
from camcli.models.script_ops import Listener, listening
from camcli.models.tail import whole

# The profiling executor would spend the first runs on what does not pay.
_executor: Any = torch.jit.optimized_execution  # type: ignore[attr-defined]
_REASON = re.compile(r"^\w*(?:Error|Exception): (.+)$", re.MULTILINE)


class ScriptNetwork:
    """A `Network` around a loaded TorchScript module, which stays as it was found.

    TorchScript modules take no hooks. A copy of their graph does take operators, and one that
    hands what passes it to Python is put behind every module call.
    """

    def __init__(
        self,
        module: torch.jit.ScriptModule,
        device: torch.device,
        output: str | int | None = None,
        *,
        name: str = "the model",
        traced_batch: int = 1,
    ) -> None:
        self.module, self.output, self.name = module, output, name
        self._defaults = arguments_beyond_the_image(module, name)
        self._graph = TappedGraph(module, device, name)
        self._differentiable: set[Layer] = set()
        self._functions: dict[frozenset[int], Any] = {}
        self._traced_batch = traced_batch
        self._rows: int | None = None
        self._rows_known = False
        if self._graph.trains:
            warnings.warn(
                f"{name} was saved in training mode, with dropout or batch statistics switched on "
                "for good: maps and scores vary; save it again after model.eval()",
                ModelWarning,
                stacklevel=2,
            )

    @contextmanager
    def prepared(self) -> Iterator[None]:
        """Evaluation mode, parameters frozen; modes and flags are put back afterwards."""
        modules = [module for module in self.module.modules() if hasattr(module, "training")]
        modes = [module.training for module in modules]
        flags = [(p, p.requires_grad) for p in self.module.parameters()]
        try:
            for module in modules:
                module.training = False
            for parameter, _ in flags:
                parameter.requires_grad_(False)
            yield
        finally:
            for module, training in zip(modules, modes, strict=True):
                module.training = training
            for parameter, requires_grad in flags:
                parameter.requires_grad_(requires_grad)

    def calls(self, x: Tensor) -> list[ModuleCall]:
        """Every module call that returned a tensor, from one forward pass without gradients.

        In a frozen file, every operator that may make a map: those on each picture by itself.
        """
        trace, sites, entered = CallTrace(), self._graph.sites, dict[int, State]()
        x = filled(x, self._rows_of(x) or 1)

        def listen(value: Tensor, number: int) -> Tensor:
            site = sites[number]
            if not site.leaves:
                entered[number] = state_of(value)
            else:
                given = (None, 0) if site.entry is None else entered.pop(site.entry)
                kept = self._graph.by_modules or value.shape[:1] == x.shape[:1]
                trace.left(site.name, site.type, site.parametric, given, value if kept else None)
            return value

        with torch.no_grad():
            self._answer(x, frozenset(range(len(sites))), listen)
        return trace.calls

    def run(self, x: Tensor, edits: Edits) -> Tensor:
        """Logits of one forward pass with the given layers' outputs replaced."""
        rows = self._rows_of(x)
        logits = self._whole(x, edits) if rows is None else in_chunks(self._whole, x, edits, rows)
        if logits.requires_grad and not self._differentiable.issuperset(edits):
            refuse_underived(logits, self.name)
            self._differentiable |= set(edits)
        return logits

    @contextmanager
    def tail(self, x: Tensor, layer: Layer) -> Iterator[Edit]:
        """What follows a layer, for one picture, by way of the whole network."""
        yield whole(self.run, x, layer)

    def classifier(self) -> Tensor | None:
        """The weights of the linear layer that comes last; None where freezing hid it."""
        modules: list[Any] = list(self.module.modules())
        linear = [module for module in modules if module.original_name.endswith("Linear")]
        return linear[-1].weight.detach() if linear else None

    def biases(self) -> dict[str, Tensor]:
        """Biases of modules, and what batch normalisation adds: beta - mu gamma / sigma."""
        if not self._graph.by_modules:
            raise UsageError(
                f"fullgrad needs the biases of modules, which freezing has dissolved in {self.name}"
                "; use hirescam, or the file before torch.jit.freeze"
            )
        found = {}
        for name, module in self.module.named_modules():
            bias = getattr(module, "bias", None)
            if not isinstance(bias, Tensor) or bias.dim() != 1:
                continue
            bias, variance = bias.detach(), getattr(module, "running_var", None)
            if variance is not None:
                eps = argument(module, "aten::batch_norm", 7) or getattr(module, "eps", 1e-5)
                bias = bias - module.running_mean * module.weight.detach() / (variance + eps).sqrt()
            found[name] = bias
        return found

    @contextmanager
    def attention(self) -> Iterator[Sequence[tuple[str, Tensor]]]:
        """None: attention weights do not leave the operators that compute them."""
        yield []

    @cached_property
    def _dtype(self) -> torch.dtype:
        """That of the weights, which a picture must have too."""
        for tensor in (*self.module.parameters(), *self._graph.constants()):
            if tensor.is_floating_point():
                return tensor.dtype
        return torch.float32

    def _whole(self, x: Tensor, edits: Edits) -> Tensor:
        places = {(layer.module, layer.call): edit for layer, edit in edits.items()}
        names = {layer.module for layer in edits}
        sites, counts = self._graph.sites, Counter[str]()
        low = torch.is_autocast_enabled(x.device.type)

        def listen(value: Tensor, number: int) -> Tensor:
            if not sites[number].leaves:  # behind the layer, in from around it
                return value if torch.is_autocast_enabled(x.device.type) else raised(value)
            name = sites[number].name
            counts[name] += 1
            edit = places.get((name, counts[name] - 1))
            return value if edit is None else edit(value)

        wanted = frozenset(
            k for k, site in enumerate(sites) if (site.name in names if site.leaves else low)
        )
        return logits_of(self._answer(x, wanted, listen), self.output, len(x))

    def _answer(self, x: Tensor, wanted: frozenset[int], listen: Listener) -> Any:
        """What the model returns, its taps shown to a listener, whose own faults come out whole."""
        if wanted not in self._functions:
            self._functions[wanted] = self._graph.function(wanted)
        faults: list[Exception] = []

        def heard(value: Tensor, number: int) -> Tensor:
            try:
                return listen(value, number)
            except Exception as error:
                faults.append(error)
                raise

        try:
            with listening(heard), _executor(False):
                answer = self._functions[wanted](self.module._c, x.to(self._dtype), *self._defaults)
        except (RuntimeError, torch.jit.Error) as error:  # the second: what the model itself raises
            if faults:
                raise faults[0] from None
            raise _in_short(error) from error
        return answer

    def _rows_of(self, x: Tensor) -> int | None:
        """How many pictures the network takes at a time; found out once, and said."""
        if not self._rows_known:
            exactly = not self._graph.trains
            self._rows = rows_at_a_time(self._whole, x, self._traced_batch, exactly)
            self._rows_known = True
            if self._rows is not None:
                warnings.warn(
                    f"{self.name} was traced for batches of {self._rows}: larger ones are run in "
                    "pieces, which is slower; script it, or trace what does not hold the number",
                    ModelWarning,
                    stacklevel=2,
                )
        return self._rows


def open_script(
    path: Path,
    device: torch.device,
    output: str | int | None = None,
    *,
    trusted: bool = False,
) -> ScriptNetwork:
    """The network in a TorchScript file.

    `output` says which of several answers are the logits. Unless it is `trusted`, a file whose
    code calls what writes files is refused with a ModelError, as is what cannot be explained.
    """
    if not trusted:
        refuse_writing(path)
    shape = traced_shape(path)
    return ScriptNetwork(
        load(path, device), device, output, name=path.name, traced_batch=shape[0] if shape else 1
    )


def _in_short(error: Exception) -> RuntimeError:
    """The interpreter's own words without its traceback; memory that ran out stays that."""
    text = str(error).strip()
    found = _REASON.findall(text)
    reason = found[-1] if found else text.splitlines()[-1]
    return torch.OutOfMemoryError(reason) if "out of memory" in reason else RuntimeError(reason)
