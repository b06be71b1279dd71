"""Which rollouts of a step go through the model; knows their tokens and endings, no weights.

Axes: P scenes, G rollouts of one scene, B rollouts that are left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dip_agents.advantages import Advantages

if TYPE_CHECKING:
    from dip_agents.rollouts import RolloutGroup
    from dip_agents.token_buffer import TokenBuffer


@dataclass(frozen=True, eq=False)
class TrainingBatch:
    """The rollouts of one step that have something to teach, and how many do not.

    Args:
        buffers: their tokens, B of them.
        advantages: float32 (B,).
        origins: (scene index, member) of each.
        dropped: log key -> how many rollouts were left out for that reason (the first that
            applies counts).
    """

    buffers: list[TokenBuffer]
    advantages: Tensor
    origins: list[tuple[int, int]]
    dropped: dict[str, float]

    @property
    def tokens(self) -> int:
        """Active tokens of the whole batch, the denominator of its loss."""
        return sum(map(active_tokens, self.buffers))


def active_tokens(buffer: TokenBuffer) -> int:
    """Return how many tokens can carry gradient; the first token of all is never predicted."""
    return sum(buffer.loss_mask[1:])


def training_batch(
    groups: Sequence[RolloutGroup], advantages: Advantages, mask_truncated: bool = True
) -> TrainingBatch:
    """Select the rollouts that go through the model and count the others.

    Rollouts of a group with equal rewards have advantage 0; leaving them out takes their tokens
    out of the denominator too, so that a step with few mixed groups learns no less from them.

    Args:
        groups: P groups of G rollouts.
        advantages: of these groups.
        mask_truncated: leave out rollouts that ended by ``token_budget``.

    Returns:
        The batch; it may be empty.
    """
    buffers: list[TokenBuffer] = []
    values: list[float] = []
    origins: list[tuple[int, int]] = []
    reasons = dict.fromkeys(("equal_rewards", "no_policy_tokens", "truncated"), 0.0)
    for row, group in enumerate(groups):
        for member, rollout in enumerate(group.rollouts):
            if not advantages.mixed[row]:
                reasons["equal_rewards"] += 1
            elif not active_tokens(rollout.buffer):
                reasons["no_policy_tokens"] += 1
            elif mask_truncated and rollout.info["ending"] == "token_budget":
                reasons["truncated"] += 1
            else:
                buffers.append(rollout.buffer)
                values.append(float(advantages.values[row, member]))
                origins.append((group.scene_index, member))
    dropped = {f"rollout/dropped_{reason}": count for reason, count in reasons.items()}
    return TrainingBatch(buffers, torch.tensor(values), origins, dropped)
