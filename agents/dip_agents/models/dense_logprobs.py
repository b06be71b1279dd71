"""Logprob and entropy of tokens from logits that are made once and kept as probabilities."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from dip_agents.models.precision import autocast_dtype
from dip_agents.models.row_blocks import row_blocks

# Rows worked on at one time by a CPU thread, so that their logits stay in its caches; fewer would
# make the products slow. A GPU takes all of them in one go.
ROWS = 192


def dense_logprobs(
    hidden: Tensor,
    weight: Tensor,
    ids: Tensor,
    *,
    bias: Tensor | None = None,
    banned: Tensor | None = None,
    temperature: float = 1.0,
    rows: int = ROWS,
) -> tuple[Tensor, Tensor]:
    """Return logprob and entropy of tokens under ``softmax(hidden @ weight.T / temperature)``.

    Only the probabilities, in the dtype of products, are kept for the backward pass, which needs
    no second product for the logits as ``tiled_logprobs`` does. Products run in the autocast
    dtype, sums in float32.

    Args:
        hidden: states (N, d).
        weight: of the head, (V, d).
        ids: tokens (N,), in 0..V-1.
        bias: of the head, (V,).
        banned: True where a token cannot be drawn, bool (V,); at least one can.
        temperature: divides the logits, above 0.
        rows: that are worked on at one time by a CPU thread.

    Returns:
        Logprobs (N,), at most 0 and -inf for banned ids, and entropies (N,) in nats, at least 0
        up to rounding; float32, or float64 for float64 states.
    """
    dtype = autocast_dtype(hidden.device) or weight.dtype
    logprobs, entropy = _DenseLogprobs.apply(
        hidden, weight, bias, ids, banned, temperature, rows, dtype
    )
    return logprobs, entropy


class _DenseLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        ids: Tensor,
        banned: Tensor | None,
        temperature: float,
        step: int,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.settings = (temperature, step, hidden.dtype, weight.dtype)
        sums = torch.promote_types(torch.float32, hidden.dtype)
        with torch.autocast(hidden.device.type, enabled=False):
            states, weights = hidden.to(dtype), weight.to(dtype)
            shift = _shift(weights, bias, banned)
            probs = states.new_empty(len(states), len(weights))
            logprobs, entropy = (states.new_empty(len(states), dtype=sums) for _ in range(2))
            for part in row_blocks(probs, step * probs.shape[1]):
                logits = F.linear(states[part], weights, shift).to(sums)
                if temperature != 1:
                    logits.div_(temperature)
                p = torch.softmax(logits, dim=1)
                # The largest logit and its probability give the normaliser, log sum exp, without
                # another pass of exponentials.
                normaliser = logits.amax(1) - p.amax(1).log()
                logprobs[part] = logits.gather(1, ids[part, None])[:, 0] - normaliser
                probs[part] = p
                # A banned token adds 0 times a large number, which is no NaN.
                entropy[part] = normaliser - logits.mul_(p).sum(1)
        ctx.save_for_backward(states, weights, ids, probs, entropy)
        if banned is not None:
            logprobs = logprobs.masked_fill(banned[ids], -torch.inf)
        return logprobs, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        states, weights, ids, probs, entropy = ctx.saved_tensors
        temperature, step, hidden_dtype, weight_dtype = ctx.settings
        # Divided once here, not once per logit.
        of_logprob, of_entropy = (None if g is None else g / temperature for g in grads)
        if of_logprob is None:
            of_logprob = torch.zeros_like(entropy)
        # With p the probabilities: d logp_id / dz_j = [j = id] - p_j and
        # dH / dz_j = -p_j (log p_j + H).
        scale = of_logprob if of_entropy is None else of_logprob + of_entropy * entropy
        slope = torch.empty_like(probs)
        for part in row_blocks(probs, step * probs.shape[1]):
            p = probs[part]
            one = p * -scale[part, None]
            if of_entropy is not None:
                one += torch.special.entr(p.to(one.dtype)) * of_entropy[part, None]
            one.scatter_add_(1, ids[part, None], of_logprob[part, None])
            slope[part] = one
        to_hidden, to_weight, to_bias = ctx.needs_input_grad[:3]
        return (
            (slope @ weights).to(hidden_dtype) if to_hidden else None,
            (slope.T @ states).to(weight_dtype) if to_weight else None,
            slope.sum(0, dtype=entropy.dtype).to(weight_dtype) if to_bias else None,
            *(None,) * 5,
        )


def _shift(weight: Tensor, bias: Tensor | None, banned: Tensor | None) -> Tensor | None:
    """Return what the product adds to the logits (V,): the bias, and a large negative for bans."""
    if banned is None:
        return None if bias is None else bias.to(weight.dtype)
    shift = weight.new_zeros(len(weight)) if bias is None else bias.to(weight.dtype)
    # Its exponential is exactly 0; half of the lowest number of float16 leaves room for a logit.
    return shift.masked_fill(banned, max(-1e30, torch.finfo(weight.dtype).min / 2))
