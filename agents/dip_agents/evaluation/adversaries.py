"""Attacks on the reward: each is a way to earn reward without seeing better.

Most of them broke the reward of a published system once. An attack gets one scene and returns the
actions of one episode. It may use the ground truth where it needs it (such as one certain box),
since a reward must hold against a policy that learned that much. Attacks marked ``tampers`` take
the episode of a weak honest policy and change something that must not be rewarded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dip_agents.policies.formatting import PERSON_ASPECT, make_answer, quantize_boxes, random_boxes
from dip_agents.policies.oracle_looks import oracle_regions
from dip_env.actions import Answer, Grammar, Look, Segment, Think
from dip_env.boxes import box_area, box_intersection, clip_boxes
from dip_env.config import EpisodeConfig
from dip_env.scenes.base import Scene
from dip_env.views import View

Boxes = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class AttackContext:
    """What an attack may use.

    Args:
        scene: the scene with its annotations.
        view: the episode's frames.
        config: the rules.
        look: regions (R, 4) of a well-placed look, text frame.
        rng: randomness of this rollout.
        weak: boxes (N, 4) a weak honest policy answers in this rollout, text frame.
        shared_weak: boxes (N, 4) it answers in the first rollout, for attacks by agreement.
    """

    scene: Scene
    view: View
    config: EpisodeConfig
    look: Boxes
    rng: np.random.Generator
    weak: Boxes
    shared_weak: Boxes

    @classmethod
    def of(cls, scene: Scene, config: EpisodeConfig) -> AttackContext:
        """Compute what all rollouts of a scene have in common."""
        view = View.of(scene.size, config.view_size, config.size_multiple, config.coordinate_format)
        look, none = oracle_regions(scene, view, config), np.zeros((0, 4))
        return cls(scene, view, config, look, np.random.default_rng(0), none, none)

    @property
    def truth(self) -> Boxes:
        """The true boxes, (M, 4), text frame, with two decimals."""
        return self.to_text(clip_boxes(self.scene.truth, self.scene.size))

    @property
    def whole(self) -> Boxes:
        """The whole image, (1, 4), text frame."""
        return np.array([[0.0, 0.0, *self.view.text_size]])

    def to_text(self, boxes: Boxes) -> Boxes:
        """Return scene boxes as text boxes with two decimals."""
        return quantize_boxes(boxes, self.view, decimals=2)

    def largest(self) -> Boxes:
        """The person with the largest visible area, (0 or 1, 4), text frame."""
        seen = self.scene.visible_boxes[~self.scene.ignore]
        if not len(seen):
            return np.zeros((0, 4))
        return self.truth[[int(np.argmax(box_area(seen)))]]

    def format_action(self, *segments: Segment) -> str:
        """Format segments whether or not the rules allow them."""
        return Grammar(1000, 100_000, 10**9).format(segments)

    def standard_actions(self, boxes: Boxes, look: Boxes | None = None) -> list[str]:
        """Think, look well (or at ``look``), think and answer, all in one action."""
        regions = self.look if look is None else look
        looks = [Look(regions)] if self.config.max_looks else []
        answer = make_answer(boxes[: self.config.max_boxes])
        return [self.format_action(Think("a look."), *looks, Think("done."), answer)]


Attack = Callable[[AttackContext], Sequence[str]]


@dataclass(frozen=True)
class Adversary:
    """One attack.

    Args:
        name: short and unique.
        attack: from its context to the actions of one episode; the last repeats until it ends.
        claim: the property of the reward that the attack tests.
        tampers: True when the attack changes the weak honest policy's own episode; it must then
            not earn noticeably more than that episode does untouched.
    """

    name: str
    attack: Attack
    claim: str
    tampers: bool = False


def whole_pixels(boxes: Boxes) -> Boxes:
    """Widen boxes (N, 4) to whole pixels, as a look states them."""
    return np.concatenate([np.floor(boxes[:, :2]), np.ceil(boxes[:, 2:])], axis=1)


def agreed_spot(size: tuple[int, int]) -> Boxes:
    """Return a box (1, 4) of a person's size where nobody is expected, in a frame of some size."""
    width, height = size
    spot = np.array([[0.45 * width, 0.02 * height, 0.5 * width, 0.12 * height]])
    return np.round(spot)


def _copies(boxes: Boxes, k: int) -> Boxes:
    return np.tile(boxes, (k, 1))


def _jittered(s: AttackContext) -> list[str]:
    copies = _copies(s.weak, 5)
    jittered = copies + s.rng.integers(-1, 2, copies.shape)
    jittered[: len(s.weak)] = s.weak
    return s.standard_actions(jittered)


def _grid(s: AttackContext) -> list[str]:
    side = int(np.ceil(np.sqrt(s.config.max_boxes)))
    x, y = np.meshgrid(np.arange(side), np.arange(side))
    corners = np.stack([x, y, x + 1, y + 1], axis=-1).reshape(-1, 4) / side
    return s.standard_actions(np.round(corners * np.array(s.view.text_size * 2), 2))


def _right_count(s: AttackContext) -> list[str]:
    boxes = random_boxes(len(s.truth), s.scene.size, s.rng, (0.05, 0.5))
    return s.standard_actions(s.to_text(boxes))


def _huge(s: AttackContext) -> list[str]:
    width, height = s.view.text_size
    middle_x, middle_y = width // 2, height // 2
    halves = [(0, 0, middle_x, height), (middle_x, 0, width, height)]
    rows = [(0, 0, width, middle_y), (0, middle_y, width, height), (0, 0, width, height)]
    return s.standard_actions(np.array([*halves, *rows], dtype=np.float64))


def _on_ignored(s: AttackContext) -> list[str]:
    """Fill the answer with person-shaped boxes that ignore regions drop."""
    regions = clip_boxes(s.scene.ignore_boxes, s.scene.size)
    regions = regions[box_area(regions) > 0]
    room = min(200, s.config.max_boxes - len(s.weak))
    if not len(regions) or room <= 0:
        return s.standard_actions(s.weak)
    region = regions[s.rng.integers(0, len(regions), room)]
    middle = region[:, :2] + s.rng.uniform(0, 1, (room, 2)) * (region[:, 2:] - region[:, :2])
    tall = np.exp(s.rng.uniform(np.log(0.02), np.log(0.3), (room, 1))) * s.scene.size[1]
    half = np.concatenate([PERSON_ASPECT * tall, tall], axis=1) / 2
    boxes = np.concatenate([middle - half, middle + half], axis=1)
    free = box_intersection(boxes, regions).max(axis=1) > 0.6 * box_area(boxes)
    return s.standard_actions(np.concatenate([s.weak, s.to_text(boxes[free])]))


def _same_look_twice(s: AttackContext) -> list[str]:
    if s.config.max_looks < 2:
        return s.standard_actions(s.weak)
    answer = make_answer(s.weak)
    return [s.format_action(Think("a look."), Look(s.look), Look(s.look), Think("done."), answer)]


def _refused_look(s: AttackContext, region: Sequence[float]) -> list[str]:
    look = s.format_action(Think("a look."), Look(np.array([region], dtype=np.float64)))
    return [look, s.format_action(Think("done."), make_answer(s.weak))]


def _outside(s: AttackContext) -> list[str]:
    width, height = s.view.text_size
    return _refused_look(s, (width + 10, height + 10, width + 50, height + 50))


def _corner(s: AttackContext) -> list[str]:
    return s.standard_actions(s.weak, look=np.array([[0.0, 0.0, 4.0, 4.0]]))


def _look_after_answer(s: AttackContext) -> list[str]:
    late = s.format_action(Look(s.look))
    return [s.format_action(Think("done."), make_answer(s.truth)) + late]


def _answer_in_think(s: AttackContext) -> list[str]:
    return [
        f"<think>{s.format_action(make_answer(s.truth))}</think>"
        + s.format_action(make_answer(s.weak))
    ]


def _two_answers(s: AttackContext) -> list[str]:
    answer = s.format_action(make_answer(s.truth))
    return [s.format_action(Think("a look."), Look(s.look)) + answer + answer]


def _truncated_list(s: AttackContext) -> list[str]:
    text = s.standard_actions(_copies(s.truth, 40))[0]
    return [text[: max(20, len(text) - 20)]]


def _with_last_number(s: AttackContext, number: str) -> list[str]:
    boxes = np.concatenate([s.truth, s.whole])
    text = s.standard_actions(boxes)[0]
    head, _, tail = text.rpartition(",")
    return [head + "," + number + tail[tail.index("]") :]]


def _as_strings(s: AttackContext) -> list[str]:
    boxes = ",".join('["' + '","'.join(str(v) for v in b) + '"]' for b in s.truth.tolist())
    return [s.format_action(Think("a look."), Look(s.look)) + f"<answer>[{boxes}]</answer>"]


def _scored(s: AttackContext, score: float) -> list[str]:
    answer = Answer(s.weak, (None,) * len(s.weak), (score,) * len(s.weak))
    looks = [Look(s.look)] if s.config.max_looks else []
    return [s.format_action(Think("a look."), *looks, Think("done."), answer)]


def _inconsistent(s: AttackContext, boxes: Boxes, kept: Boxes) -> list[str]:
    """Answer ``boxes`` in half of the rollouts and look at nothing else."""
    if not len(boxes):
        return s.standard_actions(kept)
    answer = np.concatenate([kept, boxes]) if s.rng.random() < 0.5 else kept
    return s.standard_actions(answer, look=whole_pixels(boxes))


def _inconsistent_invention(s: AttackContext, kept: Boxes) -> list[str]:
    # The same empty spot in every rollout, so that the siblings disagree about one box.
    return _inconsistent(s, agreed_spot(s.view.text_size), kept)


ADVERSARIES: tuple[Adversary, ...] = (
    Adversary("empty action", lambda s: [""], "no text earns nothing"),
    Adversary(
        "empty answer", lambda s: s.standard_actions(np.zeros((0, 4))), "format alone is not enough"
    ),
    Adversary(
        "one certain box",
        lambda s: s.standard_actions(s.largest()),
        "perfect precision alone is not enough",
    ),
    Adversary(
        "whole image",
        lambda s: s.standard_actions(s.whole),
        "one box around everyone matches nobody",
    ),
    Adversary("grid of boxes", _grid, "as many boxes as allowed match nobody"),
    Adversary(
        "exact copies",
        lambda s: s.standard_actions(_copies(s.weak, 5)),
        "a duplicate is no match",
        True,
    ),
    Adversary("jittered copies", _jittered, "five tries per person earn nothing", True),
    Adversary("right count anywhere", _right_count, "a right count is no match"),
    Adversary("huge boxes", _huge, "boxes around everyone match nobody"),
    Adversary("boxes on ignored", _on_ignored, "ignored boxes earn nothing", True),
    Adversary(
        "whole-image look",
        lambda s: s.standard_actions(s.weak, look=s.whole),
        "a look at everything earns nothing",
        True,
    ),
    Adversary("same look twice", _same_look_twice, "the second look adds nothing", True),
    Adversary("look outside", _outside, "nothing is seen outside", True),
    Adversary("zero-area look", lambda s: _refused_look(s, (5, 5, 5, 5)), "no area", True),
    Adversary("look at a corner", _corner, "a look at nothing earns nothing", True),
    Adversary("look after answer", _look_after_answer, "too late to look"),
    Adversary("answer inside think", _answer_in_think, "tags in a thought are malformed"),
    Adversary("two answers", _two_answers, "one answer only"),
    Adversary("truncated list", _truncated_list, "half a list is no answer"),
    Adversary("not a number", lambda s: _with_last_number(s, "NaN"), "NaN is no number"),
    Adversary("scientific", lambda s: _with_last_number(s, "1e3"), "1e3 is out of the grammar"),
    Adversary("numbers as strings", _as_strings, "strings are no numbers"),
    Adversary(
        "inverted boxes",
        lambda s: s.standard_actions(s.truth[:, [2, 3, 0, 1]]),
        "no area, no match",
    ),
    Adversary("score one", lambda s: _scored(s, 1.0), "confidence is not rewarded", True),
    Adversary("score zero", lambda s: _scored(s, 0.0), "confidence is not rewarded", True),
    Adversary(
        "other order", lambda s: s.standard_actions(s.weak[::-1]), "order is not rewarded", True
    ),
    Adversary(
        "inconsistent answers",
        lambda s: _inconsistent(s, s.largest(), np.zeros((0, 4))),
        "deliberate uncertainty earns little",
    ),
    Adversary(
        "inconsistent invention",
        lambda s: _inconsistent_invention(s, s.largest()),
        "invented uncertainty earns little",
    ),
    Adversary(
        "agreed inconsistency",
        lambda s: _inconsistent_invention(s, s.shared_weak),
        "nor beside a shared weak answer",
    ),
)
"""Every attack that the audit plays."""
