"""From logits to tokens; a pure function of logits and uniform numbers."""

from __future__ import annotations

import torch
from torch import Tensor


def draw(
    logits: Tensor, ban: Tensor, temperature: float, draws: Tensor | None
) -> tuple[list[int], list[float]]:
    """Draw one token per row by inverse CDF, or the most likely one.

    A row's token is a function of its own logits and number, whatever is beside it; and one number
    per token is cheaper than ``torch.multinomial``, which draws one per word of the vocabulary.

    Args:
        logits: float32 (b, V).
        ban: 0 for tokens that may be drawn, -inf for others, (V,).
        temperature: divides the logits; 0 decodes greedily, with the logprobs of 1.
        draws: uniform numbers in [0, 1) (b,), or None for greedy.

    Returns:
        Tokens and their logprobs at that temperature over the allowed tokens.
    """
    logits = logits / (temperature or 1.0) + ban
    peak = logits.amax(-1, keepdim=True)
    shifted = logits - peak
    weights = shifted.exp()
    if draws is None:
        chosen = logits.argmax(-1)
        total = weights.sum(-1)
    else:
        cumulative = weights.cumsum(-1, dtype=torch.float64)
        total = cumulative[:, -1]
        # Scaled by the total, rounding can never point past the last allowed token.
        target = draws.to(logits.device)[:, None] * total[:, None]
        chosen = torch.searchsorted(cumulative, target, right=True)[:, 0]
    values = shifted.gather(1, chosen[:, None])[:, 0] - total.log().to(shifted.dtype)
    return chosen.tolist(), values.tolist()
