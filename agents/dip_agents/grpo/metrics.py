"""The log metrics of a batch of rollouts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from dip_agents.grpo.box_stats import SAME_LOOK, WHOLE_IMAGE
from dip_agents.grpo.records import Rollout, RolloutGroup, RolloutStats
from dip_agents.objectives.advantages import SAME_REWARD, Advantages
from dip_env.result import Ending


def policy_tokens(rollout: Rollout) -> int:
    """Return how many tokens of the rollout the policy wrote."""
    return sum(rollout.buffer.loss_mask)


def own_tokens(rollout: Rollout) -> slice:
    """Return which tokens of a rollout no earlier member of its group has, as a slice.

    Members that share a look share all tokens up to the fork; these were sampled once.
    """
    return slice(0 if rollout.branch is None else rollout.branch.own_from, None)


def rollout_metrics(groups: Sequence[RolloutGroup], advantages: Advantages) -> dict[str, float]:
    """Describe all rollouts of a step, also those that the update will leave out.

    Args:
        groups: P groups of G rollouts.
        advantages: of these groups, (P, G).

    Returns:
        Plain numbers by log key; rewards, turns, looks and boxes are those of rollouts that see
        their crops:

        - ``reward/total`` and ``reward/<term>`` (means), ``reward_std/...`` (deviation over all
          rollouts, ddof = 0);
        - ``reward/turn_<k>`` where the environment rewards turns one by one: the mean of turn k
          (from 1) over the rollouts that took it;
        - ``advantage/mean``, ``advantage/std``, ``advantage/abs``;
        - ``group/collected``, ``group/frac_informative`` (share with an advantage, before any is
          left out), ``group/frac_zero_variance`` (share with equal total rewards),
          ``group/dropped`` (groups without an advantage), ``group/reward_std`` (mean over groups
          of the deviation inside);
        - ``rollout/tokens`` (all, summed), ``rollout/sampled_tokens`` (those that the policy wrote,
          summed, shared turns once), ``rollout/length_mean|max`` (whole buffers),
          ``rollout/policy_tokens_mean|min|max``, ``rollout/terminated_tokens_mean`` (policy tokens
          of rollouts that were not truncated, where there are some), ``rollout/pixels`` (of
          different images, summed), ``rollout/surprisal`` (mean of -logprob of the sampled tokens
          whose logprob is known, an estimate of the entropy that costs nothing);
        - ``rollout/turns``, ``rollout/regions`` (looked at), ``rollout/look_area`` (share of the
          scene), ``rollout/looked`` (share of rollouts with a look), ``rollout/boxes``,
          ``rollout/boxes_over_truth`` (ratio of the sums; 0 when no scene has an instance),
          ``rollout/parse_failures`` (per rollout), ``rollout/truncated`` and
          ``rollout/ending_<how>`` (shares), ``rollout/truncated_share`` (of turns that ran into a
          token limit);
        - the numbers of ``box_metrics``, ``look_metrics`` and ``branch_metrics``, where rollouts
          have what they describe.
    """
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    # What the policy does when it sees what it asked for; ``branch_metrics`` has the rest.
    seeing = [r for r in rollouts if r.branch is None or not r.branch.blank]
    return {
        **_rewards(groups, seeing),
        "advantage/mean": float(advantages.values.mean()),
        "advantage/std": float(advantages.values.std(correction=0)),
        "advantage/abs": float(advantages.values.abs().mean()),
        "group/collected": float(len(groups)),
        "group/frac_informative": float(advantages.informative.float().mean()),
        "group/dropped": float((~advantages.informative).sum()),
        **_tokens(rollouts),
        **_behaviour(seeing),
        **box_metrics([rollout.stats for rollout in seeing]),
        **look_metrics(groups),
        **branch_metrics(groups),
    }


def _rewards(groups: Sequence[RolloutGroup], rollouts: Sequence[Rollout]) -> dict[str, float]:
    columns = {"total": [rollout.reward for rollout in rollouts]}
    for name in rollouts[0].terms:
        columns[name] = [rollout.terms[name] for rollout in rollouts]
    inside = [np.std([rollout.reward for rollout in group.rollouts]) for group in groups]
    spans = [np.ptp([rollout.reward for rollout in group.rollouts]) for group in groups]
    earned = [
        [turn.reward for turn in rollout.stats.turn_records if turn.reward is not None]
        for rollout in rollouts
    ]
    turns = {
        f"reward/turn_{k + 1}": float(np.mean([row[k] for row in earned if len(row) > k]))
        for k in range(max(map(len, earned)))
    }
    return {
        **turns,
        "group/frac_zero_variance": float(np.mean(np.array(spans) <= SAME_REWARD)),
        **{f"reward/{name}": float(np.mean(values)) for name, values in columns.items()},
        **{f"reward_std/{name}": float(np.std(values)) for name, values in columns.items()},
        "group/reward_std": float(np.mean(inside)),
    }


def _tokens(rollouts: Sequence[Rollout]) -> dict[str, float]:
    lengths = [len(rollout.buffer.ids) for rollout in rollouts]
    written = [policy_tokens(rollout) for rollout in rollouts]
    ended = [
        count
        for rollout, count in zip(rollouts, written, strict=True)
        if not rollout.stats.truncated
    ]
    sampled = np.array(
        [
            logprob
            for rollout in rollouts
            for logprob, mine in zip(
                rollout.buffer.logprobs[own_tokens(rollout)],
                rollout.buffer.loss_mask[own_tokens(rollout)],
                strict=True,
            )
            if mine
        ]
    )
    known = sampled[~np.isnan(sampled)]
    images = {image.key: image for rollout in rollouts for image in rollout.buffer.images}
    return {
        "rollout/tokens": float(sum(lengths)),
        "rollout/sampled_tokens": float(len(sampled)),
        "rollout/length_mean": float(np.mean(lengths)),
        "rollout/length_max": float(max(lengths)),
        "rollout/policy_tokens_mean": float(np.mean(written)),
        "rollout/policy_tokens_min": float(min(written)),
        "rollout/policy_tokens_max": float(max(written)),
        **({"rollout/terminated_tokens_mean": float(np.mean(ended))} if ended else {}),
        "rollout/pixels": float(
            sum(image.pixels.shape[0] * image.pixels.shape[1] for image in images.values())
        ),
        **({"rollout/surprisal": float(-known.mean())} if len(known) else {}),
    }


def _behaviour(rollouts: Sequence[Rollout]) -> dict[str, float]:
    stats = [rollout.stats for rollout in rollouts]

    def mean(values: Sequence[float]) -> float:
        return float(np.mean(values))

    boxes = sum(one.boxes for one in stats)
    truth = sum(one.truth_count for one in stats)
    endings = [one.ending for one in stats]
    shares = {how: endings.count(how) / len(endings) for how in Ending}
    return {
        "rollout/turns": mean([one.turns for one in stats]),
        "rollout/regions": mean([one.regions for one in stats]),
        "rollout/look_area": mean([one.look_area for one in stats]),
        "rollout/looked": mean([one.regions > 0 for one in stats]),
        "rollout/boxes": boxes / len(rollouts),
        "rollout/boxes_over_truth": boxes / truth if truth else 0.0,
        "rollout/parse_failures": mean([one.parse_failures for one in stats]),
        "rollout/truncated": shares[Ending.TOKEN_BUDGET],
        "rollout/truncated_share": sum(one.truncated_turns for one in stats)
        / max(1, sum(one.turns for one in stats)),
        **{f"rollout/ending_{how}": share for how, share in shares.items()},
    }


def environment_times(groups: Sequence[RolloutGroup], collect_seconds: float) -> dict[str, float]:
    """Return the time of the environment and its share of the time of collecting.

    The environment works while the engine decodes other rows, so these seconds are part of
    ``time/collect``, and ``time/step`` does not count them again. A share near 1 means that the
    engine waits for the environment.

    Args:
        groups: P groups.
        collect_seconds: wall time of collecting them.

    Returns:
        ``time/environment`` in seconds and ``time/environment_share``.
    """
    seconds = sum(group.environment_seconds for group in groups)
    share = seconds / collect_seconds if collect_seconds else 0.0
    return {"time/environment": seconds, "time/environment_share": share}


def box_metrics(stats: Sequence[RolloutStats]) -> dict[str, float]:
    """Describe the boxes of all rollouts of a step.

    Args:
        stats: of the rollouts; those without box statistics are left out.

    Returns:
        Numbers under ``rollout/``: ``empty_answers`` (share of rollouts that answered without a
        box), ``empty_scenes`` (share whose scene has no instance), ``duplicate_boxes`` (share of
        all boxes), ``whole_looks`` and ``repeated_looks`` (shares of rollouts); and means over the
        rollouts that have such boxes: ``huge_boxes``, ``box_area`` and ``truth_area``.
    """
    measured = [(one, one.box_stats) for one in stats if one.box_stats is not None]
    if not measured:
        return {}

    def share(hits: Sequence[bool]) -> float:
        return float(np.mean(hits))

    def mean(name: str, values: Sequence[float]) -> dict[str, float]:
        return {f"rollout/{name}": float(np.mean(values))} if values else {}

    boxes = sum(one.boxes for one, _ in measured)
    with_boxes = [shapes for one, shapes in measured if one.boxes]
    with_people = [shapes for one, shapes in measured if one.truth_count]
    duplicates = sum(shapes.duplicates for _, shapes in measured)
    return {
        "rollout/empty_answers": share([one.answered and not one.boxes for one, _ in measured]),
        "rollout/empty_scenes": share([not one.truth_count for one, _ in measured]),
        "rollout/duplicate_boxes": duplicates / boxes if boxes else 0.0,
        "rollout/whole_looks": share([s.largest_look >= WHOLE_IMAGE for _, s in measured]),
        "rollout/repeated_looks": share([s.look_overlap >= SAME_LOOK for _, s in measured]),
        **mean("huge_boxes", [shapes.huge_boxes for shapes in with_boxes]),
        **mean("box_area", [shapes.box_area for shapes in with_boxes]),
        **mean("truth_area", [shapes.truth_area for shapes in with_people]),
    }


def look_metrics(groups: Sequence[RolloutGroup]) -> dict[str, float]:
    """Describe what there was to look at, and whether the look term tells rollouts apart.

    Args:
        groups: P groups; without any rollout that may look there are no such numbers.

    Returns:
        ``rollout/ambiguous_people`` (by the reference of the look term),
        ``rollout/invented_ambiguity`` (share of ambiguity on invented boxes) and
        ``rollout/look_coverage`` (share of ambiguity inside the looks), means, the last two over
        rollouts with some ambiguity; and, where the look term has a weight,
        ``group/frac_look_signal``, the share of groups whose members earn different look terms.
    """
    stats = [
        rollout.stats
        for group in groups
        for rollout in group.rollouts
        if any(turn.looks_left for turn in rollout.stats.turn_records)
    ]
    looks = [one.look_stats for one in stats if one.look_stats is not None]
    if not looks:
        return {}
    spans = [
        np.ptp([rollout.terms["look"] for rollout in group.rollouts])
        for group in groups
        if group.weights.get("look", 0.0) > 0
    ]
    told_apart = float(np.mean(np.array(spans) > SAME_REWARD)) if spans else None
    covered = [one.covered for one in looks if one.covered is not None]
    invented = [one.invented for one in looks if one.covered is not None]
    return {
        "rollout/ambiguous_people": float(np.mean([one.ambiguous_people for one in looks])),
        **({"rollout/invented_ambiguity": float(np.mean(invented))} if invented else {}),
        **({"rollout/look_coverage": float(np.mean(covered))} if covered else {}),
        **({} if told_apart is None else {"group/frac_look_signal": told_apart}),
    }


def branch_metrics(groups: Sequence[RolloutGroup]) -> dict[str, float]:
    """Describe how much is decided by looks, where members of a group share them.

    Args:
        groups: P groups; without branches there are no such numbers.

    Returns:
        - ``group/look_return_spread``: the deviation between the mean rewards of looks, and, where
          two answers or more to a look see their crops, ``group/answer_spread``: that of the
          rewards of answers to one look (root mean square over looks), both ddof = 1, of answers
          that see their crops, means over the groups. Even where looks decide nothing, the first
          is about the second divided by sqrt(answers);
        - ``rollout/forked``: share of branches that were continued after a look; the members of
          the others are copies of one rollout;
        - with blank answers, over branches that forked: ``rollout/accuracy_with_crops``,
          ``rollout/accuracy_blank`` and their difference ``rollout/crop_value``, in [-1, 1].
    """
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    branches = [rollout.branch for rollout in rollouts]
    if None in branches:
        return {}
    spreads, deviations = [], []
    for group in groups:
        by_look: defaultdict[int, list[float]] = defaultdict(list)
        for rollout in group.rollouts:
            if rollout.branch is not None and not rollout.branch.blank:
                by_look[rollout.branch.look].append(rollout.reward)
        rewards = np.array(list(by_look.values()))
        spreads.append(rewards.mean(axis=1).std(ddof=1))
        if rewards.shape[1] > 1:
            deviations.append(np.sqrt(rewards.var(axis=1, ddof=1).mean()))
    return {
        "group/look_return_spread": float(np.mean(spreads)),
        **({"group/answer_spread": float(np.mean(deviations))} if deviations else {}),
        "rollout/forked": float(np.mean([one.looked for one in branches if one is not None])),
        **_crop_value(rollouts),
    }


def _crop_value(rollouts: Sequence[Rollout]) -> dict[str, float]:
    """Return the accuracy after looks with crops and with blank ones, where there are both."""
    forked = [(r.branch.blank, r) for r in rollouts if r.branch is not None and r.branch.looked]
    if not any(blank for blank, _ in forked):
        return {}
    seen, unseen = (
        float(np.mean([rollout.terms["accuracy"] for blank, rollout in forked if blank == wanted]))
        for wanted in (False, True)
    )
    return {
        "rollout/accuracy_with_crops": seen,
        "rollout/accuracy_blank": unseen,
        "rollout/crop_value": seen - unseen,
    }
