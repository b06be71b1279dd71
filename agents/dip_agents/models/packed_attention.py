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

from dip_agents.models.block_attention import block_attention
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
            torch.cat([_Repeat.apply(root[:, :, : packed.prefix], packed.parents), branch], dim=2)
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
        if mask is None:
            mask = torch.ones(query.shape[2], query.shape[2], dtype=torch.bool).tril()[None, None]
        return block_attention(query, key, value, mask, scaling)
    repeats = query.shape[1] // key.shape[1]
    key, value = (part.repeat_interleave(repeats, dim=1) for part in (key, value))
    return F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=mask is None, scale=scaling
    )


class _Repeat(torch.autograd.Function):
    """Rows repeated by number, whose gradients are summed by a product.

    The scattered sums of plain indexing are slow on CPUs.
    """

    @staticmethod
    def forward(ctx: Any, states: Tensor, numbers: Tensor) -> Tensor:
        ctx.count = len(states)
        ctx.save_for_backward(numbers)
        return states.index_select(0, numbers)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (numbers,) = ctx.saved_tensors
        member = torch.arange(ctx.count, device=numbers.device)[:, None] == numbers
        total = member.to(grads[0].dtype) @ grads[0].flatten(1)
        return total.view(ctx.count, *grads[0].shape[1:]), None


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
