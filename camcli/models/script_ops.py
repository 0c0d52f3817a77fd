"""What is put into copies of TorchScript graphs: taps, and attention that has a derivative."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (the field's name for it)
from torch import Tensor

Listener = Callable[[Tensor, int], Tensor]
"""(what passes a tap, the tap's number) -> what goes on."""

_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Every tap that is passed while this is open is shown to the listener."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def _tap(x: Tensor | None, site: int) -> Tensor | None:
    listener = _listener.get()
    # None is an undefined tensor, which attention returns for weights that nobody asked for.
    return x if listener is None or x is None else listener(x, site)


def _recorded(*tensors: Tensor) -> bool:
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim: int,
    num_head: int,
    qkv_weight: Tensor,
    qkv_bias: Tensor,
    proj_weight: Tensor,
    proj_bias: Tensor,
    mask: Tensor | None = None,
    need_weights: bool = True,
    average_attn_weights: bool = True,
    mask_type: int | None = None,
) -> tuple[Tensor, Tensor]:
    """`aten::_native_multi_head_attention`, (N, tokens, C), from what has a derivative."""
    parameters = embed_dim, num_head, qkv_weight, qkv_bias, proj_weight, proj_bias
    if not _recorded(query, key, value, qkv_weight):  # in front of the layer: the fast way
        more = mask, need_weights, average_attn_weights, mask_type
        fast: Any = torch._native_multi_head_attention
        output, weights = fast(query, key, value, *parameters, *more)
        return output, query.new_empty(0) if weights is None else weights
    padding = mask if mask_type == 1 else None
    mask = mask if padding is None else None
    if mask is not None and mask.dim() == 4:
        mask = mask.flatten(0, 1)
    output, weights = F.multi_head_attention_forward(
        query.transpose(0, 1),
        key.transpose(0, 1),
        value.transpose(0, 1),
        embed_dim,
        num_head,
        qkv_weight,
        qkv_bias,
        None,
        None,
        False,
        0.0,
        proj_weight,
        proj_bias,
        training=False,
        key_padding_mask=padding,
        need_weights=need_weights,
        attn_mask=mask,
        average_attn_weights=average_attn_weights,
    )
    return output.transpose(0, 1), query.new_empty(0) if weights is None else weights


def _encode(
    src: Tensor,
    embed_dim: int,
    num_heads: int,
    qkv_weight: Tensor,
    qkv_bias: Tensor,
    proj_weight: Tensor,
    proj_bias: Tensor,
    use_gelu: bool,
    norm_first: bool,
    eps: float,
    norm_weight_1: Tensor,
    norm_bias_1: Tensor,
    norm_weight_2: Tensor,
    norm_bias_2: Tensor,
    ffn_weight_1: Tensor,
    ffn_bias_1: Tensor,
    ffn_weight_2: Tensor,
    ffn_bias_2: Tensor,
    mask: Tensor | None = None,
    mask_type: int | None = None,
) -> Tensor:
    """`aten::_transformer_encoder_layer_fwd`, from what has a derivative."""

    def attend(x: Tensor) -> Tensor:
        parameters = qkv_weight, qkv_bias, proj_weight, proj_bias
        return _attend(x, x, x, embed_dim, num_heads, *parameters, mask, False, True, mask_type)[0]

    def feed(x: Tensor) -> Tensor:
        hidden = F.linear(x, ffn_weight_1, ffn_bias_1)
        return F.linear(F.gelu(hidden) if use_gelu else hidden.relu(), ffn_weight_2, ffn_bias_2)

    def norm_1(x: Tensor) -> Tensor:
        return F.layer_norm(x, (embed_dim,), norm_weight_1, norm_bias_1, eps)

    def norm_2(x: Tensor) -> Tensor:
        return F.layer_norm(x, (embed_dim,), norm_weight_2, norm_bias_2, eps)

    if norm_first:
        src = src + attend(norm_1(src))
        return src + feed(norm_2(src))
    src = norm_1(src + attend(src))
    return norm_2(src + feed(src))


TAP = "camcli::tap"
_ATTENTION = (
    "(Tensor query, Tensor key, Tensor value, int embed_dim, int num_head, Tensor qkv_weight, "
    "Tensor qkv_bias, Tensor proj_weight, Tensor proj_bias, Tensor? mask=None, "
    "bool need_weights=True, bool average_attn_weights=True, int? mask_type=None) "
    "-> (Tensor, Tensor)"
)
_ENCODER = (
    "(Tensor src, int embed_dim, int num_heads, Tensor qkv_weight, Tensor qkv_bias, "
    "Tensor proj_weight, Tensor proj_bias, bool use_gelu, bool norm_first, float eps, "
    "Tensor norm_weight_1, Tensor norm_bias_1, Tensor norm_weight_2, Tensor norm_bias_2, "
    "Tensor ffn_weight_1, Tensor ffn_bias_1, Tensor ffn_weight_2, Tensor ffn_bias_2, "
    "Tensor? mask=None, int? mask_type=None) -> Tensor"
)
# The annotation (a) tells the interpreter that what is in front of a tap and what is behind it
# may share memory: operators that work in place are not moved across.
_OPERATORS: dict[str, tuple[str, Callable[..., Any]]] = {
    "tap": ("(Tensor(a) x, int site) -> Tensor(a)", _tap),
    "attend": (_ATTENTION, _attend),
    "encode": (_ENCODER, _encode),
}
DIFFERENTIABLE = {
    "aten::_native_multi_head_attention": "camcli::attend",
    "aten::_transformer_encoder_layer_fwd": "camcli::encode",
}
"""Operators without a derivative, which a trace under no_grad holds, and what stands for them."""

# The declarations live as long as the object.
_library: Any = torch.library.Library("camcli", "FRAGMENT")  # type: ignore[no-untyped-call]
for _name, (_schema, _function) in _OPERATORS.items():
    _library.define(_name + _schema)
    _library.impl(_name, _function, "CompositeImplicitAutograd")
