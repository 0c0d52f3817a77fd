"""Networks in torch.export files: one graph of operators, run through taps in a copy of it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export.passes import move_to_device_pass
from torch.utils._pytree import tree_unflatten

from camcli.cam.layers import Layer, ModuleCall
from camcli.errors import ModelError, ModelWarning
from camcli.models.batches import filled, in_chunks, rows_at_a_time
from camcli.models.calls import CallTrace, State, state_of
from camcli.models.derivatives import refuse_underived
from camcli.models.exported_file import load, unlifted
from camcli.models.exported_graph import Site, arguments, tapped
from camcli.models.loaded import Edit, Edits
from camcli.models.output import logits_of
from camcli.models.tail import whole

Listener = Callable[[Tensor, int], Tensor]


class ExportedNetwork:
    """A `Network` around an exported program, which stays as it was found.

    One graph serves every run: its taps cost a look-up each, and edit the layers asked for.
    """

    def __init__(
        self,
        program: torch.export.ExportedProgram,
        device: torch.device,
        output: str | int | None = None,
        *,
        name: str = "the model",
    ) -> None:
        self.output, self.name = output, name
        if any(tensor.device != device for tensor in program.state_dict.values()):
            program = move_to_device_pass(program, device)
        self.module = unlifted(program)
        self._answers = program.call_spec.out_spec
        self._sites: list[Site] = []
        self._listener: Listener | None = None
        self._graph = tapped(self.module, self._tap, self._sites)
        self._image, self._others = self._inputs(program)
        self._refuse_training()
        names = program.graph_signature.parameters
        self._parametric = {parameter.rpartition(".")[0] for parameter in names}
        self._numbers = self._numbered()
        self._differentiable: set[Layer] = set()
        self._rows: int | None = None
        self._rows_known = False

    @property
    def size(self) -> tuple[int, int] | None:
        """The (width, height) of the pictures that the network takes, where it is but one."""
        height, width = self._image.shape[2:]
        return (width, height) if isinstance(width, int) and isinstance(height, int) else None

    @contextmanager
    def prepared(self) -> Iterator[None]:
        """Parameters frozen; their flags are put back. A program has no modes."""
        flags = [(p, p.requires_grad) for p in self.module.parameters()]
        try:
            for parameter, _ in flags:
                parameter.requires_grad_(False)
            yield
        finally:
            for parameter, requires_grad in flags:
                parameter.requires_grad_(requires_grad)

    def calls(self, x: Tensor) -> list[ModuleCall]:
        """Every module call that returned a tensor, from one forward pass without gradients."""
        trace, entered = CallTrace(), dict[Any, State]()

        def listen(value: Tensor, number: int) -> Tensor:
            site = self._sites[number]
            if site.leaves:
                own, given = site.call, entered.pop(site.call, (None, 0))
                trace.left(own.name, own.type, own.name in self._parametric, given, value)
            else:
                entered[site.call] = state_of(value)
            return value

        with torch.no_grad():
            self._answer(filled(x, self._rows_of(x) or 1), listen)
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
        """The weights of the linear layer that comes last among the parameters."""
        kinds = {site.call.name: site.call.type for site in self._sites}
        weights = [
            parameter.detach()
            for name, parameter in self.module.named_parameters()
            if name.endswith(".weight") and kinds.get(name[:-7], "").endswith("Linear")
        ]
        return weights[-1] if weights else None

    def biases(self) -> dict[str, Tensor]:
        """Biases of modules, and what batch normalisation adds: beta - mu gamma / sigma."""
        tensors = dict(self.module.named_parameters()) | dict(self.module.named_buffers())
        found = {
            name[:-5]: tensor.detach()
            for name, tensor in tensors.items()
            if name.endswith(".bias") and tensor.dim() == 1
        }
        for operator in ("aten::batch_norm", "aten::_native_batch_norm_legit_no_training"):
            for _, given in arguments(self._graph.graph, operator):
                weight, bias = (
                    None if node is None else tensors[node.target] for node in given[1:3]
                )
                mean, variance = (tensors[node.target].detach() for node in given[3:5])
                name = given[3].target.rpartition(".")[0]
                eps = next(v for v in reversed(given) if type(v) is float)
                shift = -mean * (variance + eps).rsqrt()
                shift = shift if weight is None else shift * weight.detach()
                found[name] = shift if bias is None else bias.detach() + shift
        return found

    @contextmanager
    def attention(self) -> Iterator[Sequence[tuple[str, Tensor]]]:
        """None: attention weights do not leave the operators that compute them."""
        yield []

    def _tap(self, value: Tensor, number: int) -> Tensor:
        return value if self._listener is None else self._listener(value, number)

    def _whole(self, x: Tensor, edits: Edits) -> Tensor:
        wanted = {self._numbers.get((layer.module, layer.call)): edits[layer] for layer in edits}

        def listen(value: Tensor, number: int) -> Tensor:
            edit = wanted.get(number)
            return value if edit is None else edit(value)

        return logits_of(self._answer(x, listen), self.output, len(x))

    def _answer(self, x: Tensor, listener: Listener) -> Any:
        """What the model returns, its taps shown to a listener."""
        if self.size is not None and tuple(x.shape[:1:-1]) != self.size:
            raise RuntimeError(f"it was exported for pictures of {self.size[0]}x{self.size[1]}")
        place, others = self._others
        before, self._listener = self._listener, listener
        try:
            flat = self._graph(*others[:place], x.to(self._image.dtype), *others[place:])
        finally:
            self._listener = before
        return tree_unflatten(list(flat), self._answers)

    def _numbered(self) -> dict[tuple[str, int], int]:
        """The tap behind each call, by the module's name and how many calls came before."""
        counts: dict[str, int] = {}
        found = {}
        for number, site in enumerate(self._sites):
            if site.leaves:
                name = site.call.name
                counts[name] = counts.get(name, -1) + 1
                found[name, counts[name]] = number
        return found

    def _inputs(self, program: torch.export.ExportedProgram) -> tuple[Tensor, tuple[int, Any]]:
        """The picture that the graph was made for, without values; its place, and what is beside.

        Arguments that are no tensors have become part of the graph, which only counts them.
        """
        given = [node for node in self._graph.graph.nodes if node.op == "placeholder"]
        tensors = [node for node in given if isinstance(node.meta.get("val"), Tensor)]
        images = [node for node in tensors if node.meta["val"].dim() == 4]
        if len(tensors) != 1 or len(images) != 1:
            named = ", ".join(str(node.target) for node in tensors if node not in images[:1])
            raise ModelError(
                f"{self.name} needs inputs other than one image tensor ({named or 'none'}); "
                "export a module that takes the image alone"
            )
        return images[0].meta["val"], (given.index(images[0]), [None] * (len(given) - 1))

    def _refuse_training(self) -> None:
        graph = self._graph.graph
        places = (("batch_norm", 5), ("dropout", 2), ("dropout_", 2), ("feature_dropout", 2))
        trains = [
            given[place] for name, place in places for _, given in arguments(graph, f"aten::{name}")
        ]
        trained = ("_native_batch_norm_legit", "_native_batch_norm_legit_functional")
        if any(trains) or any(list(arguments(graph, f"aten::{name}")) for name in trained):
            raise ModelError(
                f"{self.name} was exported in training mode, with dropout or batch statistics "
                "switched on for good; export it again after model.eval()"
            )

    def _rows_of(self, x: Tensor) -> int | None:
        """How many pictures the network takes at a time; found out once, and said."""
        if not self._rows_known:
            rows = self._image.shape[0]
            self._rows = rows_at_a_time(self._whole, x, rows) if isinstance(rows, int) else None
            self._rows_known = True
            if self._rows is not None:
                warnings.warn(
                    f"{self.name} was exported for batches of {self._rows}: larger ones are run in "
                    "pieces, which is slower; export it with a dynamic batch dimension",
                    ModelWarning,
                    stacklevel=2,
                )
        return self._rows


def open_exported(
    path: Path,
    device: torch.device,
    output: str | int | None = None,
    *,
    trusted: bool = False,
) -> ExportedNetwork:
    """The network in a torch.export file.

    `output` says which of several answers are the logits. Unless it is `trusted`, a file that
    could run code is refused with a ModelError, as is what cannot be explained.
    """
    return ExportedNetwork(load(path, trusted=trusted), device, output, name=path.name)
