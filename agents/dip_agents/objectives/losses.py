"""The loss of a batch of rollouts: tensors in, loss and statistics out.

Axes: B rollouts, T tokens. Column t of row b belongs to token t of rollout b. A token is *active*
where ``mask`` is True; all others (environment text, padding) are in no number here.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dip_agents.objectives.choices import CLIPS, Clips, KlKind
from dip_agents.objectives.kl import kl_to_reference
from dip_agents.objectives.surrogates import LOSSES, SurrogateInputs
from dip_agents.objectives.token_stats import TokenStats
from dip_env.errors import ConfigError


@dataclass(frozen=True, eq=False)
class KlPenalty:
    """The KL to a reference policy as part of the loss.

    Args:
        ref_logprobs: (B, T) of the reference policy.
        weight: of the KL; with 0 it is only measured.
        kind: its estimator, see ``kl_to_reference``.
    """

    ref_logprobs: Tensor
    weight: float = 0.0
    kind: KlKind = "k2"


@dataclass(frozen=True, eq=False)
class EntropyBonus:
    """The entropy as part of the loss.

    Args:
        values: entropy (B, T) in nats; with gradient where ``weight`` is not 0.
        weight: of the entropy; with 0 it is only measured.
    """

    values: Tensor
    weight: float = 0.0


@dataclass(frozen=True, eq=False)
class PolicyLoss:
    """The loss of one micro-batch.

    Args:
        loss: scalar with gradient, the part of these rollouts in the loss of the whole batch.
        stats: ``clip_fraction_low``, ``clip_fraction_high``, ``approx_kl``, ``ratio``,
            ``entropy`` and ``ref_kl`` (both only when given) as means; ``ratio_deviation``, the
            largest ``|ratio - 1|``, as maximum.
    """

    loss: Tensor
    stats: TokenStats


def policy_loss(
    inputs: SurrogateInputs,
    weights: Tensor | None = None,
    *,
    kind: str = "clipped",
    clips: Clips | None = None,
    importance: Tensor | None = None,
    kl: KlPenalty | None = None,
    entropy: EntropyBonus | None = None,
) -> PolicyLoss:
    """Return the weighted sum over tokens of surrogate, KL and entropy.

    With the surrogate loss S_bt of the kind (``surrogates.py``) and the importance weight u_bt::

        loss = sum_b w_b sum_t [ u_bt S_bt + kl.weight * KL_bt - entropy.weight * H_bt ]

    The weights w_b belong to the whole batch (``aggregation.py``), so gradients of micro-batches
    sum to the gradient of the batch.

    Args:
        inputs: logprobs, advantages and mask of the micro-batch.
        weights: (B,) of ``rollout_weights``; by default one over the active tokens of the mask.
        kind: name of a registered loss.
        clips: its bounds; by default those of its source.
        importance: (B, T) of ``sampler_gap``, or None for 1.
        kl: the KL to a reference, or None.
        entropy: the entropy bonus, or None.

    Returns:
        The loss and its statistics.

    Raises:
        ValueError: when shapes do not fit.
        ConfigError: for an unknown kind.
    """
    _check_shapes(inputs)
    if kind not in LOSSES:
        raise ConfigError(f"kind: expected one of {tuple(LOSSES)}, got {kind!r}")
    inputs = inputs.prepared()
    mask, log_ratio = inputs.mask, inputs.log_ratio
    surrogate = LOSSES[kind](inputs, clips or CLIPS[kind])
    per_token = surrogate.losses if importance is None else importance * surrogate.losses

    ratio = log_ratio.detach().exp()
    means = {
        "clip_fraction_low": surrogate.clipped_low,
        "clip_fraction_high": surrogate.clipped_high,
        "approx_kl": torch.expm1(log_ratio) - log_ratio,  # k3 of KL(old || new), >= 0
        "ratio": ratio,
    }
    if kl is not None:
        ref_logprobs = torch.where(mask, kl.ref_logprobs, 0.0)
        means["ref_kl"] = kl_to_reference(inputs.logprobs, ref_logprobs, kl.kind)
        if kl.weight:
            per_token = per_token + kl.weight * means["ref_kl"]
    if entropy is not None:
        means["entropy"] = entropy.values
        if entropy.weight:
            per_token = per_token - entropy.weight * torch.where(mask, entropy.values, 0.0)
    if weights is None:
        weights = (1.0 / mask.sum().clamp(min=1)).expand(len(mask))
    stats = TokenStats.of(mask, means, {"ratio_deviation": (ratio - 1.0).abs()})
    # Sums of rows first: a rollout's part does not depend on the others of the micro-batch.
    rows = torch.where(mask, per_token, 0.0).sum(1)
    return PolicyLoss((weights.to(rows.dtype) * rows).sum(), stats)


def _check_shapes(inputs: SurrogateInputs) -> None:
    shape, advantages = tuple(inputs.logprobs.shape), tuple(inputs.advantages.shape)
    if len(shape) != 2:
        raise ValueError(f"logprobs: expected shape (B, T), got {shape}")
    for name, tensor in (("old_logprobs", inputs.old_logprobs), ("mask", inputs.mask)):
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{name}: expected shape {shape}, got {tuple(tensor.shape)}")
    if inputs.mask.dtype != torch.bool:
        raise ValueError(f"mask: expected dtype bool, got {inputs.mask.dtype}")
    if advantages not in (shape, shape[:1]):
        raise ValueError(f"advantages: expected shape {shape[:1]} or {shape}, got {advantages}")
