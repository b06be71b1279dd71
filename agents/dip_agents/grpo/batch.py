"""Which rollouts of a step go through the model; knows their tokens and endings, no weights.

Axes: P scenes, G rollouts of one scene, B rollouts that are left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dip_agents.objectives.advantages import Advantages
from dip_agents.objectives.aggregation import Counts
from dip_agents.objectives.turn_advantages import spread_over_tokens
from dip_env.result import Ending

if TYPE_CHECKING:
    from dip_agents.grpo.rollouts import RolloutGroup
    from dip_agents.tokens.buffer import TokenBuffer


@dataclass(frozen=True, eq=False)
class TrainingBatch:
    """The rollouts of one step that have something to teach, and how many do not.

    Args:
        buffers: their tokens, B of them.
        advantages: float32 (B,), or (B, T) where turns are paid one by one; T is that of the
            longest buffer, and what the environment said has 0.
        origins: (scene index, member) of each.
        dropped: log key -> how many rollouts were left out for that reason (the first that
            applies counts).
        elsewhere: rows that another process played; it has their pixels and their part of the
            gradient.
        spare: a rollout with policy tokens that was played here, for a process without a row of
            its own that must keep step with the others.
    """

    buffers: list[TokenBuffer]
    advantages: Tensor
    origins: list[tuple[int, int]]
    dropped: dict[str, float]
    elsewhere: frozenset[int] = frozenset()
    spare: TokenBuffer | None = None

    @property
    def rows_here(self) -> list[int]:
        """Rows that go through the model in this process."""
        return [row for row in range(len(self.buffers)) if row not in self.elsewhere]

    @property
    def lengths(self) -> list[int]:
        """Active tokens of each rollout."""
        return [active_tokens(buffer) for buffer in self.buffers]

    @property
    def counts(self) -> Counts:
        """The size of the batch, which the weights of its tokens are made from."""
        return Counts.of(self.lengths)

    def advantages_of(self, rows: Sequence[int], width: int) -> Tensor:
        """Return the advantages of some rollouts, (b,) or (b, width), on the CPU."""
        found = self.advantages[list(rows)]
        return found if found.ndim == 1 else found[:, :width]


def active_tokens(buffer: TokenBuffer) -> int:
    """Return how many tokens can carry gradient; the first token of all is never predicted."""
    return sum(buffer.loss_mask[1:])


def training_batch(
    groups: Sequence[RolloutGroup],
    advantages: Advantages,
    mask_truncated: bool = True,
    most_groups: int | None = None,
) -> TrainingBatch:
    """Select the rollouts that go through the model and count the others.

    Rollouts of a group with equal rewards have advantage 0; leaving them out takes their tokens
    out of the denominator too, so that a step with few mixed groups learns no less from them.

    Args:
        groups: P groups of G rollouts.
        advantages: of these groups.
        mask_truncated: leave out rollouts that ended by ``token_budget``. Their rewards still
            count in the advantages of their siblings, and rollouts that ran out of turns stay.
        most_groups: how many mixed groups may stay, the first of them, or None for all.

    Returns:
        The batch; it may be empty.
    """
    buffers: list[TokenBuffer] = []
    values: list[Sequence[float]] = []
    origins: list[tuple[int, int]] = []
    elsewhere: set[int] = set()
    reasons = dict.fromkeys(("equal_rewards", "surplus", "no_policy_tokens", "truncated"), 0.0)
    mixed_before = 0
    for row, group in enumerate(groups):
        informative = bool(advantages.informative[row])
        surplus = most_groups is not None and mixed_before >= most_groups
        mixed_before += informative
        for member, rollout in enumerate(group.rollouts):
            if not informative:
                reasons["equal_rewards"] += 1
            elif surplus:
                reasons["surplus"] += 1
            elif not active_tokens(rollout.buffer):
                reasons["no_policy_tokens"] += 1
            elif mask_truncated and rollout.info["ending"] == Ending.TOKEN_BUDGET:
                reasons["truncated"] += 1
            else:
                if not group.here:
                    elsewhere.add(len(buffers))
                buffers.append(rollout.buffer)
                origins.append((group.scene_index, member))
                if advantages.turns is None:
                    values.append([float(advantages.values[row, member])])
                else:
                    per_turn = advantages.turns[row][member]
                    values.append(spread_over_tokens(rollout.buffer.loss_mask, per_turn))
    dropped = {f"rollout/dropped_{reason}": count for reason, count in reasons.items()}
    width = max(map(len, values), default=1)
    table = torch.zeros(len(values), width)
    for at, numbers in enumerate(values):
        table[at, : len(numbers)] = torch.tensor(numbers)
    played_here = (r.buffer for group in groups if group.here for r in group.rollouts)
    # Without a token to predict, no layer would have a backward pass to keep step with.
    spare = next((buffer for buffer in played_here if active_tokens(buffer)), None)
    return TrainingBatch(
        buffers,
        table if advantages.turns is not None else table[:, 0],
        origins,
        dropped,
        frozenset(elsewhere),
        spare,
    )
