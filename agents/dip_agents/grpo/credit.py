"""The advantages of groups of rollouts, from their rewards and anchors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dip_agents.grpo.config import LookCredit
from dip_agents.objectives.advantages import Advantages, group_advantages, term_part
from dip_agents.objectives.branches import BranchRewards, answer_part, branch_advantages
from dip_agents.objectives.choices import AdvantageKind
from dip_agents.objectives.regions import region_advantages
from dip_agents.objectives.turns import turn_advantages

if TYPE_CHECKING:
    from dip_agents.grpo.branches import Branch
    from dip_agents.grpo.records import Rollout, RolloutGroup

LOOK, ACCURACY = "look", "accuracy"


def compute_advantages(
    groups: Sequence[RolloutGroup],
    kind: AdvantageKind = "batch_std",
    turn_weight: float = 1.0,
    turn_discount: float = 0.95,
    look_credit: LookCredit = "episode",
    region_weight: float = 1.0,
) -> Advantages:
    """Return the advantages of all rollouts of a step.

    Where members of a group share looks (``Rollout.branch``), turns up to the fork have the
    advantage of the look and later ones that of the answer, see ``branch_advantages``; the values
    are the sums of both.

    Args:
        groups: P groups of G rollouts.
        kind: see ``group_advantages``; ``gdpo`` reads the reward terms and their weights, and
            ``gigpo`` adds ``turn_weight`` times the advantage of each turn at its anchor to that
            of the episode.
        turn_weight: of the turns' part in ``gigpo``.
        turn_discount: of later rewards in ``gigpo``, per turn.
        look_credit: ``episode`` credits the look term to every turn of a rollout, ``causal`` to
            the turns that could still look: a turn without a look left has ``A - P``, with the look
            term's part P of the rollout's advantage A (``term_part``). Ambiguity is measured on the
            siblings, so that no token after the last look can change the own term: there it is
            noise, and leaving it out does not change the expected gradient of the own reward
            (source: ours). It also leaves out that an answer moves the look terms of its siblings,
            which its own is compared with. Answers after a fork lose it likewise. ``regions`` is
            ``causal`` but for the tokens that write a region: these are credited with what the
            region adds to the look term and with nothing else, see ``region_advantages``. Where to
            look is then learned from the look term alone, whatever its weight above 0.
        region_weight: what the advantages of regions are multiplied by.

    Returns:
        The advantages.

    Raises:
        ValueError: when groups differ in size, or lack the weights or terms that are read.
        ConfigError: for branches and a kind that cannot compare them.
    """
    if any(rollout.branch is not None for group in groups for rollout in group.rollouts):
        found = _branched(groups, kind, look_credit)
    else:
        found = _compared(groups, kind, turn_weight, turn_discount)
        if look_credit != "episode":
            found = _causal(found, groups, kind)
    return _by_region(found, groups, region_weight) if look_credit == "regions" else found


def _compared(
    groups: Sequence[RolloutGroup], kind: AdvantageKind, turn_weight: float, turn_discount: float
) -> Advantages:
    """Return the advantages, with the look term credited to every turn."""
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
            [[turn.anchor for turn in r.stats.turn_records] for r in group.rollouts],
            [turn_rewards(rollout) for rollout in group.rollouts],
            turn_discount,
        )
        # Rollouts of equal rewards may still differ in the turns that earned them.
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
    """Subtract the look term's part from the turns that had no look left."""
    terms, weights = _terms(groups, "look_credit")
    if LOOK not in weights:
        raise ValueError(f"look_credit: expected a term {LOOK!r}, got {list(weights)}")
    part = term_part(terms, list(weights.values()), list(weights).index(LOOK), kind).tolist()
    informative = found.informative.clone()
    turns: list[list[list[float]]] = [[] for _ in groups]
    for row, group in enumerate(groups):
        for member, rollout in enumerate(group.rollouts):
            records = rollout.stats.turn_records
            values = [float(found.values[row, member])] * len(records)
            if found.turns is not None:
                values = list(found.turns[row][member])
            turns[row].append(
                [
                    value if turn.looks_left else value - part[row][member]
                    for value, turn in zip(values, records, strict=True)
                ]
            )
        # Where terms cancel to equal rewards, some turns still have an advantage.
        informative[row] |= any(map(any, turns[row]))
    return Advantages(found.values, informative, turns)


def _by_region(found: Advantages, groups: Sequence[RolloutGroup], weight: float) -> Advantages:
    """Credit the tokens of each region with what it adds to the look term, where that has weight.

    Without weight, as at the end of a schedule, regions keep the advantage of their turn.
    """
    if not groups[0].weights[LOOK]:
        return found
    stats = [[rollout.stats for rollout in group.rollouts] for group in groups]
    if any(len(one.look_gains) != one.regions for members in stats for one in members):
        raise ValueError(
            "look_credit regions: expected the gain of every region, got rollouts without; collect "
            "them with measure_regions"
        )
    gains = [[one.look_gains for one in members] for members in stats]
    regions = region_advantages(gains, weight)
    informative = found.informative.clone()
    for row, members in enumerate(regions):
        informative[row] |= any(map(any, members))
    return replace(found, informative=informative, regions=regions)


def _branched(
    groups: Sequence[RolloutGroup], kind: AdvantageKind, look_credit: LookCredit
) -> Advantages:
    """Return the advantages of groups whose members share looks."""
    earned = branch_rewards(groups)
    shape = earned.rewards.shape
    found = branch_advantages(earned, kind)
    after = torch.zeros(shape, dtype=torch.float64)
    if look_credit != "episode":
        after = answer_part(_weighted(groups, LOOK).reshape(shape), earned, kind)
    informative = found.informative.clone()
    turns: list[list[list[float]]] = []
    for row, group in enumerate(groups):
        turns.append([])
        for rollout in group.rollouts:
            branch = _branch_of(rollout)
            look = float(found.looks[row, branch.look])
            answer = float(found.answers[row, branch.look, branch.answer])
            part = float(after[row, branch.look, branch.answer])
            records = rollout.stats.turn_records[branch.turns :]
            later = [answer if turn.looks_left else answer - part for turn in records]
            turns[row].append([look] * branch.turns + later)
        informative[row] |= any(map(any, turns[row]))
    values = (found.looks[..., None] + found.answers).reshape(len(groups), -1).float()
    return Advantages(values, informative, turns)


def branch_rewards(groups: Sequence[RolloutGroup]) -> BranchRewards:
    """Return what the rollouts of groups with branches earned, by look and answer.

    Args:
        groups: P groups of G rollouts, branch by branch.

    Returns:
        The rewards; the weighted accuracy term with them where there are blank answers.

    Raises:
        ValueError: when a rollout has no branch, or blank answers lack the accuracy term.
    """
    branches = [[_branch_of(rollout) for rollout in group.rollouts] for group in groups]
    answers = sum(branch.look == 0 for branch in branches[0])
    blank = sum(branch.look == 0 and branch.blank for branch in branches[0])
    rewards = torch.tensor(
        [[rollout.reward for rollout in group.rollouts] for group in groups], dtype=torch.float64
    )
    shape = (len(groups), -1, answers)
    looked = torch.tensor([[branch.looked for branch in row[::answers]] for row in branches])
    accuracy = _weighted(groups, ACCURACY).reshape(shape) if blank else None
    return BranchRewards(rewards.reshape(shape), looked, blank, accuracy)


def _branch_of(rollout: Rollout) -> Branch:
    if rollout.branch is None:
        raise ValueError("rollouts: expected all of them or none to have a branch")
    return rollout.branch


def _weighted(groups: Sequence[RolloutGroup], term: str) -> Tensor:
    """Return one reward term times its weight, (P, G)."""
    terms, weights = _terms(groups, f"credit of the {term} term")
    if term not in weights:
        raise ValueError(f"expected a term {term!r}, got {list(weights)}")
    return terms[..., list(weights).index(term)] * weights[term]


def _terms(groups: Sequence[RolloutGroup], reader: str) -> tuple[Tensor, dict[str, float]]:
    """Return the reward terms of all rollouts, (P, G, K), and the weight of each by name."""
    weights = groups[0].weights
    if not weights:
        raise ValueError(
            f"{reader}: expected RolloutGroup.weights to name the reward terms, got none"
        )
    rows = [[[r.terms[name] for name in weights] for r in group.rollouts] for group in groups]
    return torch.tensor(rows, dtype=torch.float64), weights


def turn_rewards(rollout: Rollout) -> list[float]:
    """Return the reward of each turn: its own where turns have one, else all in the last turn."""
    records = rollout.stats.turn_records
    if any(turn.reward is not None for turn in records):
        return [turn.reward or 0.0 for turn in records]
    return [0.0] * (len(records) - 1) + [rollout.reward] * bool(records)
