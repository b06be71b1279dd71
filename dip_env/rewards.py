"""The three rewards, one pure function per term, and the scoring of a whole group.

The idea (format, variance-guided look, weighted precision and recall) is that of DIP-R1
(arXiv 2505.23179); its formulas were not available, so every definition here is ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dip_env.actions import Answer, Look, Segment, Think
from dip_env.ambiguity import (
    AmbiguousItems,
    SiblingTable,
    prior_ambiguity,
    sibling_ambiguity,
    sibling_table,
)
from dip_env.boxes import Boxes, BoxesLike, Union, as_boxes, clip_boxes
from dip_env.config import AccuracyKind, EpisodeConfig, IouRule, RewardConfig, iou_thresholds
from dip_env.errors import ConfigError
from dip_env.matching import Matches, Overlaps, overlaps
from dip_env.scenes.base import Scene
from dip_env.views import View

MIN_GROUP = 3
"""Fewest rollouts whose siblings can disagree; smaller groups use the prior."""
AMBIGUOUS = 0.25
"""Weight from which a person counts as ambiguous: one of seven siblings that differs is enough."""
LookReference = Literal["siblings", "prior"]


@dataclass(frozen=True)
class RewardTerms:
    """The terms of one rollout's reward, each in [0, 1] and unweighted.

    Args:
        format: whether it thought, looked and answered in this order.
        look: how well its looks cover the ambiguous items.
        accuracy: precision and recall of its answer.
    """

    format: float
    look: float
    accuracy: float

    def as_dict(self) -> dict[str, float]:
        """Return every term by name."""
        # dataclasses.asdict copies deeply, which costs as much as a tenth of the scoring.
        return {"format": self.format, "look": self.look, "accuracy": self.accuracy}

    def total(self, weights: Mapping[str, float]) -> float:
        """Return the weighted sum.

        Args:
            weights: weight of each term by name, such as ``RewardConfig.weights``.

        Returns:
            A number from 0 to the sum of the weights.
        """
        return float(sum(weights[name] * value for name, value in self.as_dict().items()))


@dataclass(frozen=True, eq=False)
class Outcome:
    """The part of an episode that its reward depends on.

    Args:
        answer: (N, 4) xyxy boxes of the answer, scene frame; empty without an answer.
        looks: (R, 4) xyxy regions that were requested and could be shown, scene frame.
        segments_per_turn: the parsed segments of each turn; None for a malformed or refused one.
        answered: False when the episode ended without an answer; it is scored with an empty one.
    """

    answer: Boxes
    looks: Boxes
    segments_per_turn: tuple[tuple[Segment, ...] | None, ...]
    answered: bool


@dataclass(frozen=True)
class LookStats:
    """What there was to look at for one rollout, and what its looks covered of it.

    Args:
        ambiguous_people: people that weigh ``AMBIGUOUS`` or more.
        invented: share of all ambiguity on boxes that siblings invent, in [0, 1].
        covered: share of all ambiguity inside the looks, in [0, 1]; None where nothing is
            ambiguous.
        area: share of the scene inside the looks, in [0, 1].
    """

    ambiguous_people: int
    invented: float
    covered: float | None
    area: float


@dataclass(frozen=True, eq=False)
class Score:
    """The reward terms of one rollout, and what is behind them.

    Args:
        terms: the unweighted terms.
        looks: what its looks covered.
        ambiguous: the items that they could cover.
        matches: the matching at the first IoU threshold; its indices refer to the outcome's answer
            and to ``scene.truth``.
    """

    terms: RewardTerms
    looks: LookStats
    ambiguous: AmbiguousItems
    matches: Matches


def format_reward(
    segments_per_turn: Sequence[Sequence[Segment] | None],
    graded: bool = False,
    may_look: bool = True,
) -> float:
    """Reward an episode that thinks, then looks, then answers once (source: ours).

    Where no look may be taken, thinking and answering earn the whole term.

    Args:
        segments_per_turn: the parsed segments of each turn; None for a malformed turn.
        graded: credit a third for each of think, look and answer that comes in this order; half
            for each of think and answer where no look may be taken.
        may_look: False where the rules allow no look; one is then neither required nor credited.

    Returns:
        1 or 0; a multiple of one third, or of one half without looks, when graded. A malformed
        turn, or anything after the answer, earns 0 in both forms. A think of white space alone does
        not count.
    """
    segments: list[Segment] = []
    for turn in segments_per_turn:
        if turn is None:
            return 0.0
        segments.extend(turn)
    if any(isinstance(segment, Answer) for segment in segments[:-1]):
        return 0.0
    thinks = [i for i, s in enumerate(segments) if isinstance(s, Think) and s.text.strip()]
    looks = [i for i, s in enumerate(segments) if may_look and isinstance(s, Look)]
    steps = bool(thinks) + bool(looks)
    if thinks and looks and thinks[0] > looks[-1]:
        steps -= 1
    steps += bool(segments) and isinstance(segments[-1], Answer)
    wanted = 3 if may_look else 2
    return steps / wanted if graded else float(steps == wanted)


def accuracy_reward(
    pred: BoxesLike,
    truth: BoxesLike,
    ignore_boxes: BoxesLike = (),
    kind: AccuracyKind = "f_beta",
    beta: float = 1.0,
    precision_weight: float = 0.5,
    iou: IouRule = "0.5",
) -> float:
    """Reward precision P and recall R of an answer (source: ours).

    ``f_beta``: ``(1 + b^2) P R / (b^2 P + R)``; ``weighted_sum``: ``w P + (1 - w) R``. Ignored
    instances are never misses, predictions dropped by an ignore region never false positives, and
    exact repeats of a box never match.

    Args:
        pred: (N, 4) xyxy.
        truth: (M, 4) xyxy, in the frame of ``pred``.
        ignore_boxes: (K, 4) xyxy, in the frame of ``pred``.
        kind: how P and R are combined.
        beta: recall counts beta times as much as precision in ``f_beta``.
        precision_weight: share of precision in ``weighted_sum``.
        iou: match at one threshold, such as "0.5", or take the mean over .5:.05:.95.

    Returns:
        A number in [0, 1]. P is 0 without predictions; with an empty ground truth the result is 1
        without false positives, else 0.
    """
    overlap = overlaps([pred], truth, ignore_boxes)[0]
    return _accuracy(_match_all(overlap, iou), kind, beta, precision_weight)


def look_reward(
    items: AmbiguousItems, looks: BoxesLike, scene_size: tuple[int, int], floor: float = 1.0
) -> float:
    """Reward looks that cover the ambiguous items and little else (source: ours).

    ``min(1, A / s) * max(0, sum_i a_i covered_i / A - area(L) / area(scene))`` with A = sum_i a_i,
    the union L of the looks and the floor s: Youden's informedness of the look against ambiguity,
    times how much ambiguity there is. Without the first factor, siblings that disagree about one
    pixel only would earn the whole term by looking there; with it, what is earned goes to 0 with
    the disagreement.

    Args:
        items: boxes with weights a_i, scene frame.
        looks: (R, 4) xyxy, scene frame; what lies outside the scene does not count.
        scene_size: (width, height) of the scene in pixels.
        floor: s, fully ambiguous people, above 0; see ``look_floor``.

    Returns:
        A number in [0, 1]; 0 without looks, for the whole image, and when nothing is ambiguous.

    Raises:
        ConfigError: for a floor that is not above 0.
    """
    if not floor > 0:
        raise ConfigError(f"floor: expected a number above 0, got {floor!r}")
    return _look_term(items, look_statistics(items, looks, scene_size), floor)


def look_gains(
    items: AmbiguousItems, looks: BoxesLike, scene_size: tuple[int, int], floor: float = 1.0
) -> tuple[float, ...]:
    """Return what each region adds to the look term beside the regions before it (source: ours).

    Args:
        items: as in ``look_reward``, and so are the others.
        looks: (R, 4) xyxy, scene frame, in the order in which they were requested.
        scene_size: (width, height) in pixels.
        floor: s.

    Returns:
        R numbers in [-1, 1] whose sum is the look term; 0 for a region inside earlier ones.
    """
    regions = as_boxes(looks)
    terms = (look_reward(items, regions[:k], scene_size, floor) for k in range(len(regions) + 1))
    return tuple(after - before for before, after in pairwise(terms))


def look_statistics(
    items: AmbiguousItems,
    looks: BoxesLike,
    scene_size: tuple[int, int],
    people: int | None = None,
) -> LookStats:
    """Measure what looks cover.

    Args:
        items: boxes with weights, scene frame.
        looks: (R, 4) xyxy, scene frame; what lies outside the scene does not count.
        scene_size: (width, height) of the scene in pixels.
        people: how many of the items, from the first on, are people; all by default.

    Returns:
        The statistics.
    """
    known, total = items.weights[:people], float(items.weights.sum())
    regions = clip_boxes(looks, scene_size)
    covered = area = 0.0
    if len(regions):
        union = Union.of(regions)
        area = union.area / (scene_size[0] * scene_size[1])
        covered = float((items.weights * union.covered_share(items.boxes)).sum())
    return LookStats(
        ambiguous_people=int((known >= AMBIGUOUS).sum()),
        invented=1.0 - float(known.sum()) / total if total > 0 else 0.0,
        covered=min(covered / total, 1.0) if total > 0 else None,
        area=area,
    )


def _look_term(items: AmbiguousItems, looks: LookStats, floor: float) -> float:
    """Return the look term of what looks cover."""
    if looks.covered is None:
        return 0.0
    return min(float(items.weights.sum()) / floor, 1.0) * max(looks.covered - looks.area, 0.0)


def look_floor(rule: RewardConfig, people: int) -> float:
    """Return how much ambiguity there must be for a look to earn the whole look term.

    Args:
        rule: of the reward.
        people: non-ignored instances of the scene.

    Returns:
        Fully ambiguous people, at least 1.
    """
    return max(1.0, rule.look_floor * people)


def look_reference(config: EpisodeConfig, group_size: int) -> LookReference:
    """Return what the look term is measured against.

    Args:
        config: the rules of the episode.
        group_size: rollouts of one scene that are scored together.

    Returns:
        ``siblings`` where the rules name them and there are enough to disagree, else ``prior``.
    """
    wanted = config.reward.ambiguity == "siblings" and group_size >= MIN_GROUP
    return "siblings" if wanted else "prior"


def score_group(
    outcomes: Sequence[Outcome],
    scene: Scene,
    config: EpisodeConfig,
    siblings: SiblingTable | None = None,
) -> list[Score]:
    """Score the rollouts of one scene.

    With three rollouts or more, ambiguity is where the siblings of a rollout disagree; with fewer,
    or with ``config.reward.ambiguity`` "annotation", it is the prior from the annotation. Ground
    truth, ignore regions and answers are clipped to the scene first: amodal boxes may run outside,
    and a predicted box that lies outside altogether is a false positive.

    Where not all others are ``siblings``, each rollout needs two of them, or all get the prior.

    Under rules without looks (``max_looks`` 0) the look term is 0 whatever a policy does, so its
    weight cannot be earned: compare conditions with and without looks by accuracy or F1, not by
    reward.

    Args:
        outcomes: one per rollout.
        scene: the scene they share.
        config: the rules of the episode.
        siblings: (G, G), whose answers the look term of each rollout is measured on, see
            ``sibling_table``.

    Returns:
        One score per rollout, in order.

    Raises:
        ValueError: for a table of siblings of another shape.
    """
    rule = config.reward
    truth = clip_boxes(scene.truth, scene.size)
    ignore_boxes = clip_boxes(scene.ignore_boxes, scene.size)
    answers = [clip_boxes(outcome.answer, scene.size) for outcome in outcomes]
    matches = [_match_all(o, rule.iou) for o in overlaps(answers, truth, ignore_boxes)]
    table = sibling_table(len(outcomes), siblings)
    if look_reference(config, 1 + int(table.sum(axis=1).min(initial=len(outcomes)))) == "siblings":
        items = sibling_ambiguity(
            answers,
            truth,
            ignore_boxes,
            iou_thresholds(rule.iou),
            matches,
            rule.invented_weight,
            table,
        )
    else:
        items = [_prior(scene, truth, config)] * len(outcomes)
    floor = look_floor(rule, len(truth))
    scores = []
    for outcome, found, ambiguous in zip(outcomes, matches, items, strict=True):
        looks = look_statistics(ambiguous, outcome.looks, scene.size, len(truth))
        terms = RewardTerms(
            format=format_reward(
                outcome.segments_per_turn, rule.graded_format, may_look=config.max_looks > 0
            ),
            look=_look_term(ambiguous, looks, floor),
            accuracy=_accuracy(found, rule.accuracy, rule.beta, rule.precision_weight),
        )
        scores.append(Score(terms, looks, ambiguous, found[0]))
    return scores


def _match_all(overlap: Overlaps, rule: IouRule) -> list[Matches]:
    """Return the matches at every threshold of an IoU rule."""
    return [overlap.match(threshold) for threshold in iou_thresholds(rule)]


def _accuracy(
    matches: Sequence[Matches], kind: AccuracyKind, beta: float, precision_weight: float
) -> float:
    """Return the mean accuracy over matches at several thresholds."""
    values = []
    for match in matches:
        found = len(match.pred)
        predicted = found + len(match.unmatched_pred)
        true = found + len(match.unmatched_truth)
        if true == 0:
            values.append(float(predicted == 0))
        elif kind == "f_beta":
            # (1 + b^2) P R / (b^2 P + R) with P = found / predicted and R = found / true.
            values.append((1 + beta**2) * found / (beta**2 * true + predicted))
        else:
            precision = found / max(predicted, 1)
            values.append(precision_weight * precision + (1 - precision_weight) * found / true)
    # Rounding may carry a perfect answer past 1.
    return min(1.0, sum(values) / len(values))


def _prior(scene: Scene, truth: NDArray[np.float64], config: EpisodeConfig) -> AmbiguousItems:
    """Return a scene's ambiguity without siblings; ``truth`` is clipped to the scene."""
    view = View.of(scene.size, config.view_size, config.size_multiple, config.coordinate_format)
    shown = view.scene_to_view(truth)
    return prior_ambiguity(truth, scene.visible_share[~scene.ignore], shown[:, 3] - shown[:, 1])
