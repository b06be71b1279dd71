"""The rows of the completions table: one for each rollout of a step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dip_agents.grpo.metrics import policy_tokens

if TYPE_CHECKING:
    from torch import Tensor

    from dip_agents.grpo.records import Rollout, RolloutGroup


def completion_rows(
    step: int, groups: Sequence[RolloutGroup], advantages: Tensor
) -> list[dict[str, Any]]:
    """Put every rollout of a step into one flat row.

    Args:
        step: the step that learned from these rollouts.
        groups: P groups of G rollouts.
        advantages: (P, G).

    Returns:
        P*G rows: step, scene, member, reward, terms, advantage, length and policy_tokens (in
        tokens), turns, regions, ending, transcript; and, where members share looks, look (number
        of the branch in its group) and blank_crops.
    """
    return [
        {
            "step": step,
            "scene": group.scene_index,
            "member": member,
            "reward": rollout.reward,
            "terms": dict(rollout.terms),
            "advantage": float(advantages[row, member]),
            "length": len(rollout.buffer.ids),
            "policy_tokens": policy_tokens(rollout),
            "turns": rollout.stats.turns,
            "regions": rollout.stats.regions,
            "ending": rollout.stats.ending,
            "transcript": rollout.stats.transcript,
            **_branch(rollout),
        }
        for row, group in enumerate(groups)
        for member, rollout in enumerate(group.rollouts)
    ]


def _branch(rollout: Rollout) -> dict[str, Any]:
    branch = rollout.branch
    return {} if branch is None else {"look": branch.look, "blank_crops": branch.blank}
