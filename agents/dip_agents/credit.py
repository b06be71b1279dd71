"""From groups of rollouts to their advantages: reads rewards and anchors, no tokens, no model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from dip_agents.advantages import AdvantageKind, Advantages, group_advantages
from dip_agents.turn_credit import turn_advantages

if TYPE_CHECKING:
    from dip_agents.rollouts import Rollout, RolloutGroup


def credit(
    groups: Sequence[RolloutGroup],
    kind: AdvantageKind = "batch_std",
    turn_weight: float = 1.0,
    turn_discount: float = 0.95,
) -> Advantages:
    """Return the advantages of all rollouts of a step.

    Args:
        groups: P groups of G rollouts.
        kind: see ``group_advantages``; ``gdpo`` reads ``Rollout.terms`` and ``weights``, and
            ``gigpo`` adds ``turn_weight`` times the advantage of each turn at its anchor
            (``info["anchors"]``) to that of the episode.
        turn_weight: of the turns' part in ``gigpo``.
        turn_discount: of later rewards in ``gigpo``, per turn.

    Returns:
        The advantages.

    Raises:
        ValueError: when groups differ in size, or rollouts lack what the kind reads.
    """
    rewards = torch.tensor(
        [[rollout.reward for rollout in group.rollouts] for group in groups], dtype=torch.float64
    )
    if kind == "gdpo":
        weights = groups[0].rollouts[0].weights
        if not weights:
            raise ValueError("gdpo: expected Rollout.weights to name the reward terms, got none")
        terms = [
            [[rollout.terms[name] for name in weights] for rollout in group.rollouts]
            for group in groups
        ]
        return group_advantages(
            rewards,
            kind,
            terms_P_G_K=torch.tensor(terms, dtype=torch.float64),
            term_weights=list(weights.values()),
        )
    episodes = group_advantages(rewards, kind)
    if kind != "gigpo":
        return episodes
    turns = []
    mixed = episodes.mixed.clone()
    for row, group in enumerate(groups):
        steps = turn_advantages(
            [_anchors(rollout) for rollout in group.rollouts],
            [turn_rewards(rollout) for rollout in group.rollouts],
            turn_discount,
        )
        # Paid turn by turn, rollouts of equal rewards may still differ in when they earned them.
        if turn_weight and any(any(member) for member in steps):
            mixed[row] = True
        turns.append(
            [
                [float(value) + turn_weight * step for step in member]
                for value, member in zip(episodes.values[row], steps, strict=True)
            ]
        )
    return Advantages(episodes.values, mixed, turns)


def turn_rewards(rollout: Rollout) -> list[float]:
    """Return what each turn earned: ``info["turn_rewards"]``, or all of it in the last turn."""
    paid = rollout.info.get("turn_rewards")
    if paid is not None:
        return [float(reward) for reward in paid]
    turns = len(_anchors(rollout))
    return [0.0] * (turns - 1) + [rollout.reward] * (turns > 0)


def _anchors(rollout: Rollout) -> Sequence[str]:
    anchors: Sequence[str] | None = rollout.info.get("anchors")
    if anchors is None:
        raise ValueError('gigpo: expected Rollout.info["anchors"], got none')
    return anchors
