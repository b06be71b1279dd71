"""The effect of looks, scene by scene: gain and harm in F1, and the coverage of ambiguity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dip_agents.evaluation.looks import LookCoverage
from dip_agents.evaluation.scores import EvalScore
from dip_env.formats.box_sets import Floats
from dip_env.metrics.intervals import Interval, Values, bootstrap
from dip_env.metrics.unscored import ratio

SAME = 1e-9
"""Change in a scene's F1 that is rounding."""


COMPARED = (
    "F1", "precision", "recall", "accuracy", "boxes_per_truth", "parse_failures", "truncated_turns",
)  # fmt: skip
"""Metrics of an evaluation that mean the same whether looks are allowed or not. Malformed turns
tell a policy that a control throws off the grammar from one that sees less, and truncated turns one
that a token limit keeps from answering."""


def compared(score: EvalScore) -> Values:
    """Return the metrics that conditions are compared by, as a function of scene counts.

    They equal those of ``EvalScore.values`` without the cost of the others.

    Args:
        score: of an evaluation with one rollout a scene.

    Returns:
        From counts (S,) to a value for each name in ``COMPARED``, None where one is not defined.
    """
    boxes, counters = score.unscored, score.counters
    columns = np.stack(
        [
            boxes.tp[0],
            boxes.boxes - boxes.dropped[0],
            boxes.people,
            counters["accuracy"],
            counters["boxes"],
            counters["parse_failures"],
            counters["truncated_turns"],
            counters["episodes"],
        ],
        axis=1,
    )

    def values(counts: Floats) -> dict[str, float | None]:
        sums = (counts @ columns).tolist()
        found, counted, people, accuracy, answered, failed, truncated, episodes = sums
        return {
            "F1": ratio(2 * found, counted + people),
            "precision": ratio(found, counted),
            "recall": ratio(found, people),
            "accuracy": ratio(accuracy, episodes),
            "boxes_per_truth": ratio(answered, people),
            "parse_failures": ratio(failed, episodes),
            "truncated_turns": ratio(truncated, episodes),
        }

    return values


def scene_f1(score: EvalScore) -> Floats:
    """Return the F1 of each scene at IoU 0.5, where each was played once.

    Args:
        score: of an evaluation with one rollout a scene.

    Returns:
        (S,) in [0, 1]; where there is no instance to find, 1 for no box that counts, else 0.
    """
    boxes = score.unscored
    both = boxes.boxes - boxes.dropped[0] + boxes.people
    return np.where(both > 0, 2 * boxes.tp[0] / np.where(both > 0, both, 1.0), 1.0)


@dataclass(frozen=True)
class GainHarm:
    """In how many scenes F1 rose and fell, and by how much.

    Args:
        rose: scenes with more.
        fell: scenes with less.
        stayed: the others.
        mean_rise: mean change of those that rose, above 0; None without any.
        mean_fall: mean change of those that fell, below 0; None without any.
        mean: mean change of all scenes.
    """

    rose: int
    fell: int
    stayed: int
    mean_rise: float | None
    mean_fall: float | None
    mean: Interval


def gain_and_harm(before: Floats, after: Floats, *, seed: int = 0) -> GainHarm:
    """Split the change of F1 into the scenes that gained and those that were harmed.

    Args:
        before: (S,) F1 of each scene.
        after: (S,) of the same scenes.
        seed: of the bootstrap over scenes.

    Returns:
        The split, after against before.
    """
    change = after - before
    up, down = change > SAME, change < -SAME
    means = bootstrap(
        lambda counts: {"mean": float(change @ counts / counts.sum())}, len(change), seed=seed
    )
    return GainHarm(
        rose=int(up.sum()),
        fell=int(down.sum()),
        stayed=int((~up & ~down).sum()),
        mean_rise=float(change[up].mean()) if up.any() else None,
        mean_fall=float(change[down].mean()) if down.any() else None,
        mean=means["mean"],
    )


def mean_look_coverage(
    look_coverages: Sequence[LookCoverage], *, seed: int = 0
) -> dict[str, Interval]:
    """Average look coverages over scenes.

    Args:
        look_coverages: one of each scene.
        seed: of the bootstrap over scenes.

    Returns:
        ``looked`` (share of the scenes that were looked at), ``regions`` and ``area``, means over
        all scenes; ``covered`` and ``look``, means over the scenes where something is ambiguous.
    """
    columns = np.array(
        [(one.regions, one.area, one.covered or 0.0, one.look) for one in look_coverages]
    )
    regions, area, covered, look = columns.reshape(-1, 4).T
    counting = np.array([one.covered is not None for one in look_coverages], dtype=np.float64)

    def values(counts: Floats) -> dict[str, float | None]:
        scenes, unclear = float(counts.sum()), float(counts @ counting)
        return {
            "looked": float(counts @ (regions > 0)) / scenes,
            "regions": float(counts @ regions) / scenes,
            "area": float(counts @ area) / scenes,
            "covered": float(counts @ (covered * counting)) / unclear if unclear else None,
            "look": float(counts @ (look * counting)) / unclear if unclear else None,
        }

    reasons = dict.fromkeys(("covered", "look"), "nothing is ambiguous")
    return bootstrap(values, len(look_coverages), seed=seed, reasons=reasons)
