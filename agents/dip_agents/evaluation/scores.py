"""From finished rollouts to every metric of an evaluation.

Each metric is a function of how often each scene counts, so that a bootstrap over scenes matches
boxes once; the rollouts of a scene are always resampled together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from dip_agents.evaluation.looks import LOOK_COUNTERS
from dip_env.formats.box_sets import Detections, Floats, Truth
from dip_env.metrics.protocols.coco import CocoScore, measure_coco
from dip_env.metrics.unscored import UnscoredScore, measure_unscored

COUNTERS = (
    "reward",
    "format",
    "look",
    "accuracy",
    "looks",
    "parse_failures",
    "truncated_turns",
    "failed_turns",
    "turns",
    "boxes",
    "unscored_boxes",
    "truth",
    "episodes",
    *LOOK_COUNTERS,
)
"""Per-scene counters: sums over the rollouts of a scene."""

Counters = Mapping[str, Floats]
"""Sums per scene, (S,) for each name in ``COUNTERS``."""

MATCHED = (
    "precision",
    "recall",
    "F1",
    "mean_iou",
    "JI",
    "AP_tied",
    "AP50_tied",
    "AP75_tied",
    "count_mae",
    "duplicates_per_answer",
)
"""Metrics of the answered boxes, see ``dip_env.metrics.unscored``; every rollout is an image."""

RANKED = ("AP", "AP50")
"""COCO's, only where every box of every answer carries a score."""

RATES: Mapping[str, tuple[str, str]] = {
    "reward": ("reward", "episodes"),
    "format": ("format", "episodes"),
    "look": ("look", "episodes"),
    "accuracy": ("accuracy", "episodes"),
    "look_coverage": ("covered", "ambiguous"),
    "look_coverage_random": ("covered_at_random", "ambiguous"),
    "look_coverage_oracle": ("covered_by_oracle", "ambiguous"),
    "look_area": ("area", "episodes"),
    "looks_per_episode": ("looks", "episodes"),
    "regions_per_episode": ("regions", "episodes"),
    "boxes_per_truth": ("boxes", "truth"),
    "parse_failures": ("parse_failures", "episodes"),
    "truncated_turns": ("truncated_turns", "episodes"),
    "failed_turns": ("failed_turns", "episodes"),
    "truncated_share": ("truncated_turns", "turns"),
}
"""Metrics that are the ratio of two counters (``parse_failures``: malformed turns per episode,
``truncated_turns``: those that ran into a token limit, ``truncated_share``: their share of all
turns, ``failed_turns``: those for which a server gave nothing that can be read). ``look_coverage``
and those of the reference looks beside it (``dip_agents.evaluation.looks``) are means over the
rollouts in whose scene something is ambiguous: every such scene counts the same, as in the look
term."""

_UNDEFINED = {
    "truth": "there was nobody to find",
    "ambiguous": "nothing is ambiguous, or no look is allowed",
    "episodes": "no episode was played",
    "turns": "no turn was played",
}
"""Why a rate is not defined, by the counter it is divided by."""

METRICS = (*MATCHED, *RANKED, *RATES)
"""Every metric of an evaluation, in the order of the table."""


@dataclass(frozen=True, eq=False)
class EvalScore:
    """The scored rollouts of S scenes.

    Args:
        counters: sums per scene.
        unscored: the matched boxes; image ``k * S + s`` is rollout k of scene s.
        coco: the ranked boxes, in the same order; None where a box has no score.
        truth: of the scenes.
        answers: of each rollout, in every scene.
    """

    counters: Counters
    unscored: UnscoredScore
    coco: CocoScore | None
    truth: Truth
    answers: tuple[Detections, ...]

    def values(self, counts: Floats | None = None) -> dict[str, float | None]:
        """Return the metrics.

        Args:
            counts: (S,) how often each scene counts, once each by default.

        Returns:
            A value for each name in ``METRICS``, None where one is not defined.
        """
        scenes = len(self.counters["episodes"])
        once = np.ones(scenes) if counts is None else counts
        every = np.tile(once, len(self.unscored.people) // max(scenes, 1))
        matched = self.unscored.values(every)
        ranked = self.coco.values(every) if self.coco else {}
        sums = {name: float(once @ column) for name, column in self.counters.items()}
        return {
            **{name: matched[name] for name in MATCHED},
            **{name: ranked.get(name) for name in RANKED},
            **{
                name: sums[over] / sums[under] if sums[under] > 0 else None
                for name, (over, under) in RATES.items()
            },
        }

    def reasons(self) -> dict[str, str]:
        """Return why a value is None, by the name of the metric."""
        boxes, bare = (int(self.counters[k].sum()) for k in ("boxes", "unscored_boxes"))
        why = {
            **dict.fromkeys(RANKED, f"{bare} of {boxes} boxes carry no score"),
            **{name: _UNDEFINED[under] for name, (_, under) in RATES.items()},
            **self.unscored.reasons(),
            **(self.coco.reasons() if self.coco else {}),
        }
        return {name: why[name] for name, value in self.values().items() if value is None}


def score_answers(
    counters: Sequence[Mapping[str, float]], truth: Truth, answers: Sequence[Detections]
) -> EvalScore:
    """Match all answers with the ground truth.

    Args:
        counters: sums of each scene, with every name of ``COUNTERS``.
        truth: of the scenes, in the order of the counters.
        answers: one entry for each rollout of a scene: its boxes in every scene.

    Returns:
        The score.
    """
    columns = {name: np.array([s[name] for s in counters], dtype=np.float64) for name in COUNTERS}
    every, boxes = _tiled(truth, len(answers)), _stacked(answers)
    bare = columns["unscored_boxes"].sum() > 0
    return EvalScore(
        counters=columns,
        unscored=measure_unscored(every, boxes),
        coco=None if bare else measure_coco(every, boxes, sizes=("all",)),
        truth=truth,
        answers=tuple(answers),
    )


def _tiled(truth: Truth, times: int) -> Truth:
    """Repeat all images, as often as each was answered."""
    per_image = np.tile(np.diff(truth.starts), times)
    return replace(
        truth,
        xywh=np.tile(truth.xywh, (times, 1)),
        starts=np.concatenate([[0], np.cumsum(per_image)]),
        category=np.tile(truth.category, times),
        image_ids=truth.image_ids * times,
        sizes=np.tile(truth.sizes, (times, 1)),
        ignore=np.tile(truth.ignore, times),
        visible_xywh=np.tile(truth.visible_xywh, (times, 1)),
        area=np.tile(truth.area, times),
    )


def _stacked(answers: Sequence[Detections]) -> Detections:
    """Concatenate answers to the same images."""
    per_image = np.concatenate([np.diff(boxes.starts) for boxes in answers])
    return Detections(
        xywh=np.concatenate([boxes.xywh for boxes in answers]),
        starts=np.concatenate([[0], np.cumsum(per_image)]),
        category=np.concatenate([boxes.category for boxes in answers]),
        scores=np.concatenate([boxes.scores for boxes in answers]),
    )
