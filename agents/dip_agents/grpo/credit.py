"""From groups of rollouts to their advantages: reads rewards and anchors, no tokens, no model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dip_agents.grpo.config import LookCredit
from dip_agents.objectives.advantages import Advantages, group_advantages, term_part
from dip_agents.objectives.choices import AdvantageKind
from dip_agents.objectives.turn_advantages import turn_advantages

if TYPE_CHECKING:
    from dip_agents.grpo.rollouts import Rollout, RolloutGroup

LOOK = "look"


def compute_advantages(
    groups: Sequence[RolloutGroup],
    kind: AdvantageKind = "batch_std",
    turn_weight: float = 1.0,
    turn_discount: float = 0.95,
    look_credit: LookCredit = "episode",
) -> Advantages:
    """Return the advantages of all rollouts of a step.

    Args:
        groups: P groups of G rollouts.
        kind: see ``group_advantages``; ``gdpo`` reads ``Rollout.terms`` and ``weights``, and
            ``gigpo`` adds ``turn_weight`` times the advantage of each turn at its anchor
            (``info["anchors"]``) to that of the episode.
        turn_weight: of the turns' part in ``gigpo``.
        turn_discount: of later rewards in ``gigpo``, per turn.
        look_credit: ``episode`` pays the look term to every turn of a rollout, ``causal`` to the
            turns that could still look. What is ambiguous is measured on the siblings, so that
            nothing a rollout says after its last look can change the term: there it is noise, and
            leaving it out moves no expected gradient (source: ours).

    Returns:
        The advantages.

    Raises:
        ValueError: when groups differ in size, or rollouts lack what is read.
    """
    found = _compared(groups, kind, turn_weight, turn_discount)
    return found if look_credit == "episode" else _causal(found, groups, kind)


def _compared(
    groups: Sequence[RolloutGroup], kind: AdvantageKind, turn_weight: float, turn_discount: float
) -> Advantages:
    """Return the advantages, the look term being paid to every turn."""
    rewards = torch.tensor(
        [[rollout.reward for rollout in group.rollouts] for group in groups], dtype=torch.float64
    )
    if kind == "gdpo":
        terms, weights = _terms(groups, kind)
        return group_advantages(
            rewards, kind, terms_P_G_K=terms, term_weights=list(weights.values())
        )
    episodes = group_advantages(rewards, kind)
    if kind != "gigpo":
        return episodes
    turns = []
    informative = episodes.informative.clone()
    for row, group in enumerate(groups):
        steps = turn_advantages(
            [_anchors(rollout) for rollout in group.rollouts],
            [turn_rewards(rollout) for rollout in group.rollouts],
            turn_discount,
        )
        # Paid turn by turn, rollouts of equal rewards may still differ in when they earned them.
        if turn_weight and any(any(member) for member in steps):
            informative[row] = True
        turns.append(
            [
                [float(value) + turn_weight * step for step in member]
                for value, member in zip(episodes.values[row], steps, strict=True)
            ]
        )
    return Advantages(episodes.values, informative, turns)


def _causal(found: Advantages, groups: Sequence[RolloutGroup], kind: AdvantageKind) -> Advantages:
    """Take the look term's part off the turns that had no look left."""
    terms, weights = _terms(groups, "causal look_credit")
    if LOOK not in weights:
        raise ValueError(f"causal look_credit: expected a term {LOOK!r}, got {list(weights)}")
    part = term_part(terms, list(weights.values()), list(weights).index(LOOK), kind).tolist()
    turns: list[list[list[float]]] = [[] for _ in groups]
    for row, group in enumerate(groups):
        for member, rollout in enumerate(group.rollouts):
            left = rollout.info.get("looks_left")
            if left is None:
                raise ValueError(
                    'causal look_credit: expected Rollout.info["looks_left"], got none'
                )
            paid = [float(found.values[row, member])] * len(left)
            if found.turns is not None:
                paid = list(found.turns[row][member])
            turns[row].append(
                [p if n else p - part[row][member] for p, n in zip(paid, left, strict=True)]
            )
    return Advantages(found.values, found.informative, turns)


def _terms(groups: Sequence[RolloutGroup], reader: str) -> tuple[Tensor, dict[str, float]]:
    """Return the reward terms of all rollouts, (P, G, K), and the weight of each by name."""
    weights = groups[0].rollouts[0].weights
    if not weights:
        raise ValueError(f"{reader}: expected Rollout.weights to name the reward terms, got none")
    rows = [[[r.terms[name] for name in weights] for r in group.rollouts] for group in groups]
    return torch.tensor(rows, dtype=torch.float64), weights


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
