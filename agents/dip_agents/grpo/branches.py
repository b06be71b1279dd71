"""How the members of a group share looks: L looks, and K answers after each; loads no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dip_env.errors import ConfigError

if TYPE_CHECKING:
    from dip_env.ambiguity import SiblingTable

MIN_SIBLINGS = 2
"""Fewest answers with crops to other looks that the look term of a branch is measured on."""


@dataclass(frozen=True)
class GroupPlan:
    """Which members of a group share a look, and which see blank crops.

    Members of one branch are neighbours; the last ones of each see blank crops.

    Args:
        group_size: G rollouts of one scene.
        answers_per_look: K, members of a branch; with 1 nothing is shared.
        blank_answers: C of the K.

    Raises:
        ConfigError: when the numbers do not go together; names the field.
    """

    group_size: int
    answers_per_look: int = 1
    blank_answers: int = 0

    def __post_init__(self) -> None:
        """Check the numbers."""
        size, answers, blank = self.group_size, self.answers_per_look, self.blank_answers
        if answers < 1 or size % answers or (answers > 1 and size // answers < 2):
            raise ConfigError(
                f"answers_per_look: expected a divisor of group_size {size} that leaves two looks "
                f"or more, got {answers}"
            )
        if not 0 <= blank < answers:
            raise ConfigError(
                f"blank_answers: expected 0 to {answers - 1} with answers_per_look {answers}, "
                f"got {blank}"
            )
        if blank and (self.looks - 1) * (answers - blank) < MIN_SIBLINGS:
            raise ConfigError(
                f"blank_answers: expected {MIN_SIBLINGS} answers with crops or more to the other "
                f"looks of a group, got {(self.looks - 1) * (answers - blank)} with group_size "
                f"{size}, answers_per_look {answers} and blank_answers {blank}"
            )

    @property
    def looks(self) -> int:
        """L, the branches of a group."""
        return self.group_size // self.answers_per_look

    @property
    def branched(self) -> bool:
        """Whether members share looks at all."""
        return self.answers_per_look > 1

    @property
    def repeats(self) -> int:
        """Neighbours that go on from the very same fork, with the same crops."""
        return math.gcd(self.answers_per_look - self.blank_answers, self.blank_answers)

    def members(self, look: int) -> range:
        """Return the members of a branch; the first sees its crops."""
        return range(look * self.answers_per_look, (look + 1) * self.answers_per_look)

    def is_blank(self, member: int) -> bool:
        """Return whether a member sees blank crops."""
        return member % self.answers_per_look >= self.answers_per_look - self.blank_answers

    def siblings(self) -> SiblingTable | None:
        """Return whose answers the look term of each member is measured on; None for all others.

        Only answers to other looks count: what is said after a look must not move the term of that
        look. Blank answers do not count either, because ambiguity is what the policy is unsure of
        when it sees what it asked for; with them, people whom every look makes certain would stay
        ambiguous, and grey crops, which no training shows, would add errors of their own.
        """
        if not self.branched:
            return None
        member = np.arange(self.group_size)
        look = member // self.answers_per_look
        counted = np.array([not self.is_blank(k) for k in range(self.group_size)])
        table: SiblingTable = (look[:, None] != look) & counted
        return table


@dataclass(frozen=True)
class Branch:
    """Where a rollout stands in a group whose members share looks.

    Args:
        look: number of its branch, from 0.
        answer: number of the rollout in that branch, from 0.
        turns: turns with policy tokens up to the fork; all where there was none.
        tokens: tokens of its buffer up to the fork, the crops included; all where there was none.
        looked: True where it forked after a look; else its branch holds copies of one rollout.
        blank: True where it saw blank crops, or would have.
    """

    look: int
    answer: int
    turns: int
    tokens: int
    looked: bool
    blank: bool = False

    @property
    def own_from(self) -> int:
        """The first token that no rollout before it in the branch has."""
        return self.tokens if self.answer else 0
