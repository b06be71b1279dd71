"""The policy loss: tensors in, loss and numbers out; no model, no config, no logger.

Axes: B rollouts, T tokens. Column t of row b speaks of token t of rollout b. A token is *active*
where ``mask`` is True; everything else (environment text, padding) has no say in any number here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

KlKind = Literal["k2", "k3"]

MAX_LOG_RATIO = 20.0
"""Log-ratios are clamped to +-20 before exp, so that one absurd token cannot overflow (as verl)."""


def masked_mean(values: Tensor, mask: Tensor, denominator: Tensor | float | None = None) -> Tensor:
    """Average over active entries, or over a larger set of which these are a part.

    Args:
        values: any shape; entries outside the mask may hold anything, even NaN.
        mask: bool, the shape of ``values``.
        denominator: number of entries of the whole set, when ``values`` are one micro-batch of it;
            the means of all micro-batches then sum to the mean of the set. Default: this mask's.

    Returns:
        A scalar; 0, still part of the graph, for an empty mask.

    Raises:
        ValueError: when the shapes differ.
    """
    if values.shape != mask.shape:
        raise ValueError(f"mask: expected shape {tuple(values.shape)}, got {tuple(mask.shape)}")
    total = torch.where(mask, values, 0.0).sum()
    return total / (mask.sum().clamp(min=1) if denominator is None else denominator)


@dataclass(frozen=True, eq=False)
class TokenStats:
    """Sums over active tokens and extremes, kept apart so that micro-batches reduce exactly.

    Args:
        tokens: how many active tokens the sums cover, a scalar tensor.
        sums: name -> scalar tensor; the mean is the sum over ``tokens``.
        maxima: name -> scalar tensor.
    """

    tokens: Tensor
    sums: dict[str, Tensor] = field(default_factory=dict)
    maxima: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(
        cls, mask: Tensor, means: dict[str, Tensor], maxima: dict[str, Tensor] | None = None
    ) -> TokenStats:
        """Reduce per-token values.

        Args:
            mask: bool (B, T), the active tokens.
            means: name -> (B, T) values to be averaged over tokens.
            maxima: name -> (B, T) values >= 0 of which the largest counts.

        Returns:
            The statistics, detached; sums are float64 so that their order does not matter.
        """
        sums = {
            name: torch.where(mask, values.detach().double(), 0.0).sum()
            for name, values in means.items()
        }
        peaks = {
            name: torch.where(mask, values.detach().double(), 0.0).max()
            for name, values in (maxima or {}).items()
        }
        return cls(mask.sum(), sums, peaks)

    def merged(self, other: TokenStats) -> TokenStats:
        """Add another micro-batch; both must hold the same names."""
        return TokenStats(
            self.tokens + other.tokens,
            {name: total + other.sums[name] for name, total in self.sums.items()},
            {name: torch.maximum(peak, other.maxima[name]) for name, peak in self.maxima.items()},
        )

    def metrics(self) -> dict[str, float]:
        """Return the token means and the maxima as plain numbers, each under its name."""
        tokens = max(int(self.tokens), 1)
        means = {name: float(total) / tokens for name, total in self.sums.items()}
        return means | {name: float(peak) for name, peak in self.maxima.items()}


@dataclass(frozen=True, eq=False)
class PolicyLoss:
    """What one micro-batch gives.

    Args:
        loss: scalar with gradient, already divided by the denominator of the whole batch.
        stats: ``clip_fraction_low``, ``clip_fraction_high``, ``approx_kl``, ``ratio``,
            ``entropy`` and ``ref_kl`` (both only when given) as means; ``ratio_deviation``, the
            largest ``|ratio - 1|``, as maximum.
    """

    loss: Tensor
    stats: TokenStats


def kl_to_reference(logprobs: Tensor, ref_logprobs: Tensor, kind: KlKind = "k2") -> Tensor:
    """Estimate KL(policy || reference) from one sampled token each, with d = ref - policy.

    ``k2 = d^2 / 2`` has the right gradient in expectation (on-policy), ``k3 = exp(d) - d - 1`` the
    right value. As a loss term prefer k2. Source: J. Schulman, "Approximating KL divergence" (the
    values); verl ``core_algos.py`` for the clamp of d to +-20.

    Args:
        logprobs: (B, T) with gradient.
        ref_logprobs: (B, T) of the reference.
        kind: ``k2`` or ``k3``.

    Returns:
        (B, T), each >= 0.

    Raises:
        ValueError: for an unknown kind.
    """
    d = (ref_logprobs - logprobs).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    if kind == "k2":
        return 0.5 * d.square()
    if kind == "k3":
        return torch.expm1(d) - d
    raise ValueError(f"kl kind: expected 'k2' or 'k3', got {kind!r}")


def clipped_policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    denominator: Tensor | float | None = None,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    ref_logprobs: Tensor | None = None,
    kl_weight: float = 0.0,
    kl_kind: KlKind = "k2",
    entropy: Tensor | None = None,
    entropy_weight: float = 0.0,
) -> PolicyLoss:
    """Clipped policy-gradient loss, averaged over tokens.

    With r = exp(logprobs - old_logprobs) and the advantage A of the token's rollout::

        loss = 1/N * sum_t [ -min(r A, clip(r, 1 - clip_low, 1 + clip_high) A)
                             + kl_weight * KL_t - entropy_weight * H_t ]

    where N is the ``denominator``: the active tokens of the whole batch, not of this micro-batch,
    so that gradients of micro-batches sum to the gradient of the batch.

    Source: PPO (1707.06347) for the clip; DAPO (2503.14476) for the higher upper bound and the
    token mean.

    Args:
        logprobs: (B, T) with gradient.
        old_logprobs: (B, T) of the weights that the batch started from. Pass
            ``logprobs.detach()`` on the first update: r is then exactly 1.
        advantages: (B,), or (B, T) to pay tokens of one rollout differently.
        mask: bool (B, T), the active tokens.
        denominator: active tokens of the whole batch; default those of ``mask``.
        clip_low: how far below 1 the ratio may still be pushed.
        clip_high: how far above 1 the ratio may still be pushed.
        ref_logprobs: (B, T) of the reference policy, or None for no KL.
        kl_weight: weight of the KL term.
        kl_kind: see ``kl_to_reference``.
        entropy: (B, T) in nats, or None; with gradient where ``entropy_weight`` is not 0.
        entropy_weight: weight of the entropy bonus.

    Returns:
        The loss and its statistics.

    Raises:
        ValueError: when shapes do not fit, or a weight is set without its tensor.
    """
    _check_shapes(logprobs, old_logprobs, advantages, mask)
    if kl_weight and ref_logprobs is None:
        raise ValueError(f"kl_weight {kl_weight} needs ref_logprobs, got None")
    if entropy_weight and entropy is None:
        raise ValueError(f"entropy_weight {entropy_weight} needs entropy, got None")

    advantage = advantages.to(logprobs.dtype)
    advantage = (advantage[:, None] if advantage.ndim == 1 else advantage).expand_as(logprobs)
    # Zero outside the mask before exp: a padded -inf would turn into NaN in the backward pass.
    log_ratio = torch.where(mask, logprobs - old_logprobs, 0.0)
    log_ratio = log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1.0 - clip_low, 1.0 + clip_high)
    per_token = -torch.minimum(ratio * advantage, clipped * advantage)

    means = {
        "clip_fraction_low": (ratio < 1.0 - clip_low) & (advantage < 0),
        "clip_fraction_high": (ratio > 1.0 + clip_high) & (advantage > 0),
        "approx_kl": torch.expm1(log_ratio) - log_ratio,  # k3 of KL(old || new), >= 0
        "ratio": ratio,
    }
    if ref_logprobs is not None:
        distance = kl_to_reference(
            torch.where(mask, logprobs, 0.0), torch.where(mask, ref_logprobs, 0.0), kl_kind
        )
        means["ref_kl"] = distance
        if kl_weight:
            per_token = per_token + kl_weight * distance
    if entropy is not None:
        means["entropy"] = entropy
        if entropy_weight:
            per_token = per_token - entropy_weight * torch.where(mask, entropy, 0.0)
    stats = TokenStats.of(mask, means, {"ratio_deviation": (ratio - 1.0).abs()})
    return PolicyLoss(masked_mean(per_token, mask, denominator), stats)


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
