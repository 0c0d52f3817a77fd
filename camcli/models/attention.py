"""Attention weights of transformer blocks, and the gradients of each block's own answer."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812 (the field's name for it)
from torch import Tensor, nn

from camcli.cam import targets
from camcli.cam.grid import Grid, infer_grid
from camcli.cam.layers import Layer
from camcli.errors import UsageError
from camcli.models.inspection import input_layer
from camcli.records import Target

if TYPE_CHECKING:
    from camcli.models.loaded import LoadedModel


@contextmanager
def recorded_attention(module: nn.Module) -> Iterator[list[tuple[str, Tensor]]]:
    """Attention weights (N, heads, queries, keys), each with the name of its block.

    Networks attend through `scaled_dot_product_attention`, whose fused kernels have no weights to
    show. It stands replaced, for the whole process, while this is open. The block is the
    outermost module, the network itself apart, that holds one attention only.
    """
    found: list[tuple[list[str], Tensor]] = []
    record: list[tuple[str, Tensor]] = []
    running: list[str] = []
    usual = F.scaled_dot_product_attention

    def attend(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        **more: Any,
    ) -> Tensor:
        if attn_mask is not None or is_causal or more.get("enable_gqa") or query.dim() != 4:
            return usual(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, **more)
        scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
        weights = ((query * scale) @ key.mT).softmax(dim=-1)
        found.append((list(running), weights))
        return weights @ value

    with ExitStack() as undo:
        for name, part in module.named_modules():
            if name:
                undo.enter_context(part.register_forward_pre_hook(_entering(running, name)))
                undo.enter_context(part.register_forward_hook(_leaving(running)))
        setattr(F, "scaled_dot_product_attention", attend)  # noqa: B010 (mypy knows its type)
        undo.callback(setattr, F, "scaled_dot_product_attention", usual)
        try:
            yield record
        finally:
            held = Counter(name for names, _ in found for name in names)
            record += [
                (next(name for name in names if held[name] == 1), weights)
                for names, weights in found
                if any(held[name] == 1 for name in names)
            ]


def _entering(running: list[str], name: str) -> Any:
    def enter(part: nn.Module, args: tuple[Any, ...]) -> None:
        running.append(name)

    return enter


def _leaving(running: list[str]) -> Any:
    def leave(part: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        running.pop()

    return leave


def attention_gradients(
    model: LoadedModel, view: Tensor, row: Sequence[Target]
) -> Iterator[Tensor]:
    """For each block, d s / d weights, s the score of the class head on the block's mean token."""
    source = input_layer(model)
    # With a gradient: without, torch takes a path of its own through its attention module.
    with model.network.attention() as record:
        model.capture(view[:1], [source])
    blocks = [_block(model, name, weights) for name, weights in record]
    if len(blocks) < 2 or any(block is None for block in blocks):
        raise UsageError(
            f"legrad needs a transformer whose blocks attend over all places, which {model.name} "
            "is not; use hirescam"
        )
    layers = [block for block in blocks if block is not None]
    with model.network.attention() as record:
        _, outputs = model.capture(view, [source, *layers])
    # Behind the last block nothing depends on the picture but through that block.
    with model.network.tail(view[:1], layers[-1]) as head:
        for output, (_, weights) in zip(outputs[1:], record, strict=True):
            tokens = output.mean(dim=1, keepdim=True).expand_as(output)
            score = targets.score(model.answers(head(tokens)), row).sum()
            (gradient,) = torch.autograd.grad(score, [weights], retain_graph=True)
            yield gradient.float()


def _block(model: LoadedModel, name: str, weights: Tensor) -> Layer | None:
    grid = infer_grid((1, weights.shape[-1], 1), model.preprocessing.size)
    square = weights.shape[-1] == weights.shape[-2] and weights.shape[0] == 1
    return Layer(name, "block", name, 0, grid, (name,)) if square and grid is not None else None


def token_grid(model: LoadedModel, tokens: int) -> Grid:
    """Where the tokens of a transformer lie over the view."""
    grid = infer_grid((1, tokens, 1), model.preprocessing.size)
    assert grid is not None  # attention over other tokens is refused before
    return grid
