"""Groups that agree on one answer and differ on purpose: what does the disagreement earn?

All members of a group give the same answer of a known quality. In a trick some of them, by parity
or by a coin, change it in one agreed way, and all look where it was changed. The look term rewards
looks at disagreement, so this is the way to exploit it. The same answers without the trick, and
with the oracle's look, are the baseline.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dip_agents.evaluation.adversaries import (
    AttackContext,
    Boxes,
    agreed_spot,
    whole_pixels,
)
from dip_agents.policies.oracle_looks import ambiguous_regions
from dip_env.boxes import box_area, box_iou
from dip_env.rewards import Outcome, score_group

BASES = (0.3, 0.4, 0.42, 0.45, 0.5)
"""F1 of the shared answers."""
LEAST_IOU = 0.55
"""IoU that a box may be moved to and still match."""


@dataclass(frozen=True, eq=False)
class SharedAnswer:
    """What the members of a group agree on, text frame.

    Args:
        boxes: (N, 4) of the answer.
        right: (N,) which of them match a person.
        size: (width, height) of the frame.
        max_regions: most regions of a look.
    """

    boxes: Boxes
    right: NDArray[np.bool_]
    size: tuple[int, int]
    max_regions: int


@dataclass(frozen=True, eq=False)
class Trick:
    """One way to differ.

    Args:
        answer: (N', 4) of those who differ.
        look: (R, 4) where all look.
    """

    answer: Boxes
    look: Boxes


def right_boxes(boxes: Boxes, truth: Boxes) -> NDArray[np.bool_]:
    """Return which boxes (N, 4) lie on a true box (M, 4), at IoU .5."""
    if not len(boxes) or not len(truth):
        return np.zeros(len(boxes), dtype=bool)
    found: NDArray[np.bool_] = box_iou(boxes, truth).max(axis=1) >= 0.5
    return found


def _around(shared: SharedAnswer, boxes: Boxes) -> Boxes:
    """Look at boxes with as many regions as allowed: one each, or where most of them are."""
    if len(boxes) > shared.max_regions:
        boxes = ambiguous_regions(boxes, np.ones(len(boxes)), shared.size, shared.max_regions)
    return whole_pixels(boxes)


def _stray(shared: SharedAnswer) -> Trick:
    """Add one box of a pixel in a corner."""
    spot = np.array([[0.0, 0.0, 1.0, 1.0]])
    return Trick(np.concatenate([shared.boxes, spot]), spot)


def _invention(shared: SharedAnswer) -> Trick:
    """Add one box of a person's size where nobody is expected."""
    spot = agreed_spot(shared.size)
    return Trick(np.concatenate([shared.boxes, spot]), spot)


def _first_right(shared: SharedAnswer, count: int | None) -> NDArray[np.intp]:
    """Return the indices of the smallest right boxes: looks at them take the least area."""
    right = np.flatnonzero(shared.right)
    return right[np.argsort(box_area(shared.boxes[right]), kind="stable")][:count]


def _nudged(shared: SharedAnswer) -> Trick:
    """Move one edge of one right box by a hundredth of a pixel."""
    chosen, answer = _first_right(shared, 1), shared.boxes.copy()
    answer[chosen, 2] -= 0.01
    return Trick(answer, _around(shared, shared.boxes[chosen]))


def _dropped(shared: SharedAnswer, count: int | None) -> Trick:
    """Leave out right boxes."""
    chosen = _first_right(shared, count)
    return Trick(np.delete(shared.boxes, chosen, axis=0), _around(shared, shared.boxes[chosen]))


def _shrunk(shared: SharedAnswer, count: int | None) -> Trick:
    """Shrink right boxes as far as they still match, which costs no accuracy at IoU .5."""
    chosen, answer = _first_right(shared, count), shared.boxes.copy()
    height = answer[chosen, 3] - answer[chosen, 1]
    answer[chosen, 3] = np.round(answer[chosen, 1] + LEAST_IOU * height, 2)
    return Trick(answer, _around(shared, shared.boxes[chosen]))


TRICKS: Mapping[str, Callable[[SharedAnswer], Trick]] = {
    "one-pixel stray": _stray,
    "agreed invention": _invention,
    "hundredth of a pixel": _nudged,
    "one box dropped": lambda shared: _dropped(shared, 1),
    "three boxes dropped": lambda shared: _dropped(shared, 3),
    "all right boxes dropped": lambda shared: _dropped(shared, None),
    "three boxes shrunk": lambda shared: _shrunk(shared, 3),
    "all right boxes shrunk": lambda shared: _shrunk(shared, None),
}
"""What those who differ do, by name."""


CHOICES: Mapping[str, Callable[[int, np.random.Generator], NDArray[np.bool_]]] = {
    "parity": lambda size, rng: np.arange(size) % 2 == 1,
    "coin": lambda size, rng: rng.random(size) < 0.5,
}
"""Who differs, by name: group size and randomness -> members (G,)."""


@dataclass(frozen=True)
class TrickReward:
    """What a trick earned beside the same answers without it.

    Args:
        trick: its name.
        choice: who differed.
        base: F1 of the shared answers.
        reward: mean reward of the members.
        baseline: their mean reward without the trick.
    """

    trick: str
    choice: str
    base: float
    reward: float
    baseline: float

    @property
    def name(self) -> str:
        """The whole arrangement in words."""
        return f"{self.trick} by {self.choice} at F1 {self.base:g}"


def play_tricks(
    context: AttackContext,
    base: float,
    shared: Boxes,
    group_size: int,
    play: Callable[[Sequence[str]], Outcome],
) -> list[TrickReward]:
    """Play every trick on one scene.

    Args:
        context: of the scene; its randomness tosses the coins.
        base: F1 of the policy that made the answer.
        shared: boxes (N, 4) that all members answer, text frame.
        group_size: members.
        play: actions of an episode -> its outcome.

    Returns:
        What each trick earned with each choice of who differs.
    """
    config, scene = context.config, context.scene
    frame = SharedAnswer(
        shared, right_boxes(shared, context.truth), context.view.text_size, config.max_regions
    )

    def mean_reward(outcomes: Sequence[Outcome]) -> float:
        scores = score_group(outcomes, scene, config)
        return float(np.mean([s.terms.total(config.reward.weights) for s in scores]))

    untouched = mean_reward([play(context.standard_actions(shared))] * group_size)
    found = []
    for name, trick in TRICKS.items():
        made = trick(frame)
        look = made.look if len(made.look) else None
        same = play(context.standard_actions(shared, look))
        other = play(context.standard_actions(made.answer, look))
        for choice, differ in CHOICES.items():
            members = [other if d else same for d in differ(group_size, context.rng)]
            found.append(TrickReward(name, choice, base, mean_reward(members), untouched))
    return found
