"""A copy of a TorchScript model's graph with taps in it: what torch offers only in private."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from camcli.errors import ModelError
from camcli.models.script_file import refusal
from camcli.models.script_ops import DIFFERENTIABLE, TAP

_C: Any = torch._C

# The second call of a traced module is `forward1`; overloads of a scripted one are `forward__0`.
_FORWARD = re.compile(r"forward(\d+|__\d+)?")
# Operators that move values about, mix places, or average them: no feature map of their own.
_NO_MAP = re.compile(
    r"view|reshape|permute|transpose|contiguous|flatten|expand|slice|select|squeeze|roll|pad$|"
    r"_pad|matmul|bmm|softmax|scaled_dot_product|mean$|^(to|t|clone|detach|alias|div)$"
)


@dataclass(frozen=True)
class Site:
    """A tap: where a tensor enters or leaves a module, or an operator in a file without modules."""

    name: str
    type: str
    parametric: bool
    leaves: bool
    entry: int | None = None
    """The tap at which what leaves here has entered."""


class TappedGraph:
    """The forward graph of a module, all calls inlined, with a tap around each."""

    def __init__(self, module: torch.jit.ScriptModule, device: torch.device, name: str) -> None:
        self.sites: list[Site] = []
        self._graph = self._inlined(module, "", "forward")
        _C._jit_pass_inline(self._graph)  # functions
        self.by_modules = bool(self.sites)
        if not self.by_modules:
            self._tap_operators()
        nodes = list(_walk(self._graph))
        for node in nodes:
            sentence = refusal(node.kind())
            if sentence:
                raise ModelError(f"{name} {sentence}")
        # Of the outermost nodes: a scripted model may hold both ways, and choose.
        self.trains = any(map(_trains, self._graph.nodes()))
        """Whether dropout or batch statistics are switched on for good."""
        for node in nodes:
            _set_device(node, device)
            if node.kind() == "aten::warn":  # meant for those who scripted the model
                node.destroy()
            elif node.kind() == "aten::cuda" and device.type != "cuda":  # x.cuda()
                node.output().replaceAllUsesWith(next(node.inputs()))
                node.destroy()
            elif node.kind() in DIFFERENTIABLE:
                _make_differentiable(self._graph, node)
            elif node.kind() == "aten::linear":
                _make_contiguous(self._graph, node)
            elif node.kind() == "aten::_convolution":
                _make_public(self._graph, node)

    def function(self, wanted: Collection[int]) -> Callable[..., Any]:
        """(module._c, *inputs) -> the module's answer, with these of the taps alone."""
        graph = self._graph.copy()
        for tap in graph.findAllNodes(TAP, True):
            value, site = tap.inputs()
            if site.toIValue() not in wanted:
                tap.output().replaceAllUsesWith(value)
                tap.destroy()
        function: Callable[..., Any] = _C._create_function_from_graph("camcli_forward", graph)
        return function

    def constants(self) -> Iterator[Tensor]:
        """The tensors that are part of the graph: all parameters of a frozen file."""
        for node in self._graph.findAllNodes("prim::Constant", True):
            if _is_tensor(node.output()) and isinstance(node.output().toIValue(), Tensor):
                yield node.output().toIValue()

    def _inlined(self, module: Any, path: str, method: str) -> Any:
        """A copy of a method's graph in which the calls of modules are replaced by their graphs."""
        graph = module._c._get_method(method).graph.copy()  # all modules of a type share it
        owners = {next(graph.inputs()).unique(): (module, path)}
        for node in _walk(graph):
            if node.kind() == "prim::GetAttr":
                owner, name = owners.get(node.input().unique()), node.s("name")
                # What is behind an interface may be another module when the call comes.
                seen = node.output().type().kind() == "ClassType"
                if seen and owner and name in owner[0]._modules:
                    child = f"{owner[1]}.{name}".lstrip(".")
                    owners[node.output().unique()] = owner[0]._modules[name], child
            elif node.kind() == "prim::CallMethod":
                owner = owners.get(next(node.inputs()).unique())
                if owner:
                    self._inline(graph, node, *owner)
        return graph

    def _inline(self, graph: Any, node: Any, module: Any, path: str) -> None:
        method, given = node.s("name"), list(node.inputs())
        callee = self._inlined(module, path, method)
        parametric = next(module.parameters(recurse=False), None) is not None
        taps = _FORWARD.fullmatch(method) is not None
        entry = None
        if taps and len(given) > 1 and _is_tensor(given[1]):
            site = Site(path, module.original_name, parametric, leaves=False)
            entry = len(self.sites)
            given[1] = self._tap(graph, site, given[1], before=node)
        # Never setInsertPoint: that of a node which is then destroyed aborts the process.
        with graph.insert_point_guard(node):
            results = graph.insertGraph(callee, given)
        for old, new in zip(node.outputs(), results, strict=True):
            site = Site(path, module.original_name, parametric, leaves=True, entry=entry)
            taken = taps and _is_tensor(new)
            old.replaceAllUsesWith(self._tap(graph, site, new, before=node) if taken else new)
        node.destroy()

    def _tap_operators(self) -> None:
        """A frozen file has lost its modules: taps go around operators that may make a map."""
        for node in _walk(self._graph):
            namespace, _, name = node.kind().partition("::")
            outputs = list(node.outputs())
            if namespace == "prim" or len(outputs) != 1 or not _is_tensor(outputs[0]):
                continue
            if _NO_MAP.search(name):
                continue
            inputs = list(node.inputs())
            constant = [i.node().kind() == "prim::Constant" and _is_tensor(i) for i in inputs]
            entry = None
            if inputs and _is_tensor(inputs[0]) and not constant[0]:
                entry = len(self.sites)
                site = Site(name, name, any(constant), leaves=False)
                node.replaceInput(0, self._tap(self._graph, site, inputs[0], before=node))
            site = Site(name, name, any(constant), leaves=True, entry=entry)
            tapped = self._tap(self._graph, site, outputs[0], after=node)
            outputs[0].replaceAllUsesAfterNodeWith(tapped.node(), tapped)

    def _tap(
        self, graph: Any, site: Site, value: Any, *, before: Any = None, after: Any = None
    ) -> Any:
        number = graph.create("prim::Constant")
        number.i_("value", len(self.sites))
        number.output().setType(_C.IntType.get())
        self.sites.append(site)
        tap = graph.create(TAP, [value, number.output()], 1)
        tap.output().setType(value.type())
        if after is None:
            number.insertBefore(before)
        else:
            number.insertAfter(after)
        tap.insertAfter(number)
        return tap.output()


def argument(module: Any, kind: str, position: int) -> Any:
    """A constant argument of a module's own operator of that kind; None where there is none."""
    if not module._c._has_method("forward"):
        return None
    found = module._c._get_method("forward").graph.findAllNodes(kind, True)
    return list(found[0].inputs())[position].toIValue() if found else None


def arguments_beyond_the_image(module: Any, name: str) -> list[Any]:
    """The defaults of what a model takes beyond one tensor; a ModelError where it needs more."""
    if not module._c._has_method("forward"):
        raise ModelError(f"{name} has no method forward to run; save a module that has one")
    # A frozen or traced file may lack a schema on the Python side: the method has it always.
    _, *given = module._c._get_method("forward").schema.arguments
    if not given or not given[0].type.isSubtypeOf(_C.TensorType.get()):
        raise ModelError(
            f"{name} takes {given[0].type if given else 'no input'}, not one image tensor"
        )
    missing = [argument.name for argument in given[1:] if not argument.has_default_value()]
    if missing:
        raise ModelError(
            f"{name} needs inputs other than one image tensor ({', '.join(missing)}); "
            "export it with those built in"
        )
    return [argument.default_value for argument in given[1:]]


def _walk(block: Any) -> Iterator[Any]:
    for node in list(block.nodes()):
        inner = list(node.blocks())  # before the node is handed out, and possibly destroyed
        yield node
        for other in inner:
            yield from _walk(other)


def _is_tensor(value: Any) -> bool:
    return bool(value.type().isSubtypeOf(_C.TensorType.get()))


def _trains(node: Any) -> bool:
    position = {"aten::dropout": 2, "aten::dropout_": 2, "aten::batch_norm": 5}.get(node.kind())
    return position is not None and list(node.inputs())[position].toIValue() is True


def _set_device(node: Any, device: torch.device) -> None:
    """Traces hold the device they were made on."""
    if (
        node.kind() == "prim::Constant"
        and node.output().type().kind() == "DeviceObjType"
        and node.hasAttributes()
    ):
        node.s_("value", str(device))


def _make_differentiable(graph: Any, node: Any) -> None:
    outputs = list(node.outputs())
    other = graph.create(DIFFERENTIABLE[node.kind()], list(node.inputs()), len(outputs))
    other.insertBefore(node)
    for old, new in zip(outputs, other.outputs(), strict=True):
        new.setType(old.type())
        old.replaceAllUsesWith(new)
    node.destroy()


def _make_contiguous(graph: Any, node: Any) -> None:
    """One matrix product for a linear layer. Where weights need no gradient and its input is a
    transposed view, as attention's is, torch would make a product for every row.
    """
    layout = graph.create("prim::Constant")
    layout.i_("value", 0)  # torch.contiguous_format
    layout.output().setType(_C.IntType.get())
    given = node.inputsAt(0)
    copy = graph.create("aten::contiguous", [given, layout.output()], 1)
    copy.output().setType(given.type())
    layout.insertBefore(node)
    copy.insertBefore(node)
    node.replaceInput(0, copy.output())


def _make_public(graph: Any, node: Any) -> None:
    """The convolution that a trace holds is torch's inner one, which autocast passes over."""
    image, weight, bias, stride, padding, dilation, transposed, _, groups, *_ = node.inputs()
    strides = stride.toIValue() or list(stride.node().inputs())  # frozen, or as a list of values
    if transposed.toIValue() is not False or len(strides) != 2:
        return
    given = [image, weight, bias, stride, padding, dilation, groups]
    other = graph.create("aten::conv2d", given, 1)
    other.insertBefore(node)
    other.output().setType(node.output().type())
    node.output().replaceAllUsesWith(other.output())
    node.destroy()
