"""The policy-gradient part of the loss, one pure function per variant.

Axes: B rollouts, T tokens. r_t = exp(log pi_t - log old_t) is the ratio to the policy that the
batch started from, A_t the advantage. On the first update of a batch r = 1, and every variant has
the gradient of REINFORCE, ``-A_t grad log pi_t``.

All take ``logprobs`` with gradient and ``log_ratio`` (clamped, 0 outside the mask) and return
losses per token, to be minimised, and which tokens they cut on either side.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Surrogate(NamedTuple):
    """Losses of tokens.

    Args:
        losses: (B, T) with gradient.
        cut_low: bool (B, T), tokens whose gradient was cut because they fell too far.
        cut_high: bool (B, T), because they rose too far.
    """

    losses: Tensor
    cut_low: Tensor
    cut_high: Tensor


def clipped(
    log_ratio: Tensor,
    advantages: Tensor,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    dual_clip: float | None = None,
) -> Surrogate:
    """Return ``-min(r A, clip(r, 1 - clip_low, 1 + clip_high) A)``.

    With ``dual_clip`` c the loss of a token with A < 0 is at most ``-c A``: a bad token that has
    become c times as likely pushes no harder.

    Source: PPO (1707.06347) for the clip; DAPO (2503.14476) for the higher upper bound; dual-clip
    PPO (1912.09729), c = 3 there.

    Args:
        log_ratio: (B, T) with gradient.
        advantages: (B, T).
        clip_low: how far below 1 the ratio may still be pushed.
        clip_high: how far above 1 the ratio may still be pushed.
        dual_clip: c > 1, or None.

    Returns:
        See ``Surrogate``; what the dual clip cuts counts as high.
    """
    ratio = log_ratio.exp()
    bounded = ratio.clamp(1.0 - clip_low, 1.0 + clip_high)
    losses = -torch.minimum(ratio * advantages, bounded * advantages)
    low = (ratio < 1.0 - clip_low) & (advantages < 0)
    high = (ratio > 1.0 + clip_high) & (advantages > 0)
    if dual_clip is not None:
        bad = advantages < 0
        losses = torch.where(bad, torch.minimum(losses, -dual_clip * advantages), losses)
        high = high | (bad & (ratio > dual_clip))
    return Surrogate(losses, low, high)


def gspo(
    logprobs: Tensor,
    log_ratio: Tensor,
    advantages: Tensor,
    mask: Tensor,
    clip_low: float,
    clip_high: float,
) -> Surrogate:
    """Clip the ratio of the whole rollout: ``-min(s_t A, clip(s_t, ...) A)``.

    ``s = exp(mean_t log r_t)`` over the active tokens of the rollout, and in its token form
    ``s_t = sg[s] pi_t / sg[pi_t]`` (sg stops the gradient), so that tokens of one rollout may have
    different advantages. A mean of logs moves little: the source clips at 3e-4 and 4e-4, not at
    0.2, and gives every rollout the same weight (``sequence_mean``).

    Source: GSPO (2507.18071), GSPO-token.

    Args:
        logprobs: (B, T) with gradient, finite outside the mask.
        log_ratio: (B, T), 0 outside the mask.
        advantages: (B, T).
        mask: bool (B, T), the active tokens.
        clip_low: how far below 1 s may still be pushed.
        clip_high: how far above 1 s may still be pushed.

    Returns:
        See ``Surrogate``.
    """
    mean = log_ratio.detach().sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)
    # The difference is 0 and only carries the gradient.
    return clipped(mean + (logprobs - logprobs.detach()), advantages, clip_low, clip_high)


def cispo(logprobs: Tensor, log_ratio: Tensor, advantages: Tensor, clip_high: float) -> Surrogate:
    """Bound the weight of a token, never its gradient: ``-sg[min(r, 1 + clip_high)] A log pi``.

    No token drops out; one that has become much likelier only weighs no more than the bound.
    There is no lower bound, as in the source; ScaleRL (2510.13786) bounds at 5, so
    ``clip_high = 4``.

    Source: CISPO, MiniMax-M1 (2506.13585).

    Args:
        logprobs: (B, T) with gradient, finite outside the mask.
        log_ratio: (B, T).
        advantages: (B, T).
        clip_high: how far above 1 a weight may be.

    Returns:
        See ``Surrogate``; ``cut_high`` are the bounded weights.
    """
    ratio = log_ratio.detach().exp()
    losses = -ratio.clamp(max=1.0 + clip_high) * advantages * logprobs
    return Surrogate(losses, torch.zeros_like(ratio, dtype=torch.bool), ratio > 1.0 + clip_high)


def dppo_tv(
    logprobs: Tensor,
    log_ratio: Tensor,
    advantages: Tensor,
    behaviour_logprobs: Tensor,
    clip_low: float,
    clip_high: float,
) -> Surrogate:
    """Drop tokens by the difference of probabilities, not by their ratio: ``-M r A``.

    M = 0 where A > 0 and ``pi - mu > clip_high``, or A < 0 and ``pi - mu < -clip_low``, else 1,
    with mu the sampler's probability of the token. A rare token may double without moving the
    distribution, which a ratio takes for a large step.

    Source: DPPO-Binary-TV (2602.04879), bounds 0.2 in prime-rl.

    Args:
        logprobs: (B, T) with gradient, finite outside the mask.
        log_ratio: (B, T) with gradient.
        advantages: (B, T).
        behaviour_logprobs: (B, T), log mu.
        clip_low: largest fall of a probability.
        clip_high: largest rise of a probability.

    Returns:
        See ``Surrogate``.
    """
    moved = logprobs.detach().exp() - behaviour_logprobs.exp()
    low = (moved < -clip_low) & (advantages < 0)
    high = (moved > clip_high) & (advantages > 0)
    losses = torch.where(low | high, 0.0, -log_ratio.exp() * advantages)
    return Surrogate(losses, low, high)
