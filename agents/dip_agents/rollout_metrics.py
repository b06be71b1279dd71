"""What a batch of rollouts looked like, as numbers to log; reads rollouts, changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from dip_agents.advantages import Advantages

if TYPE_CHECKING:
    from dip_agents.rollouts import Rollout, RolloutGroup

ENDINGS = ("answer", "max_turns", "token_budget")
"""How a rollout can end: it answered, used up its turns, or an observation did not fit."""


def policy_tokens(rollout: Rollout) -> int:
    """Return how many tokens of the rollout the policy wrote."""
    return sum(rollout.buffer.loss_mask)


def rollout_metrics(groups: Sequence[RolloutGroup], advantages: Advantages) -> dict[str, float]:
    """Describe all rollouts of a step, also those that the update will leave out.

    Args:
        groups: P groups of G rollouts.
        advantages: of these groups, (P, G).

    Returns:
        Plain numbers by log key:

        - ``reward/total`` and ``reward/<term>`` (means), ``reward_std/...`` (deviation over all
          rollouts, ddof = 0);
        - ``advantage/mean``, ``advantage/std``, ``advantage/abs``;
        - ``group/frac_mixed``, ``group/dropped`` (groups of equal rewards), ``group/reward_std``
          (mean over groups of the deviation inside);
        - ``rollout/tokens`` (all, summed), ``rollout/length_mean|max`` (whole buffers),
          ``rollout/policy_tokens_mean|max``, ``rollout/surprisal`` (mean of -logprob of the
          sampled tokens, an estimate of the entropy that costs nothing);
        - ``rollout/turns``, ``rollout/looks``, ``rollout/look_area`` (share of the scene),
          ``rollout/looked`` (share of rollouts with a look), ``rollout/boxes``,
          ``rollout/boxes_over_truth`` (ratio of the sums; 0 when no scene holds anybody),
          ``rollout/parse_failures`` (per rollout), ``rollout/truncated`` and
          ``rollout/ending_<how>`` (shares).
    """
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    return {
        **_rewards(groups, rollouts),
        "advantage/mean": float(advantages.values.mean()),
        "advantage/std": float(advantages.values.std(correction=0)),
        "advantage/abs": float(advantages.values.abs().mean()),
        "group/frac_mixed": float(advantages.mixed.float().mean()),
        "group/dropped": float((~advantages.mixed).sum()),
        **_tokens(rollouts),
        **_behaviour(rollouts),
    }


def _rewards(groups: Sequence[RolloutGroup], rollouts: Sequence[Rollout]) -> dict[str, float]:
    columns = {"total": [rollout.reward for rollout in rollouts]}
    for name in rollouts[0].terms:
        columns[name] = [rollout.terms[name] for rollout in rollouts]
    inside = [np.std([rollout.reward for rollout in group.rollouts]) for group in groups]
    return {
        **{f"reward/{name}": float(np.mean(values)) for name, values in columns.items()},
        **{f"reward_std/{name}": float(np.std(values)) for name, values in columns.items()},
        "group/reward_std": float(np.mean(inside)),
    }


def _tokens(rollouts: Sequence[Rollout]) -> dict[str, float]:
    lengths = [len(rollout.buffer.ids) for rollout in rollouts]
    written = [policy_tokens(rollout) for rollout in rollouts]
    # Behaviour logprobs are 0 outside the mask, so the plain sum is the sum over policy tokens.
    surprisal = -sum(sum(rollout.buffer.logprobs) for rollout in rollouts)
    return {
        "rollout/tokens": float(sum(lengths)),
        "rollout/length_mean": float(np.mean(lengths)),
        "rollout/length_max": float(max(lengths)),
        "rollout/policy_tokens_mean": float(np.mean(written)),
        "rollout/policy_tokens_max": float(max(written)),
        "rollout/surprisal": surprisal / max(sum(written), 1),
    }


def _behaviour(rollouts: Sequence[Rollout]) -> dict[str, float]:
    def mean(name: str) -> float:
        return float(np.mean([rollout.info[name] for rollout in rollouts]))

    boxes = sum(rollout.info["boxes"] for rollout in rollouts)
    truth = sum(rollout.info["truth_count"] for rollout in rollouts)
    endings = [rollout.info["ending"] for rollout in rollouts]
    shares = {how: endings.count(how) / len(endings) for how in ENDINGS}
    return {
        "rollout/turns": mean("turns"),
        "rollout/looks": mean("looks"),
        "rollout/look_area": mean("look_area"),
        "rollout/looked": float(np.mean([rollout.info["looks"] > 0 for rollout in rollouts])),
        "rollout/boxes": boxes / len(rollouts),
        "rollout/boxes_over_truth": boxes / truth if truth else 0.0,
        "rollout/parse_failures": mean("parse_failures"),
        "rollout/truncated": shares["token_budget"],
        **{f"rollout/ending_{how}": share for how, share in shares.items()},
    }
