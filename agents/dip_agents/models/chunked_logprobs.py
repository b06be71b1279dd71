"""Logprob and entropy of tokens without ever holding the logits of all rows."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from dip_agents.models.precision import autocast_dtype

# Logits that exist at one time: large enough to keep a GPU busy, 32 MB in float32.
ROWS = 1024
COLUMNS = 8192

# Stands for -inf inside sums: its exponential is exactly 0 and 0 times it is no NaN.
_NEVER = -1e30


def tiled_logprobs(
    hidden: Tensor,
    weight: Tensor,
    ids: Tensor,
    *,
    bias: Tensor | None = None,
    banned: Tensor | None = None,
    temperature: float = 1.0,
    rows: int = ROWS,
    columns: int = COLUMNS,
) -> tuple[Tensor, Tensor]:
    """Return logprob and entropy of tokens under ``softmax(hidden @ weight.T / temperature)``.

    The logits are made tile by tile, forward with a running logsumexp and once more in the
    backward pass, so memory grows with N + V and not with N * V. Products run in the autocast
    dtype and round like those of a linear layer; sums, and the gradients of ``hidden`` and
    ``weight``, are kept in float32 and rounded once at the end, since rounding each tile's part
    to bfloat16 biases them. Both outputs carry their gradient.

    Args:
        hidden: states (N, d).
        weight: of the head, (V, d).
        ids: tokens (N,), in 0..V-1.
        bias: of the head, (V,).
        banned: True where a token cannot be drawn, bool (V,); at least one can.
        temperature: divides the logits, above 0.
        rows: of a tile.
        columns: of a tile.

    Returns:
        Logprobs (N,), at most 0 and -inf for banned ids, and entropies (N,) in nats, at least 0
        up to rounding; float32, or float64 for float64 states.

    Source:
        Running logsumexp: Milakov and Gimelshein, 2018 (arXiv 1805.02867); gradients: ours.
    """
    dtype = autocast_dtype(hidden.device) or weight.dtype
    logprobs, entropy = _TiledLogprobs.apply(
        hidden, weight, bias, ids, banned, temperature, (rows, columns), dtype
    )
    return logprobs, entropy


class _Tiles:
    """Iterates over tiles of the logits, column by column so that a weight is cast once.

    Args:
        hidden: states (N, d).
        weight: (V, d).
        bias: (V,) or None.
        banned: bool (V,) or None.
        temperature: divides the logits.
        shape: rows and columns of a tile.
        dtype: of the products.
    """

    def __init__(
        self,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        banned: Tensor | None,
        temperature: float,
        shape: tuple[int, int],
        dtype: torch.dtype,
    ) -> None:
        self.hidden = hidden.to(dtype)
        self.weight, self.bias, self.banned = weight, bias, banned
        self.temperature, self.dtype = temperature, dtype
        self.step_rows, self.step_columns = shape
        self.sums = torch.promote_types(torch.float32, hidden.dtype)

    def columns(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield parts of the vocabulary and their weights (c, d) in the dtype of products."""
        for start in range(0, self.weight.shape[0], self.step_columns):
            part = slice(start, min(start + self.step_columns, self.weight.shape[0]))
            yield part, self.weight[part].to(self.dtype)

    def rows(self) -> Iterator[slice]:
        """Yield parts of the rows."""
        for start in range(0, len(self.hidden), self.step_rows):
            yield slice(start, min(start + self.step_rows, len(self.hidden)))

    def logits(self, row: slice, column: slice, weight: Tensor) -> Tensor:
        """Return one tile (r, c) of scaled logits, a new tensor that may be written to."""
        bias = None if self.bias is None else self.bias[column].to(self.dtype)
        logits = F.linear(self.hidden[row], weight, bias).to(self.sums)
        logits.div_(self.temperature)
        if self.banned is not None:
            logits.masked_fill_(self.banned[column], _NEVER)
        return logits


def _locate(ids: Tensor, column: slice) -> tuple[Tensor, Tensor]:
    """Return the columns of ids (r,) in a tile, (r, 1), and whether they lie in it, (r,)."""
    inside = (ids >= column.start) & (ids < column.stop)
    return (ids - column.start).clamp(0, column.stop - column.start - 1)[:, None], inside


class _TiledLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        ids: Tensor,
        banned: Tensor | None,
        temperature: float,
        shape: tuple[int, int],
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.settings = (temperature, shape, dtype)
        with torch.autocast(hidden.device.type, enabled=False):
            tiles = _Tiles(hidden, weight, bias, banned, temperature, shape, dtype)
            count = len(hidden)
            # With z the logits so far: top = max z, total = sum exp(z - top) and
            # moment = sum exp(z - top) * (z - top).
            top = hidden.new_full((count,), _NEVER, dtype=tiles.sums)
            total, moment, chosen = (torch.zeros_like(top) for _ in range(3))
            for column, part in tiles.columns():
                for row in tiles.rows():
                    logits = tiles.logits(row, column, part)
                    index, inside = _locate(ids[row], column)
                    chosen[row] = torch.where(inside, logits.gather(1, index)[:, 0], chosen[row])
                    # A higher maximum rescales what was summed relative to the old one.
                    highest = torch.maximum(top[row], logits.amax(1))
                    fall = top[row] - highest
                    logits.sub_(highest[:, None])
                    weights = logits.exp()
                    moment[row] = fall.exp() * (moment[row] + fall * total[row])
                    moment[row] += logits.mul_(weights).sum(1)
                    total[row] = fall.exp() * total[row] + weights.sum(1)
                    top[row] = highest
            log_total = total.log()
            normaliser = top + log_total
            entropy = log_total - moment / total
        ctx.save_for_backward(hidden, weight, bias, ids, banned, normaliser, entropy)
        logprobs = chosen - normaliser
        if banned is not None:
            logprobs = logprobs.masked_fill(banned[ids], -torch.inf)
        return logprobs, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, ids, banned, normaliser, entropy = ctx.saved_tensors
        temperature, shape, dtype = ctx.settings
        to_hidden, to_weight, to_bias = ctx.needs_input_grad[:3]
        of_logprob, of_entropy = (
            torch.zeros_like(normaliser) if grad is None else grad for grad in grads
        )
        with torch.autocast(hidden.device.type, enabled=False):
            tiles = _Tiles(hidden, weight, bias, banned, temperature, shape, dtype)
            hidden_grad = hidden.new_zeros(hidden.shape, dtype=tiles.sums) if to_hidden else None
            weight_grad = torch.zeros_like(weight) if to_weight else None
            bias_grad = torch.zeros_like(bias) if to_bias else None
            for column, part in tiles.columns():
                weight_sum = torch.zeros_like(part, dtype=tiles.sums) if to_weight else None
                bias_sum = part.new_zeros(len(part), dtype=tiles.sums) if to_bias else None
                for row in tiles.rows():
                    logp = tiles.logits(row, column, part).sub_(normaliser[row][:, None])
                    slope = _slope(
                        logp, of_logprob[row], of_entropy[row], entropy[row], ids[row], column
                    )
                    slope.div_(temperature)
                    if bias_sum is not None:
                        bias_sum += slope.sum(0)
                    slope = slope.to(dtype)
                    if hidden_grad is not None:
                        hidden_grad[row] += slope @ part
                    if weight_sum is not None:
                        weight_sum += slope.T @ tiles.hidden[row]
                if weight_grad is not None and weight_sum is not None:
                    weight_grad[column] = weight_sum
                if bias_grad is not None and bias_sum is not None:
                    bias_grad[column] = bias_sum
        if hidden_grad is not None:
            hidden_grad = hidden_grad.to(hidden.dtype)
        return hidden_grad, weight_grad, bias_grad, None, None, None, None, None


def _slope(
    logp: Tensor,
    of_logprob: Tensor,
    of_entropy: Tensor,
    entropy: Tensor,
    ids: Tensor,
    column: slice,
) -> Tensor:
    """Return the gradient (r, c) of a tile of logits; ``logp`` is written over.

    With p = exp(logp): d logp_id / dz_j = [j = id] - p_j and dH / dz_j = -p_j (logp_j + H).
    """
    p = logp.exp()
    slope = logp.add_(entropy[:, None]).mul_(of_entropy[:, None]).add_(of_logprob[:, None])
    slope.mul_(p).neg_()
    index, inside = _locate(ids, column)
    return slope.scatter_add_(1, index, torch.where(inside, of_logprob, 0.0)[:, None])


def linear_weight(layer: nn.Module) -> tuple[Tensor, Tensor | None] | None:
    """Return weight and bias of an output layer that does nothing but multiply and add.

    Args:
        layer: the head of a language model.

    Returns:
        Weight (V, d) and bias (V,), or None for a layer that does more, such as one with an
        adapter or with packed weights; then with a warning, once per kind of layer.
    """
    # FSDP's subclasses of nn.Linear are plain; quantised ones bring their own forward.
    if type(layer).forward is nn.Linear.forward and "forward" not in vars(layer):
        return layer.weight, layer.bias  # type: ignore[return-value]
    _warn_dense(f"{type(layer).__module__}.{type(layer).__qualname__}")
    return None


@cache
def _warn_dense(kind: str) -> None:
    logging.getLogger(__name__).warning(
        "expected a plain nn.Linear as lm_head, got %s: the logits of all tokens are held at once",
        kind,
    )
