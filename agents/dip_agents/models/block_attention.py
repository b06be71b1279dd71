"""Causal attention by plain matrix products, block by block of queries, with its gradient.

CPUs do this faster in bfloat16 than their fused kernels (measured), which compute in float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

# Keys that a block of queries sees more than the one before it. Small blocks skip more of the
# future, large ones make better products.
BLOCK = 64
# The softmax in bfloat16 takes 1.6 times as long for rows that are no multiple of this (measured).
MULTIPLE = 32


def block_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float
) -> Tensor:
    """Return ``softmax(query @ key.T * scaling) @ value`` over the keys that a mask lets through.

    Scores that no query of a block may see are not computed.

    Args:
        query: (B, heads, T, d), the last T of S tokens.
        key: (B, key heads, S, d); each serves as many query heads that follow each other.
        value: like the keys.
        mask: True where a query sees a key, bool (B or 1, 1, T, S); none sees a later token, and
            each sees at least one.
        scaling: of the scores.

    Returns:
        (B, heads, T, d).
    """
    before = key.shape[2] - query.shape[2]
    padding = -key.shape[2] % MULTIPLE
    key, value = (F.pad(part, (0, 0, 0, padding)) for part in (key, value))
    never = torch.zeros(mask.shape, dtype=query.dtype, device=query.device)
    never = F.pad(never.masked_fill_(~mask, -torch.inf), (0, padding), value=-torch.inf)
    # Query heads that share a key head are one longer list of queries to it.
    grouped = query.unflatten(1, (key.shape[1], -1))
    out: Tensor = _BlockAttention.apply(grouped, key, value, never, before, scaling)
    return out.flatten(1, 2)


class _BlockAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        never: Tensor,
        before: int,
        scaling: float,
    ) -> Tensor:
        ctx.before, ctx.scaling = before, scaling
        out = torch.empty(query.shape, dtype=query.dtype, device=query.device)
        kept = []
        for rows, end in _blocks(before, query.shape[3], key.shape[2]):
            scores = _scaled(query, rows, scaling) @ key[:, :, :end].mT
            grid = scores.unflatten(2, (query.shape[2], -1))
            grid += never[:, :, None, rows, :end]
            kept.append(torch.softmax(scores, dim=-1))
            seen = kept[-1] @ value[:, :, :end]
            out[:, :, :, rows] = seen.view(*grid.shape[:-1], -1)
        ctx.save_for_backward(query, key, value, *kept)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, *kept = ctx.saved_tensors
        to_query = torch.empty(query.shape, dtype=query.dtype, device=query.device)
        to_key, to_value = torch.zeros_like(key), torch.zeros_like(value)
        blocks = _blocks(ctx.before, query.shape[3], key.shape[2])
        for (rows, end), weights in zip(blocks, kept, strict=True):
            grad = grads[0][:, :, :, rows].flatten(2, 3)
            to_value[:, :, :end] += weights.mT @ grad
            slope = torch.ops.aten._softmax_backward_data(
                grad @ value[:, :, :end].mT, weights, -1, weights.dtype
            )
            to_key[:, :, :end] += slope.mT @ _scaled(query, rows, ctx.scaling)
            turned = (slope @ key[:, :, :end]).mul_(ctx.scaling)
            to_query[:, :, :, rows] = turned.unflatten(2, (query.shape[2], -1))
        return to_query, to_key, to_value, None, None, None


def _blocks(before: int, queries: int, keys: int) -> Iterator[tuple[slice, int]]:
    """Yield the queries of each block and how many keys it reads, the last one all of them."""
    start = 0
    for end in range(BLOCK, keys + BLOCK, BLOCK):
        stop = min(end - before, queries)
        if stop > start:
            yield slice(start, stop), min(end, keys)
            start = stop


def _scaled(query: Tensor, rows: slice, scaling: float) -> Tensor:
    """Return some queries of each key head as one list, scaled."""
    return (query[:, :, :, rows] * scaling).flatten(2, 3)
