"""The loss of a batch of rollouts: tensors in, loss and numbers out; no model, no config, no log.

Axes: B rollouts, T tokens. Column t of row b speaks of token t of rollout b. A token is *active*
where ``mask`` is True; everything else (environment text, padding) has no say in any number here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from dip_agents.objectives.choices import KlKind, LossKind
from dip_agents.objectives.importance import MAX_LOG_RATIO
from dip_agents.objectives.kl import kl_to_reference
from dip_agents.objectives.surrogates import Surrogate, cispo, clipped, dppo_tv, gspo
from dip_agents.objectives.token_stats import TokenStats


@dataclass(frozen=True, eq=False)
class PolicyLoss:
    """What one micro-batch gives.

    Args:
        loss: scalar with gradient, the share of these rollouts in the loss of the whole batch.
        stats: ``clip_fraction_low``, ``clip_fraction_high``, ``approx_kl``, ``ratio``,
            ``entropy`` and ``ref_kl`` (both only when given) as means; ``ratio_deviation``, the
            largest ``|ratio - 1|``, as maximum.
    """

    loss: Tensor
    stats: TokenStats


def policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    weights: Tensor | None = None,
    *,
    kind: LossKind = "clipped",
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    dual_clip: float | None = None,
    behaviour_logprobs: Tensor | None = None,
    importance: Tensor | None = None,
    ref_logprobs: Tensor | None = None,
    kl_weight: float = 0.0,
    kl_kind: KlKind = "k2",
    entropy: Tensor | None = None,
    entropy_weight: float = 0.0,
) -> PolicyLoss:
    """Return the weighted sum over tokens of surrogate, KL and entropy.

    With the surrogate loss S_bt of the kind (``surrogates.py``) and the importance weight u_bt::

        loss = sum_b w_b sum_t [ u_bt S_bt + kl_weight * KL_bt - entropy_weight * H_bt ]

    The weights w_b belong to the whole batch (``aggregation.py``), so gradients of micro-batches
    sum to the gradient of the batch.

    Args:
        logprobs: (B, T) with gradient.
        old_logprobs: (B, T) of the weights that the batch started from. Pass
            ``logprobs.detach()`` on the first update: the ratio is then exactly 1.
        advantages: (B,), or (B, T) to pay tokens of one rollout differently.
        mask: bool (B, T), the active tokens.
        weights: (B,) of ``rollout_weights``; by default one over the active tokens of ``mask``.
        kind: which surrogate.
        clip_low: its lower bound.
        clip_high: its upper bound.
        dual_clip: the third bound of ``clipped``, or None.
        behaviour_logprobs: (B, T) of the sampler, which ``dppo_tv`` compares with; where None or
            NaN, ``old_logprobs`` stand in.
        importance: (B, T) of ``sampler_gap``, or None for 1.
        ref_logprobs: (B, T) of the reference policy, or None for no KL.
        kl_weight: weight of the KL term.
        kl_kind: see ``kl_to_reference``.
        entropy: (B, T) in nats, or None; with gradient where ``entropy_weight`` is not 0.
        entropy_weight: weight of the entropy bonus.

    Returns:
        The loss and its statistics.

    Raises:
        ValueError: when shapes do not fit, a weight is set without its tensor, or for an unknown
            kind.
    """
    _check_shapes(logprobs, old_logprobs, advantages, mask)
    if kl_weight and ref_logprobs is None:
        raise ValueError(f"kl_weight {kl_weight} needs ref_logprobs, got None")
    if entropy_weight and entropy is None:
        raise ValueError(f"entropy_weight {entropy_weight} needs entropy, got None")

    advantage = advantages.to(logprobs.dtype)
    advantage = (advantage[:, None] if advantage.ndim == 1 else advantage).expand_as(logprobs)
    # Zero outside the mask before exp: a padded -inf would turn into NaN in the backward pass.
    logprobs = torch.where(mask, logprobs, 0.0)
    old_logprobs = torch.where(mask, old_logprobs, 0.0)
    log_ratio = (logprobs - old_logprobs).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    surrogate: Surrogate
    if kind == "clipped":
        surrogate = clipped(log_ratio, advantage, clip_low, clip_high, dual_clip)
    elif kind == "gspo":
        surrogate = gspo(logprobs, log_ratio, advantage, mask, clip_low, clip_high)
    elif kind == "cispo":
        surrogate = cispo(logprobs, log_ratio, advantage, clip_high)
    elif kind == "dppo_tv":
        sampler = old_logprobs
        if behaviour_logprobs is not None:
            known = mask & ~behaviour_logprobs.isnan()
            sampler = torch.where(known, behaviour_logprobs, old_logprobs)
        surrogate = dppo_tv(logprobs, log_ratio, advantage, sampler, clip_low, clip_high)
    else:
        raise ValueError(f"loss: expected one of {get_args(LossKind)}, got {kind!r}")
    per_token = surrogate.losses if importance is None else importance * surrogate.losses

    ratio = log_ratio.detach().exp()
    means = {
        "clip_fraction_low": surrogate.cut_low,
        "clip_fraction_high": surrogate.cut_high,
        "approx_kl": torch.expm1(log_ratio) - log_ratio,  # k3 of KL(old || new), >= 0
        "ratio": ratio,
    }
    if ref_logprobs is not None:
        distance = kl_to_reference(logprobs, torch.where(mask, ref_logprobs, 0.0), kl_kind)
        means["ref_kl"] = distance
        if kl_weight:
            per_token = per_token + kl_weight * distance
    if entropy is not None:
        means["entropy"] = entropy
        if entropy_weight:
            per_token = per_token - entropy_weight * torch.where(mask, entropy, 0.0)
    if weights is None:
        weights = (1.0 / mask.sum().clamp(min=1)).expand(len(mask))
    stats = TokenStats.of(mask, means, {"ratio_deviation": (ratio - 1.0).abs()})
    # Sums of rows first: a rollout's share does not depend on who else is in the micro-batch.
    rows = torch.where(mask, per_token, 0.0).sum(1)
    return PolicyLoss((weights.to(rows.dtype) * rows).sum(), stats)


def _check_shapes(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor) -> None:
    shape = tuple(logprobs.shape)
    if len(shape) != 2:
        raise ValueError(f"logprobs: expected shape (B, T), got {shape}")
    for name, tensor in (("old_logprobs", old_logprobs), ("mask", mask)):
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{name}: expected shape {shape}, got {tuple(tensor.shape)}")
    if mask.dtype != torch.bool:
        raise ValueError(f"mask: expected dtype bool, got {mask.dtype}")
    if tuple(advantages.shape) not in (shape, shape[:1]):
        raise ValueError(
            f"advantages: expected shape {shape[:1]} or {shape}, got {tuple(advantages.shape)}"
        )
