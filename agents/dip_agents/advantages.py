"""How much better a rollout did than its siblings; knows rewards only, no tokens and no model.

Axes: P scenes, G rollouts of one scene.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

AdvantageKind = Literal["grpo", "dr_grpo", "batch_std"]

SAME_REWARD = 1e-6
"""Rewards of a group that spread less than this are equal: the rest is float rounding."""


@dataclass(frozen=True, eq=False)
class Advantages:
    """The advantages of one batch and which of its groups have something to teach.

    Args:
        values: float32 (P, G); exactly 0 for every rollout of a group that is not mixed.
        mixed: bool (P,), False where all rewards of the group are equal.
    """

    values: Tensor
    mixed: Tensor


def group_advantages(
    rewards_P_G: Tensor,
    kind: AdvantageKind = "batch_std",
    eps: float = 1e-4,
) -> Advantages:
    """Compare every reward with the mean of its group.

    ========= ================================================ ===========================
    kind      advantage                                        source
    ========= ================================================ ===========================
    grpo      (R_i - mean_group) / (std_group + eps)           DeepSeekMath, 2402.03300
    dr_grpo   R_i - mean_group                                 Dr. GRPO, 2503.20783
    batch_std (R_i - mean_group) / (std_batch + eps)           Lite-PPO, 2508.08221
    ========= ================================================ ===========================

    Both standard deviations are unbiased (ddof = 1), as TRL and verl compute them; the batch one
    is over all P*G rewards. Scaling by the group's own deviation makes scenes that are almost
    always or almost never solved count most, which the other two avoid.

    Args:
        rewards_P_G: rewards (P, G) of any float dtype.
        kind: one of the table.
        eps: added to the standard deviation, in units of reward.

    Returns:
        The advantages and the mask of mixed groups; each group's advantages sum to 0.

    Raises:
        ValueError: for another shape, a reward that is not finite, or an unknown kind.
    """
    if rewards_P_G.ndim != 2 or rewards_P_G.numel() == 0:
        raise ValueError(f"rewards: expected shape (P, G), got {tuple(rewards_P_G.shape)}")
    if not bool(torch.isfinite(rewards_P_G).all()):
        raise ValueError(f"rewards: expected finite numbers, got {rewards_P_G.tolist()}")
    rewards = rewards_P_G.double()
    mixed = rewards.amax(dim=1) - rewards.amin(dim=1) > SAME_REWARD
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    if kind == "dr_grpo":
        values = centred
    elif kind == "grpo" and rewards.shape[1] > 1:
        values = centred / (rewards.std(dim=1, keepdim=True) + eps)
    elif kind == "batch_std" and rewards.numel() > 1:
        values = centred / (rewards.std() + eps)
    elif kind in get_args(AdvantageKind):
        values = centred  # a single rollout has no deviation, and its centred reward is 0
    else:
        raise ValueError(f"kind: expected one of {get_args(AdvantageKind)}, got {kind!r}")
    return Advantages(torch.where(mixed[:, None], values, 0.0).float(), mixed)
