"""Importance weights for tokens that another engine sampled.

``old`` is the trainer's policy that a batch started from, ``mu`` the sampler's. With the same
weights in the same arithmetic they agree to rounding; another engine differs by more, and the
batch is then slightly off-policy before the first update.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dip_agents.objectives.token_stats import TokenStats

MAX_LOG_RATIO = 20.0
"""Log-ratios are clamped to +-20 before exp, so that one absurd token cannot overflow (as verl)."""


@dataclass(frozen=True, eq=False)
class SamplerGap:
    """The difference between sampler and trainer on one micro-batch.

    Args:
        weights: (B, T) factors of the policy gradient, or None for no correction.
        stats: ``behaviour_gap`` (mean ``|log old - log mu|``) and ``behaviour_gap_max``;
            ``importance_ratio`` (mean of old / mu, not truncated) with ``_min`` and ``_max``;
            ``importance_truncated``, the share of tokens above the cap (only with one). Tokens
            without behaviour logprobs are left out.
        missing: how many active tokens those are, a scalar tensor.
    """

    weights: Tensor | None
    stats: TokenStats
    missing: Tensor


def sampler_gap(
    old_logprobs: Tensor, behaviour_logprobs: Tensor, mask: Tensor, cap: float | None = None
) -> SamplerGap:
    """Compare sampler and trainer, and correct for the difference where a cap is given.

    ``w_t = min(old_t / mu_t, C)``, one weight per token: a product over a rollout of hundreds of
    tokens would leave next to none of them. Source: truncated importance sampling, as in F. Yao
    et al., "Your efficient RL framework secretly brings you off-policy RL training".

    Args:
        old_logprobs: (B, T) of the trainer before its first update.
        behaviour_logprobs: (B, T) of the sampler; NaN where it gave none: such a token keeps
            weight 1.
        mask: bool (B, T), the active tokens.
        cap: C, or None for no weights.

    Returns:
        Weights in (0, C] and statistics, all without gradient.
    """
    known = mask & ~behaviour_logprobs.isnan()
    log_ratio = torch.where(known, old_logprobs.detach() - behaviour_logprobs, 0.0)
    ratio = log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    gap = log_ratio.abs()
    means = {"behaviour_gap": gap, "importance_ratio": ratio}
    if cap is not None:
        means["importance_truncated"] = ratio > cap
    stats = TokenStats.of(
        known,
        means,
        {"behaviour_gap_max": gap, "importance_ratio_max": ratio},
        {"importance_ratio_min": ratio},
    )
    weights = None if cap is None else ratio.clamp(max=cap)
    return SamplerGap(weights, stats, (mask & ~known).sum())
