"""The oracle: answers from the ground truth with adjustable mistakes; makes demonstrations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dip_agents.policies.base import Completion
from dip_agents.policies.formatting import (
    make_answer,
    may_look,
    quantize_boxes,
    random_boxes,
    reading_order,
)
from dip_agents.policies.oracle_looks import AmbiguousRegions, LookStrategy, scene_ambiguity
from dip_env.actions import Grammar, Look, Segment, Think
from dip_env.boxes import box_area, box_intersection, box_iou, clip_boxes
from dip_env.config import EpisodeConfig
from dip_env.episode import Observation
from dip_env.errors import ConfigError
from dip_env.matching import IGNORE_SHARE
from dip_env.prompts import plural
from dip_env.scenes.base import Scene, SceneSource
from dip_env.views import Crop, View

MissMode = Literal["even", "hard"]

MIN_SHARE_IN_CROP = 0.4
"""Share of a person's box that must lie in a crop to count as shown there."""

UNCLEAR = 0.5
"""Ambiguity from which the oracle calls a person unclear in its thoughts."""


@dataclass(frozen=True)
class OracleConfig:
    """The mistakes of an oracle and where it looks; by default it makes none."""

    miss_rate: float = 0.0
    """Mean probability that a person is left out, in [0, 1]."""
    misses: MissMode = "even"
    """Which people are left out, see :func:`miss_chances`."""
    jitter: float = 0.0
    """Standard deviation of each edge as a share of the box's side, at least 0."""
    false_positive_rate: float = 0.0
    """Expected number of invented people per true one, at least 0; they stand outside ignore
    regions, where no box counts."""
    decimals: int = 0
    """Digits after the decimal point of printed numbers."""
    look: LookStrategy = AmbiguousRegions()  # noqa: RUF009 (frozen, without fields)
    """Where it looks on the first turn, if at all."""
    min_visible_height: float = 0.0
    """People are left out who appear less tall than this, in pixels, in the overview and in every
    crop so far; with 0 even people whom no image shows are answered."""
    overview_scale: float = 1.0
    """See ``shown_heights``, in (0, 1]."""

    def __post_init__(self) -> None:
        """Check every value once.

        Raises:
            ConfigError: for a value out of range; the message names the field.
        """
        if not 0 <= self.miss_rate <= 1:
            raise ConfigError(f"miss_rate: expected a number in [0, 1], got {self.miss_rate!r}")
        for name in ("jitter", "false_positive_rate", "min_visible_height"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name}: expected at least 0, got {getattr(self, name)!r}")
        if self.misses not in get_args(MissMode):
            raise ConfigError(f"misses: expected even or hard, got {self.misses!r}")
        if not 0 <= self.decimals <= 2:
            raise ConfigError(f"decimals: expected 0, 1 or 2, got {self.decimals!r}")
        if not isinstance(self.look, LookStrategy):
            raise ConfigError(f"look: expected a look strategy, got {self.look!r}")
        if not 0 < self.overview_scale <= 1:
            raise ConfigError(
                f"overview_scale: expected a number in (0, 1], got {self.overview_scale!r}"
            )


def miss_chances(scene: Scene, miss_rate: float, misses: MissMode) -> NDArray[np.float64]:
    """Return the probability that each non-ignored person is left out.

    Args:
        scene: the scene with its annotations.
        miss_rate: their mean, [0, 1].
        misses: ``even``: the same for all; ``hard``: falls linearly from the person with the
            least visible height to the one with the most, as far as [0, 1] allows.

    Returns:
        (N,) in [0, 1], mean ``miss_rate``.
    """
    truth, share = scene.truth, scene.visible_share[~scene.ignore]
    even = np.full(len(truth), miss_rate)
    if misses == "even" or len(truth) < 2:
        return even
    rank = np.argsort(np.argsort((truth[:, 3] - truth[:, 1]) * share, kind="stable"))
    return even + min(miss_rate, 1 - miss_rate) * (1 - 2 * rank / (len(truth) - 1))


def shown_in(boxes: NDArray[np.float64], crop: Crop) -> NDArray[np.bool_]:
    """Tell which boxes count as shown by a crop.

    Args:
        boxes: (N, 4) xyxy, scene frame.
        crop: what a look has shown.

    Returns:
        (N,) True where the crop holds at least ``MIN_SHARE_IN_CROP`` of the box.
    """
    inside = box_intersection(crop.region[None], boxes)[0]
    return np.asarray(inside >= MIN_SHARE_IN_CROP * np.maximum(box_area(boxes), 1e-9))


def shown_heights(
    boxes: NDArray[np.float64], view: View, crops: Sequence[Crop], overview_scale: float = 1.0
) -> NDArray[np.float64]:
    """Return how tall people appear in the picture that shows them best.

    Args:
        boxes: (N, 4) xyxy, scene frame.
        view: the episode's frames.
        crops: what the looks have shown.
        overview_scale: below 1 where the overview shows less than its pixels could: it counts as
            if it were reduced so much.

    Returns:
        (N,) pixels of the overview, or of a crop that shows them.
    """
    in_view = view.scene_to_view(boxes)
    height = in_view[:, 3] - in_view[:, 1]
    best = overview_scale * height
    for crop in crops:
        seen = shown_in(boxes, crop)
        best = np.maximum(best, np.where(seen, height * crop.magnification, 0.0))
    return best


class OraclePolicy:
    """Looks at what is ambiguous, then answers the ground truth with known error rates.

    Without mistakes it answers every non-ignored person as exactly as the printed numbers allow.
    Where an episode has one turn only, look and answer share the one action.

    Args:
        source: the scenes that are played; ``observation.scene_index`` picks the ground truth.
        rules: of the episodes.
        config: mistakes and looks.
    """

    def __init__(
        self, source: SceneSource, rules: EpisodeConfig, config: OracleConfig | None = None
    ) -> None:
        """Store the settings."""
        self.source = source
        self.rules = rules
        self.config = config or OracleConfig()
        self.grammar = Grammar(rules.max_regions, rules.max_boxes)
        # Drawing a scene can cost far more than playing it, and every turn needs the scene again.
        self._scene = lru_cache(maxsize=1024)(self._annotated)

    def act(self, observations: Sequence[Observation], seeds: Sequence[int]) -> list[Completion]:
        """Look on the first turn if there is a budget for it, answer on the next.

        Args:
            observations: what each unfinished episode shows now; each carries the index of its
                scene.
            seeds: one seed for each observation; mistakes depend on it and on nothing else.

        Returns:
            One completion for each observation.

        Raises:
            ConfigError: when an observation has no scene index.
        """
        return [
            Completion(self.grammar.format(self.segments(o, np.random.default_rng(s))))
            for o, s in zip(observations, seeds, strict=True)
        ]

    def segments(self, observation: Observation, rng: np.random.Generator) -> tuple[Segment, ...]:
        """Decide one action.

        Args:
            observation: what the episode shows now.
            rng: source of the mistakes.

        Returns:
            The segments of the action, in order.
        """
        if observation.scene_index is None:
            raise ConfigError("scene_index: expected the index of a scene in the source, got None")
        scene, view = self._scene(observation.scene_index), observation.view
        looks: tuple[Segment, ...] = ()
        if observation.turn == 0 and observation.looks_left > 0:
            looks = self.look_segments(scene, view, rng)
        if looks and may_look(observation):
            return looks
        return (*looks, *self.answer_segments(scene, view, rng, observation.crops))

    def _annotated(self, index: int) -> Scene:
        """Return a scene without its pixels; no decision needs them."""
        return replace(self.source[index], load_image=partial(_image, self.source, index))

    def answer_segments(
        self, scene: Scene, view: View, rng: np.random.Generator, crops: Sequence[Crop] = ()
    ) -> tuple[Segment, ...]:
        """Decide the thought and the answer.

        Args:
            scene: the scene with its annotations.
            view: the episode's frames.
            rng: source of the mistakes.
            crops: what the looks have shown.

        Returns:
            The thought and the answer.
        """
        boxes = self.people(scene, view, rng, crops)[: self.rules.max_boxes]
        thought = f"{len(boxes)} {plural(scene.target)}."
        return Think(thought), make_answer(boxes)

    def people(
        self, scene: Scene, view: View, rng: np.random.Generator, crops: Sequence[Crop] = ()
    ) -> NDArray[np.float64]:
        """Draw the answer: the ground truth less misses, with jitter, plus invented people.

        Args:
            scene: the scene with its annotations.
            view: the episode's frames.
            rng: source of the mistakes.
            crops: what the looks have shown.

        Returns:
            (N, 4) xyxy, text frame, by left edge.
        """
        config, truth = self.config, clip_boxes(scene.truth, view.scene_size)
        named = rng.random(len(truth)) >= miss_chances(scene, config.miss_rate, config.misses)
        heights = shown_heights(truth, view, crops, config.overview_scale)
        kept = truth[named & (heights >= config.min_visible_height)]
        sides = np.tile(kept[:, 2:] - kept[:, :2], 2)
        kept = kept + config.jitter * sides * rng.standard_normal(kept.shape)
        invented = self._invented(scene, truth, view, rng)
        boxes = quantize_boxes(np.concatenate([kept, invented]), view, decimals=config.decimals)
        return boxes[reading_order(boxes)]

    def _invented(
        self, scene: Scene, truth: NDArray[np.float64], view: View, rng: np.random.Generator
    ) -> NDArray[np.float64]:
        """Draw boxes of people who are not there, each a false positive."""
        count = int(rng.poisson(self.config.false_positive_rate * len(truth)))
        if not count:
            return np.zeros((0, 4))
        tall = (truth[:, 3] - truth[:, 1]) / view.scene_size[1]
        heights = (max(float(tall.min()), 1 / view.scene_size[1]), float(tall.max()))
        # More than needed: boxes that match a true person, or that an ignore region would drop, are
        # discarded.
        boxes = random_boxes(16 * count, view.scene_size, rng, heights)
        regions = clip_boxes(scene.ignore_boxes, view.scene_size)
        inside = box_intersection(boxes, regions) > IGNORE_SHARE * box_area(boxes)[:, None]
        wrong = (box_iou(boxes, truth) < 0.3).all(axis=1) & ~inside.any(axis=1)
        return boxes[wrong][:count]

    def look_segments(
        self, scene: Scene, view: View, rng: np.random.Generator
    ) -> tuple[Segment, ...]:
        """Decide the thought and the look.

        Args:
            scene: the scene with its annotations.
            view: the episode's frames.
            rng: source of random regions.

        Returns:
            The thought and the look; nothing where the strategy chooses no region.
        """
        regions = self.config.look.regions(scene, view, self.rules, rng)
        if not len(regions):
            return ()
        unclear = int((scene_ambiguity(scene, view).weights >= UNCLEAR).sum())
        thought = f"{len(scene.truth)} {plural(scene.target)}, {unclear} unclear."
        return Think(thought), Look(regions)


def _image(source: SceneSource, index: int) -> Image.Image:
    return source[index].image
