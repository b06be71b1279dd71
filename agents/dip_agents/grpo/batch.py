"""The rollouts of a step that go through the model; independent of its weights.

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
from dip_agents.objectives.turns import spread_over_tokens, tokens_of_regions

if TYPE_CHECKING:
    from dip_agents.grpo.records import Rollout, RolloutGroup
    from dip_agents.tokens.buffer import TokenBuffer

DROP_REASONS = ("zero_variance", "excess", "no_policy_tokens", "truncated")
"""Why a rollout does not go through the model; logged as ``rollout/dropped_<reason>``."""


@dataclass(frozen=True, eq=False)
class TrainingBatch:
    """The rollouts of one step to learn from, and the number of those that are left out.

    Args:
        buffers: their tokens, B of them.
        advantages: float32 (B,), or (B, T) where turns have their own advantages; T is that of the
            longest buffer, and tokens of the environment have 0.
        origins: (scene index, member) of each.
        dropped: log key -> how many rollouts were left out for that reason (the first that
            applies counts).
        remote: rows that another process collected; it has their pixels and their part of the
            gradient.
        dummy: a rollout with policy tokens that this process collected, for a process without a
            local row that must run as many passes as the others.
    """

    buffers: list[TokenBuffer]
    advantages: Tensor
    origins: list[tuple[int, int]]
    dropped: dict[str, float]
    remote: frozenset[int] = frozenset()
    dummy: TokenBuffer | None = None

    @property
    def local_rows(self) -> list[int]:
        """Rows that go through the model in this process."""
        return [row for row in range(len(self.buffers)) if row not in self.remote]

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
    max_groups: int | None = None,
) -> TrainingBatch:
    """Select the rollouts that go through the model and count the others.

    Rollouts of zero-variance groups have advantage 0. Leaving them out takes their tokens out of
    the denominator too, so that a step with few informative groups learns no less from these.

    Args:
        groups: P groups of G rollouts.
        advantages: of these groups.
        mask_truncated: leave out rollouts that ended by ``token_budget``. Their rewards still
            count in the advantages of their siblings, and rollouts that ran out of turns stay.
        max_groups: how many informative groups may stay, the first of them, or None for all.

    Returns:
        The batch; it may be empty.
    """
    buffers: list[TokenBuffer] = []
    values: list[Sequence[float]] = []
    origins: list[tuple[int, int]] = []
    remote: set[int] = set()
    dropped = dict.fromkeys(DROP_REASONS, 0.0)
    informative_before = 0
    for row, group in enumerate(groups):
        informative = bool(advantages.informative[row])
        excess = max_groups is not None and informative_before >= max_groups
        informative_before += informative
        for member, rollout in enumerate(group.rollouts):
            reason = _drop_reason(rollout, informative, excess, mask_truncated)
            if reason is not None:
                dropped[reason] += 1
                continue
            if not group.local:
                remote.add(len(buffers))
            buffers.append(rollout.buffer)
            origins.append((group.scene_index, member))
            values.append(_values_of(rollout, advantages, row, member))
    table = _padded(values)
    local = (r.buffer for group in groups if group.local for r in group.rollouts)
    return TrainingBatch(
        buffers,
        table if advantages.turns is not None else table[:, 0],
        origins,
        {f"rollout/dropped_{reason}": count for reason, count in dropped.items()},
        frozenset(remote),
        # Without a token to predict, no layer would have a backward pass to run with the others.
        dummy=next((buffer for buffer in local if active_tokens(buffer)), None),
    )


def _drop_reason(
    rollout: Rollout, informative: bool, excess: bool, mask_truncated: bool
) -> str | None:
    """Return the first reason to leave a rollout out, or None to keep it."""
    if not informative:
        return "zero_variance"
    if excess:
        return "excess"
    if not active_tokens(rollout.buffer):
        return "no_policy_tokens"
    if mask_truncated and rollout.stats.truncated:
        return "truncated"
    return None


def _values_of(rollout: Rollout, advantages: Advantages, row: int, member: int) -> Sequence[float]:
    """Return the advantage of a rollout, or those of all its tokens where turns have their own."""
    if advantages.turns is None:
        return [float(advantages.values[row, member])]
    mask = rollout.buffer.loss_mask
    values = spread_over_tokens(mask, advantages.turns[row][member])
    if advantages.regions is not None:
        written = [turn.region_tokens for turn in rollout.stats.turn_records]
        for tokens, value in zip(
            tokens_of_regions(mask, written), advantages.regions[row][member], strict=True
        ):
            values[tokens] = [value] * (tokens.stop - tokens.start)
    return values


def _padded(values: Sequence[Sequence[float]]) -> Tensor:
    """Return rows of any lengths as one table, filled with 0."""
    table = torch.zeros(len(values), max(map(len, values), default=1))
    for row, numbers in enumerate(values):
        table[row, : len(numbers)] = torch.tensor(numbers)
    return table
