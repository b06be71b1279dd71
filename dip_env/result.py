"""How an episode ended and what its answer earned; independent of turns and of Gymnasium."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from dip_env.boxes import Boxes
from dip_env.matching import Matches
from dip_env.rewards import RewardTerms


class Ending(StrEnum):
    """Why an episode is over."""

    ANSWER = "answer"
    """The policy answered."""
    MAX_TURNS = "max_turns"
    """The turns ran out without an answer."""
    TOKEN_BUDGET = "token_budget"
    """The tokens ran out, or the next message would not fit, before an answer."""


@dataclass(frozen=True, eq=False)
class EpisodeResult:
    """What a finished episode earned, with the ground truth it was scored against.

    Args:
        reward: weighted sum of the terms.
        terms: the unweighted reward terms, each in [0, 1].
        truth_boxes: (M, 4) xyxy ground truth, view frame.
        ignore_boxes: (K, 4) xyxy regions that neither reward nor punish, view frame.
        answer_boxes: (N, 4) xyxy boxes of the answer, view frame.
        matches: the one-to-one matching at the first IoU threshold; its indices refer to
            ``answer_boxes`` and ``truth_boxes``.
    """

    reward: float
    terms: RewardTerms
    truth_boxes: Boxes
    ignore_boxes: Boxes
    answer_boxes: Boxes
    matches: Matches
