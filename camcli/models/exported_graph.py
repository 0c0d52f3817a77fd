"""The graph of an exported program with taps: calls that show what passes them to a listener."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (the field's name for it)
from torch import Tensor
from torch.fx import Graph, GraphModule, Node
from torch.fx.graph import CodeGen

Tap = Callable[[Tensor, int], Tensor]


@dataclass(eq=False)
class Call:
    """One call of one module."""

    name: str
    type: str
    depth: int
    nodes: list[Node] = field(default_factory=list)
    """The operators of the graph that belong to it, in order."""


@dataclass(frozen=True)
class Site:
    """Where a tap stands: where a tensor enters a call, or where its output leaves it."""

    call: Call
    leaves: bool


def tapped(source: GraphModule, tap: Tap, sites: list[Site]) -> GraphModule:
    """A graph module that shares the weights of `source` and takes and returns flat tuples.

    Behind the output of every module call it calls `tap` with the tensor and a number, and goes
    on with what that returns; so it does where a tensor enters the call, whose answer is unused.
    The numbers are places in `sites`, to which those of this graph are added.
    """
    graph, homes = _copied(source.graph), dict[Node, list[Call]]()

    def insert(value: Node, call: Call, leaves: bool) -> Node:
        sites.append(Site(call, leaves))
        return graph.call_function(tap, (value, len(sites) - 1))

    calls = _calls(graph, homes)
    order = {node: place for place, node in enumerate(graph.nodes)}
    leaving = [(node, call) for call in calls if (node := _output_of(call, homes)) is not None]
    # One output may leave several calls, of which the innermost returns first.
    leaving.sort(key=lambda each: (order[each[0]], -each[1].depth))
    latest: dict[Node, Node] = {}
    for node, call in leaving:
        taken = _entrance(call, homes)
        if taken is not None:
            user, value = taken
            with graph.inserting_before(user):
                insert(value, call, leaves=False)
        last = latest.get(node, node)
        with graph.inserting_after(last):
            behind = insert(last, call, leaves=True)
        behind.meta["val"] = node.meta["val"]
        homes[behind] = [home for home in homes[node] if home.depth < call.depth]
        last.replace_all_uses_with(behind, _outside(call, behind, homes))
        latest[node] = behind
    return GraphModule(source, graph)


def _copied(source: Graph) -> Graph:
    graph, copies = Graph(), dict[Node, Node]()
    graph.output(graph.graph_copy(source, copies))
    graph.set_codegen(CodeGen())  # without the source's unpacking of arguments
    for node in list(graph.nodes):  # checks of the shape, in some versions of torch
        if node.op == "call_module" and not node.users:
            graph.erase_node(node)
        elif node.target is torch.ops.aten.clone.default and _in_dropout(node):
            # What decomposing leaves of one in evaluation mode, which hands on what it is given.
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
        elif node.target is torch.ops.aten.linear.default:
            node.target = _linear
    return graph


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`linear` in one matrix product. Where weights need no gradient and x is a transposed view,
    as attention's is, torch would make a product for every row.
    """
    return F.linear(x.contiguous(), weight, bias)


def _in_dropout(node: Node) -> bool:
    kinds = [str(kind) for _, kind in _stack(node).values()]
    return bool(kinds) and "Dropout" in kinds[-1]


def _calls(graph: Graph, homes: dict[Node, list[Call]]) -> list[Call]:
    """Every module call; and for every node those it belongs to, from the outermost on."""
    calls: dict[tuple[str, ...], Call] = {}
    for node in graph.nodes:
        homes[node] = []
        keys: tuple[str, ...] = ()
        # A module's second call has another key.
        for key, (path, kind) in _stack(node).items():
            keys = (*keys, key)
            if path:
                name = kind if isinstance(kind, str) else kind.__name__
                call = calls.setdefault(keys, Call(path, name.rpartition(".")[2], len(keys)))
                call.nodes.append(node)
                homes[node].append(call)
    return list(calls.values())


def _stack(node: Node) -> Mapping[str, tuple[str, Any]]:
    """The modules inside which an operator ran, from the outermost on."""
    found = node.meta.get("nn_module_stack") if node.op == "call_function" else None
    if not found and node.target is operator.getitem:  # one of several results of an operator
        return _stack(node.args[0])  # type: ignore[arg-type]
    return found or {}


def _output_of(call: Call, homes: Mapping[Node, list[Call]]) -> Node | None:
    """The last tensor that is used outside the call."""
    for node in reversed(call.nodes):
        if _is_tensor(node) and any(call not in homes.get(user, ()) for user in node.users):
            return node
    return None


def _entrance(call: Call, homes: Mapping[Node, list[Call]]) -> tuple[Node, Node] | None:
    """The first operator that takes a tensor from outside, and that; weights are none."""
    for node in call.nodes:
        for given in node.all_input_nodes:
            if given.op != "get_attr" and _is_tensor(given) and call not in homes.get(given, ()):
                return node, given
    return None


def _outside(call: Call, behind: Node, homes: Mapping[Node, list[Call]]) -> Callable[[Node], bool]:
    return lambda user: user is not behind and call not in homes.get(user, ())


def _is_tensor(node: Node) -> bool:
    return isinstance(node.meta.get("val"), Tensor)


def arguments(graph: Graph, name: str) -> Iterator[tuple[Node, tuple[Any, ...]]]:
    """Every use of an operator of that name in any overload, with all its arguments in order."""
    for node in graph.nodes:
        target = node.target
        if isinstance(target, torch._ops.OpOverload) and target._schema.name == name:
            schema = target._schema.arguments
            given = dict(zip((each.name for each in schema), node.args, strict=False))
            yield (
                node,
                tuple(
                    {**given, **node.kwargs}.get(each.name, each.default_value) for each in schema
                ),
            )
