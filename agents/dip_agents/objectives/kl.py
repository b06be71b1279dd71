"""Estimators of the KL to a reference policy, from sampled tokens only."""

from __future__ import annotations

import torch
from torch import Tensor

from dip_agents.objectives.choices import KlKind
from dip_agents.objectives.importance import MAX_LOG_RATIO
from dip_env.errors import ConfigError


def kl_to_reference(logprobs: Tensor, ref_logprobs: Tensor, kind: KlKind = "k2") -> Tensor:
    """Estimate KL(policy || reference) from one sampled token each, with d = ref - policy.

    ``k2 = d^2 / 2`` has the right gradient in expectation (on-policy), ``k3 = exp(d) - d - 1`` the
    right value. As a loss term prefer k2. ``k1 = -d`` is not offered: its value is right and its
    gradient, in expectation, nothing. Source: J. Schulman, "Approximating KL divergence" (the
    values); verl ``core_algos.py`` for the clamp of d to +-20.

    Args:
        logprobs: (B, T) with gradient.
        ref_logprobs: (B, T) of the reference.
        kind: ``k2`` or ``k3``.

    Returns:
        (B, T), each >= 0.

    Raises:
        ConfigError: for an unknown kind.
    """
    d = (ref_logprobs - logprobs).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    if kind == "k2":
        return 0.5 * d.square()
    if kind == "k3":
        return torch.expm1(d) - d
    raise ConfigError(f"kind: expected 'k2' or 'k3', got {kind!r}")
