"""The oracle: answers from the truth with adjustable mistakes, and writes demonstrations."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from dip_agents.policies.base import Completion
from dip_agents.policies.formatting import (
    make_answer,
    may_look,
    quantize_boxes,
    random_boxes,
    reading_order,
)
from dip_agents.policies.oracle_looks import ambiguous_regions, look_tiles, magnifying_side
from dip_env.actions import Grammar, Look, Segment, Think
from dip_env.ambiguity import AmbiguousItems, prior_ambiguity
from dip_env.boxes import box_area, box_intersection, box_iou, clip_boxes
from dip_env.config import EpisodeConfig
from dip_env.episode import Episode, Message, Observation
from dip_env.matching import IGNORE_SHARE
from dip_env.prompts import plural
from dip_env.scenes.base import Scene, SceneSource
from dip_env.views import Crop, View

LookMode = Literal["ambiguous", "tiles", "random", "whole", "none"]

MissMode = Literal["even", "hard"]

MIN_SHARE_IN_CROP = 0.4
"""Share of a person's box that must lie in a crop to count as shown there."""

UNCLEAR = 0.5
"""Ambiguity from which the oracle calls a person unclear in its thoughts."""


def scene_ambiguity(scene: Scene, view: View) -> AmbiguousItems:
    """Measure how ambiguous each counted instance is at first sight, by the prior.

    Args:
        scene: the scene with its truth.
        view: the frames of the episode; a person's height in the view decides.

    Returns:
        One item for each counted instance, scene frame.
    """
    truth = clip_boxes(scene.truth, scene.size)
    in_view = view.scene_to_view(truth)
    return prior_ambiguity(truth, scene.visible_share[~scene.ignore], in_view[:, 3] - in_view[:, 1])


def oracle_regions(
    scene: Scene, view: View, config: EpisodeConfig, *, tiles: bool = False
) -> NDArray[np.float64]:
    """Pick where the oracle looks.

    Args:
        scene: the scene with its truth.
        view: the episode's frames.
        config: the rules; bound the number of regions and their size.
        tiles: pick among ``look_tiles`` instead of regions that fit what is ambiguous.

    Returns:
        (R, 4) xyxy, text frame, 1 <= R <= max_regions: around what is ambiguous, or the middle
        of the image when nothing is, since the form of an episode asks for a look.
    """
    items = scene_ambiguity(scene, view)
    candidates = look_tiles(view, config.crop_size, config.size_multiple) if tiles else None
    regions = ambiguous_regions(
        items.boxes,
        items.weights,
        scene.size,
        config.max_regions,
        max_side=magnifying_side(view, config.crop_size),
        tiles=candidates,
    )
    if not len(regions):
        regions = np.array([[0.4, 0.4, 0.6, 0.6]]) * np.array(scene.size * 2)
        if candidates is not None:
            # The same middle for both: the sum of opposite edges.
            off = candidates[:, :2] + candidates[:, 2:] - np.array(scene.size)
            regions = candidates[np.abs(off).sum(axis=1).argmin(), None]
    # In pixels the edges of tiles are whole numbers, but for what conversions add.
    return quantize_boxes(regions, view, outward=not tiles)


def miss_chances(scene: Scene, miss_rate: float, misses: MissMode) -> NDArray[np.float64]:
    """Return the chance of each counted person to be left out.

    Args:
        scene: the scene with its truth.
        miss_rate: their mean, [0, 1].
        misses: ``even``: the same for all; ``hard``: falls in a line from the person with the
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
    """Return who counts as shown by a crop.

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
    """Looks at what is unclear, then answers the truth with a known share of mistakes.

    Without mistakes it answers every counted person as exactly as the printed numbers allow.

    Args:
        source: the scenes being played; ``observation.scene_index`` picks the truth.
        config: the episode's rules.
        miss_rate: mean probability that a person is left out, [0, 1].
        misses: who is left out, see :func:`miss_chances`.
        jitter: standard deviation of each edge as a share of the box's side, >= 0.
        false_positive_rate: expected number of invented people for each true one, >= 0; they
            stand outside ignore regions, where nothing counts.
        look: where to look first: at the most ambiguous, in regions that fit it or in ``tiles``
            (see ``look_tiles``), at random places, at the whole image, or not at all.
        think: whether each action begins with a thought.
        thoughts: the thought before a look and before an answer; ``{people}`` is the number of
            people (as answered, in the second), ``{unclear}`` of those that are hard to see,
            ``{noun}`` what they are called, in the plural.
        label: when given, answer items are objects with this label instead of bare boxes.
        decimals: digits kept after the point of a printed number.
        smallest: people are left out who appear less tall than this many pixels in the overview
            and in every crop seen so far; 0 answers those too whom nobody could see.
        overview_scale: see ``shown_heights``, in (0, 1].
        single_pass: look and answer in one action (no crop is ever seen), as it does anyway where
            there is one turn only.
    """

    def __init__(
        self,
        source: SceneSource,
        config: EpisodeConfig,
        *,
        miss_rate: float = 0.0,
        misses: MissMode = "even",
        jitter: float = 0.0,
        false_positive_rate: float = 0.0,
        look: LookMode = "ambiguous",
        think: bool = True,
        thoughts: tuple[str, str] = ("{people} {noun}, {unclear} unclear.", "{people} {noun}."),
        label: str | None = None,
        decimals: int = 0,
        min_visible_height: float = 0.0,
        overview_scale: float = 1.0,
        single_pass: bool = False,
    ) -> None:
        """Check the rates and keep everything.

        Raises:
            ValueError: for a rate out of range or an unknown look mode.
        """
        if not 0 <= miss_rate <= 1:
            raise ValueError(f"miss_rate: expected a number in [0, 1], got {miss_rate!r}")
        if jitter < 0 or false_positive_rate < 0:
            raise ValueError(
                "jitter, false_positive_rate: expected numbers >= 0, "
                f"got {jitter!r}, {false_positive_rate!r}"
            )
        if misses not in ("even", "hard"):
            raise ValueError(f"misses: expected even or hard, got {misses!r}")
        if not 0 < overview_scale <= 1:
            raise ValueError(f"overview_scale: expected a number in (0, 1], got {overview_scale!r}")
        if look not in get_args(LookMode):
            expected = ", ".join(get_args(LookMode))
            raise ValueError(f"look: expected one of {expected}, got {look!r}")
        self.source = source
        self.config = config
        self.miss_rate = miss_rate
        self.misses: MissMode = misses
        self.jitter = jitter
        self.false_positive_rate = false_positive_rate
        self.look = look
        self.think = think
        self.thoughts = thoughts
        self.label = label
        self.decimals = decimals
        self.min_visible_height = min_visible_height
        self.overview_scale = overview_scale
        self.single_pass = single_pass
        self.grammar = Grammar(config.max_regions, config.max_boxes)
        # Drawing a scene can cost far more than playing it, and each is asked for every turn.
        self._scene = lru_cache(maxsize=64)(source.__getitem__)

    def act(self, observations: Sequence[Observation], seeds: Sequence[int]) -> list[Completion]:
        """Look on the first turn if there is a budget for it, answer on the next.

        Args:
            observations: what each unfinished episode shows now; each carries the index of its
                scene.
            seeds: one seed for each observation; mistakes depend on it and on nothing else.

        Returns:
            One completion for each observation.

        Raises:
            ValueError: when an observation does not say which scene it shows.
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
            raise ValueError("OraclePolicy: expected observations with a scene_index, got None")
        scene, view = self._scene(observation.scene_index), observation.view
        looks: tuple[Segment, ...] = ()
        if observation.turn == 0 and observation.looks_left > 0:
            looks = self.look_segments(scene, view, rng)
        if looks and not self.single_pass and may_look(observation):
            return looks
        return (*looks, *self.answer_segments(scene, view, rng, observation.crops))

    def answer_segments(
        self, scene: Scene, view: View, rng: np.random.Generator, crops: Sequence[Crop] = ()
    ) -> tuple[Segment, ...]:
        """Decide the thought and the answer.

        Args:
            scene: the scene with its truth.
            view: the episode's frames.
            rng: source of the mistakes.
            crops: what the looks have shown.

        Returns:
            The thought, if it thinks, and the answer.
        """
        boxes = self.people(scene, view, rng, crops)[: self.config.max_boxes]
        thought = self.thoughts[1].format(people=len(boxes), noun=plural(scene.target))
        return (*self._thought(thought), make_answer(boxes, self.label))

    def people(
        self, scene: Scene, view: View, rng: np.random.Generator, crops: Sequence[Crop] = ()
    ) -> NDArray[np.float64]:
        """Draw the answer: the truth, less misses, shaken, plus invented people.

        Args:
            scene: the scene with its truth.
            view: the episode's frames.
            rng: source of the mistakes.
            crops: what the looks have shown.

        Returns:
            (N, 4) xyxy, text frame, by left edge.
        """
        truth = clip_boxes(scene.truth, view.scene_size)
        named = rng.random(len(truth)) >= miss_chances(scene, self.miss_rate, self.misses)
        heights = shown_heights(truth, view, crops, self.overview_scale)
        kept = truth[named & (heights >= self.min_visible_height)]
        sides = np.tile(kept[:, 2:] - kept[:, :2], 2)
        kept = kept + self.jitter * sides * rng.standard_normal(kept.shape)
        invented = self._invented(scene, truth, view, rng)
        boxes = quantize_boxes(np.concatenate([kept, invented]), view, decimals=self.decimals)
        return boxes[reading_order(boxes)]

    def _invented(
        self, scene: Scene, truth: NDArray[np.float64], view: View, rng: np.random.Generator
    ) -> NDArray[np.float64]:
        """Draw people who are not there, where each counts as a mistake."""
        count = int(rng.poisson(self.false_positive_rate * len(truth)))
        if not count:
            return np.zeros((0, 4))
        tall = (truth[:, 3] - truth[:, 1]) / view.scene_size[1]
        heights = (max(float(tall.min()), 1 / view.scene_size[1]), float(tall.max()))
        # More than needed, since those that would pass for a true person, or be dropped for lying
        # in an ignore region, are thrown away.
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
            scene: the scene with its truth.
            view: the episode's frames.
            rng: places of random looks.

        Returns:
            The thought, if it thinks, and the look; nothing when it never looks.
        """
        if self.look == "none":
            return ()
        if self.look in ("ambiguous", "tiles"):
            tiles = self.look == "tiles"
            regions = oracle_regions(scene, view, self.config, tiles=tiles)
        elif self.look == "random":
            places = random_boxes(self.config.max_regions, view.scene_size, rng, (0.2, 0.4))
            regions = quantize_boxes(places, view, outward=True)
        else:
            regions = np.array([[0.0, 0.0, *view.text_size]])
        unclear = int((scene_ambiguity(scene, view).weights >= UNCLEAR).sum())
        thought = self.thoughts[0].format(
            people=len(scene.truth), unclear=unclear, noun=plural(scene.target)
        )
        return (*self._thought(thought), Look(regions))

    def _thought(self, text: str) -> tuple[Segment, ...]:
        return (Think(text),) if self.think else ()


def demonstrations(
    source: SceneSource,
    indices: Iterable[int],
    config: EpisodeConfig,
    *,
    seed: int = 0,
    **options: Any,
) -> Iterator[tuple[Message, ...]]:
    """Play the oracle and hand out its finished conversations, for supervised warm-up.

    Args:
        source: scenes to play.
        indices: which scenes, in order.
        config: the episode's rules.
        seed: source of the oracle's mistakes, if it is told to make any.
        options: keywords of :class:`OraclePolicy`.

    Yields:
        The messages of one finished episode for each index.
    """
    oracle = OraclePolicy(source, config, **options)
    for index in indices:
        episode = Episode(source[index], config, scene_index=index)
        rng = np.random.default_rng([seed, index])
        while not episode.done:
            segments = oracle.segments(episode.observation(), rng)
            episode.advance(oracle.grammar.format(segments))
        yield tuple(episode.transcript)
