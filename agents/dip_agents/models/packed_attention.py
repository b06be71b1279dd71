"""Attention over a row of prefixes and branches without padding; independent of ids and layers.

Registered with transformers, so that its text models call it in every layer, under gradient
checkpointing too. Without a layout it is their own SDPA.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from dip_agents.tokens.packing import Layout

NAME = "dip_packed"


def attend_packed(text_model: Any) -> bool:
    """Let a text model attend over packed rows, where it uses SDPA so far.

    Args:
        text_model: ``language_model`` of a transformers model; only its config changes.

    Returns:
        Whether it takes rows with a ``packed`` layout now.
    """
    config = text_model.config
    if config._attn_implementation == "sdpa":
        config._attn_implementation = NAME
    return bool(config._attn_implementation == NAME)


def packed_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    packed: Layout | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend each token to its prefix and its own past.

    Args:
        module: the attention layer.
        query: (1, heads, N, d).
        key: (1, key heads, N, d), rotated.
        value: like the keys.
        attention_mask: for SDPA; unused with a layout.
        scaling: of the scores.
        packed: which tokens attend to which, or None for SDPA.
        **kwargs: for SDPA.

    Returns:
        (1, N, heads, d) and None.
    """
    if packed is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **kwargs
        )
    # Under autocast queries and keys come out of their norms in fp32.
    parts = [
        _Reindex.pad(part[0].transpose(0, 1).to(value.dtype), packed)
        for part in (query, key, value)
    ]
    rows, length = packed.roots
    q, k, v = (_rectangle(part[: rows * length], rows) for part in parts)
    out = _attend(q, k, v, None, scaling).transpose(1, 2).flatten(0, 1)
    if packed.branches[0]:
        own = [_rectangle(part[rows * length :], packed.branches[0]) for part in parts]
        k, v = (
            torch.cat([root[:, :, : packed.prefix].index_select(0, packed.parents), branch], dim=2)
            for root, branch in ((k, own[1]), (v, own[2]))
        )
        branches = _attend(own[0], k, v, packed.mask, scaling)
        out = torch.cat([out, branches.transpose(1, 2).flatten(0, 1)])
    return _Reindex.unpad(out, packed)[None], None


def _rectangle(part: Tensor, rows: int) -> Tensor:
    """Turn slots (rows * length, heads, d) into (rows, heads, length, d)."""
    return part.unflatten(0, (rows, -1)).transpose(1, 2)


def _attend(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float
) -> Tensor:
    """Attend within rows, causally where there is no mask."""
    if query.device.type == "cpu" and query.dtype == torch.bfloat16:
        return _products(query, key, value, mask, scaling)
    repeats = query.shape[1] // key.shape[1]
    key, value = (part.repeat_interleave(repeats, dim=1) for part in (key, value))
    return F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=mask is None, scale=scaling
    )


def _products(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float
) -> Tensor:
    """Attend by plain products, which CPUs do faster in bf16 than their fused kernel (measured)."""
    rows, heads, length, _ = query.shape
    if mask is None:
        mask = torch.ones(length, length, dtype=torch.bool, device=query.device).tril()[None, None]
    never = torch.zeros(mask.shape, dtype=query.dtype).masked_fill(~mask, -torch.inf)
    # Query heads that share a key head are one longer list of queries to it.
    query = (query * scaling).reshape(rows, key.shape[1], -1, query.shape[-1])
    scores = (query @ key.transpose(-1, -2)).view(rows, heads, length, -1) + never
    weights = torch.softmax(scores, dim=-1).view(rows, key.shape[1], -1, key.shape[2])
    return (weights @ value).view(rows, heads, length, -1)


class _Reindex(torch.autograd.Function):
    """Indexing whose gradient is an indexing too, since tokens and their slots map both ways.

    The gradient of padding is zero by the masks, so it need not be summed; plain indexing would
    add up row by row, which is slow on CPUs.
    """

    @staticmethod
    def pad(tokens: Tensor, layout: Layout) -> Tensor:
        """Put tokens (N, ...) into their slots (M, ...)."""
        if layout.slots is None:
            return tokens
        return _Reindex.apply(tokens, layout.slots, layout.tokens, None)

    @staticmethod
    def unpad(slots: Tensor, layout: Layout) -> Tensor:
        """Take tokens (N, ...) out of their slots (M, ...)."""
        if layout.slots is None:
            return slots
        return _Reindex.apply(slots, layout.tokens, layout.slots, layout.filled)

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, there: Tensor, back: Tensor, filled: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(back, filled)
        return states.index_select(0, there)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        back, filled = ctx.saved_tensors
        grad = grads[0].index_select(0, back)
        if filled is not None:
            grad = grad * filled[..., None]
        return grad, None, None, None


AttentionInterface.register(NAME, packed_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
