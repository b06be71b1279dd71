"""What is kept of rollouts: their tokens, what they earned, and what else is known of them."""

from __future__ import annotations

from dataclasses import dataclass, field

from dip_agents.grpo.box_stats import BoxStats
from dip_agents.grpo.branches import Branch
from dip_agents.tokens.buffer import TokenBuffer
from dip_env.result import Ending
from dip_env.rewards import LookStats


@dataclass(frozen=True)
class TurnRecord:
    """What is known of one turn in which the policy wrote tokens.

    Args:
        anchor: names everything that was shown before the turn, see ``turn_advantages``.
        looks_left: how often the turn could still look.
        reward: what the turn itself earned, where the environment rewards turns one by one.
        region_tokens: (start, stop) of the tokens that write each region of its looks, counted from
            its first token; none where they were not measured.
    """

    anchor: str
    looks_left: int
    reward: float | None = None
    region_tokens: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, eq=False)
class RolloutStats:
    """What is known of one rollout beside its tokens and rewards.

    Args:
        turns: number of turns.
        regions: number of regions looked at.
        look_area: share of the scene that the regions cover together, in [0, 1].
        boxes: number of boxes of the answer.
        truth_count: number of non-ignored instances of the scene.
        parse_failures: number of turns that were malformed or refused.
        ending: how it ended.
        turn_records: one for each turn in which the policy wrote tokens, in order.
        transcript: role and text of each message.
        box_stats: of answer and looks, where they were measured.
        look_stats: of what its looks covered, where that was measured.
        look_gains: what each region adds to the look term, in order; none where not measured.
        truncated_turns: number of turns that ran into a token limit.
    """

    turns: int
    regions: int
    look_area: float
    boxes: int
    truth_count: int
    parse_failures: int
    ending: Ending
    turn_records: tuple[TurnRecord, ...] = ()
    transcript: tuple[dict[str, str], ...] = ()
    box_stats: BoxStats | None = None
    look_stats: LookStats | None = None
    look_gains: tuple[float, ...] = ()
    truncated_turns: int = 0

    @property
    def answered(self) -> bool:
        """True where the episode ended with an answer."""
        return self.ending == Ending.ANSWER

    @property
    def truncated(self) -> bool:
        """True where the token budget ended the episode."""
        return self.ending == Ending.TOKEN_BUDGET


@dataclass(frozen=True, eq=False)
class Rollout:
    """One episode as the trainer sees it.

    Args:
        buffer: its tokens.
        reward: total reward of the environment.
        terms: every reward term by name, unweighted, in [0, 1].
        stats: what else is known of it.
        branch: where it stands among those that share looks, in a group with such members.
    """

    buffer: TokenBuffer
    reward: float
    terms: dict[str, float]
    stats: RolloutStats
    branch: Branch | None = None


@dataclass(frozen=True, eq=False)
class RolloutGroup:
    """G rollouts of one scene.

    Args:
        scene_index: which scene of the source.
        rollouts: its members.
        weights: of every reward term by name; a reward is the weighted sum of its terms.
        environment_seconds: time that the environment took: scene, crops, parsing, rewards,
            tokenising; most of it while the engine decoded other rows.
        local: True where this process collected it; the groups of other processes lack the pixels.
    """

    scene_index: int
    rollouts: list[Rollout]
    weights: dict[str, float] = field(default_factory=dict)
    environment_seconds: float = 0.0
    local: bool = True
