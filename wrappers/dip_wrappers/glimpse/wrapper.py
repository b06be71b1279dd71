"""The environment with numbers instead of words: an agent chooses looks, a detector answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from dip_env.actions import Answer, Look, Think
from dip_env.boxes import Boxes, as_boxes, clip_boxes, covered_share
from dip_env.env import DIPCrowdEnv
from dip_env.episode import Episode
from dip_env.errors import ConfigError
from dip_env.rewards import accuracy_reward
from dip_env.views import Crop
from dip_wrappers.controlled import Control, ControlledEpisode
from dip_wrappers.glimpse.detections import NOTHING, Detections, Finding, merged, uncut
from dip_wrappers.glimpse.detectors import Detector, Sight
from dip_wrappers.glimpse.looks import GridLooks, Looks
from dip_wrappers.glimpse.maps import looked_map, padded, weight_inside, weight_map

Arrays = dict[str, NDArray[Any]]
KEYS = ("image", "crop", "looked", "found", "doubt", "budget")
"""Parts of an observation, whatever the looks."""
PLACES = "places"
"""A further part, for looks at the cells of grids."""


class Glimpse(gym.Wrapper[Arrays, Any, dict[str, Any], str], gym.utils.RecordConstructorArgs):
    """``DIPCrowd-v0`` with numeric spaces, for agents that do not speak.

    ## Action space
    That of ``looks``: places of the image, and for grids a number that answers. When the looks are
    used up the answer is given in the same step.

    ## Observation space
    ``Dict``, with M the cells of the maps along each side and P those of ``GridLooks`` together:

    | key | space | content |
    |---|---|---|
    | image | uint8 (S, S, 3) | overview, reduced, padded with 0 at the right and bottom |
    | crop | uint8 (C, C, 3) | the last region looked at, padded alike; 0 before the first |
    | looked | float32 (M, M) | share of each cell that has been looked at |
    | found | float32 (M, M) | x / (1 + x) of the sum x of the scores of the detections there |
    | doubt | float32 (M, M) | the same of the sum of 4 s (1 - s): detections that may be wrong |
    | budget | float32 (1,) | share of the looks that are left |
    | places | float32 (P, 3) | for each cell of ``GridLooks``: log(1 + x) of the number x of \
    detections in it, and of the sum x of their scores; share that has been looked at |

    ## Answer
    The detections with a score of at least ``answer_score``: those of the overview, corrected by
    those of each crop, without boxes that a crop cuts off, after non-maximum suppression.

    ## Reward
    That of the environment at the end. With ``shaping`` above 0, also at every step the gain of a
    potential, the accuracy that an answer would earn now: ``shaping * (discount * new - old)``, 0
    after the end. It rewards each look for what it brings and leaves the best policy as it is (Ng,
    Harada and Russell 1999), if ``discount`` is the agent's.

    Args:
        env: ``gymnasium.make("DIPCrowd-v0", ...)``, whose rules allow the looks.
        detector: finds people in the overview and in crops.
        looks: what actions mean; the cells of two grids without it.
        image_size: S, longest side of ``image`` in pixels.
        crop_size: C, of ``crop``.
        cells: M.
        keys: parts of the observation that are given, in this order; all but ``places`` without it.
        answer_score: least score of an answered detection.
        nms_iou: overlap above which only the surer of two detections is kept.
        shaping: weight of the potential.
        discount: of the potential; that of the agent.

    Raises:
        ConfigError: for an environment that cannot be asked so, or values out of range.
    """

    def __init__(
        self,
        env: gym.Env[dict[str, Any], str],
        detector: Detector,
        looks: Looks | None = None,
        *,
        image_size: int = 64,
        crop_size: int = 64,
        cells: int = 8,
        keys: Sequence[str] = KEYS,
        answer_score: float = 0.5,
        nms_iou: float = 0.5,
        shaping: float = 0.0,
        discount: float = 0.99,
    ) -> None:
        """Check what can be checked and lay out the spaces."""
        gym.utils.RecordConstructorArgs.__init__(
            self, detector=detector, looks=looks, image_size=image_size, crop_size=crop_size,
            cells=cells, keys=keys, answer_score=answer_score, nms_iou=nms_iou, shaping=shaping,
            discount=discount,
        )  # fmt: skip
        gym.Wrapper.__init__(self, env)
        if not isinstance(env.unwrapped, DIPCrowdEnv):
            raise ConfigError(f"env: expected DIPCrowd-v0, got {type(env.unwrapped).__name__}")
        self.crowd = env.unwrapped
        self.detector = detector
        self.looks = looks if looks is not None else GridLooks()
        rules = self.crowd.config
        if rules.max_looks < 1 or rules.max_regions < self.looks.at_once:
            raise ConfigError(
                f"env: expected max_looks >= 1 and max_regions >= {self.looks.at_once}, "
                f"got {rules.max_looks} and {rules.max_regions}"
            )
        if rules.max_turns <= rules.max_looks:
            raise ConfigError(
                f"env: expected more turns than looks, got {rules.max_turns} and {rules.max_looks}"
            )
        for name, value, low in (
            ("image_size", image_size, 1), ("crop_size", crop_size, 1), ("cells", cells, 1),
            ("shaping", shaping, 0),
        ):  # fmt: skip
            if not low <= value < np.inf:
                raise ConfigError(f"{name}: expected a finite number >= {low}, got {value!r}")
        for name, value in (
            ("answer_score", answer_score), ("nms_iou", nms_iou), ("discount", discount),
        ):  # fmt: skip
            if not 0 <= value <= 1:
                raise ConfigError(f"{name}: expected a number in [0, 1], got {value!r}")
        known = (*KEYS, PLACES) if isinstance(self.looks, GridLooks) else KEYS
        if not keys or len({*keys}) != len(keys) or not {*keys} <= {*known}:
            raise ConfigError(f"keys: expected some of {', '.join(known)}, got {tuple(keys)}")
        self.image_size, self.crop_size, self.cells = image_size, crop_size, cells
        self.answer_score, self.nms_iou = answer_score, nms_iou
        self.shaping, self.discount = shaping, discount
        self.found = NOTHING
        """Detections so far, scene frame."""
        self.action_space = self.looks.space
        grid = spaces.Box(0.0, 1.0, (cells, cells), np.float32)
        parts: dict[str, spaces.Space[Any]] = {
            "image": spaces.Box(0, 255, (image_size, image_size, 3), np.uint8),
            "crop": spaces.Box(0, 255, (crop_size, crop_size, 3), np.uint8),
            "looked": grid,
            "found": grid,
            "doubt": grid,
            "budget": spaces.Box(0.0, 1.0, (1,), np.float32),
        }
        if isinstance(self.looks, GridLooks):
            shape = (len(self.looks.cells), 3)
            parts[PLACES] = spaces.Box(0.0, np.inf, shape, np.float32)
        self.observation_space = spaces.Dict({key: parts[key] for key in keys})  # type: ignore[assignment]
        self.keys = tuple(keys)
        self._findings: list[Finding] = []

    @property
    def episode(self) -> Episode:
        """The running episode.

        Raises:
            gymnasium.error.ResetNeeded: before the first reset.
        """
        if self.crowd.episode is None:
            raise gym.error.ResetNeeded("expected reset() before the first step()")
        return self.crowd.episode

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Arrays, dict[str, Any]]:
        """Start an episode and let the detector see the overview; as that of the environment.

        Raises:
            ConfigError: under a control that changes pictures, with a detector that reads none.
        """
        _, info = self.env.reset(seed=seed, options=options)
        episode = self.episode
        if isinstance(episode, ControlledEpisode) and episode.control.changes_pixels:
            self._check_reads_pixels(episode.control)
        whole = np.array([0.0, 0.0, *episode.scene.size])
        sight = Sight(episode.opening.images[0], whole, episode.scene)
        self._findings = [self._finding(sight)]
        self.found = merged(self._findings, self.nms_iou)
        return self._observe(), self._with_found(info)

    def step(self, action: Any) -> tuple[Arrays, float, bool, bool, dict[str, Any]]:
        """Look at the regions of an action, or answer; answer, too, when no look is left."""
        before = self._potential() if self.shaping else 0.0
        regions = self.looks.regions(action)
        _, reward, terminated, truncated, info = self._act(regions)
        if not (terminated or truncated) and self.episode.looks_left == 0:
            _, reward, terminated, truncated, info = self._act(np.zeros((0, 4)))
        reward = float(reward)
        if self.shaping:
            after = 0.0 if terminated or truncated else self._potential()
            reward += self.shaping * (self.discount * after - before)
        return self._observe(), reward, terminated, truncated, self._with_found(info)

    def answer(self) -> Boxes:
        """Return what would be answered now, (N, 4) scene frame, surest first."""
        return self._answered(self.found).boxes

    def answer_after(self, region: Any) -> Boxes:
        """Return what would be answered after a look, which is not taken.

        Args:
            region: (4,) xyxy in shares of the image.

        Returns:
            (N, 4) scene frame, surest first.
        """
        episode = self.episode
        (crop,) = episode.cut(np.asarray(region)[None] * np.tile(episode.scene.size, 2))
        seen = [*self._findings, self._finding_in(crop)]
        return self._answered(merged(seen, self.nms_iou)).boxes

    def worth(self, boxes: Boxes) -> float:
        """Return the accuracy in [0, 1] that an answer of boxes, (N, 4) scene frame, would earn."""
        scene, paid = self.episode.scene, self.crowd.config.reward
        answer, truth, ignored = (
            clip_boxes(part, scene.size) for part in (boxes, scene.truth, scene.ignore_boxes)
        )
        return accuracy_reward(
            answer, truth, ignored, paid.accuracy, paid.beta, paid.precision_weight, paid.iou
        )

    def _check_reads_pixels(self, control: Control) -> None:
        if not getattr(self.detector, "reads_pixels", True):
            raise ConfigError(
                f"detector: expected one that reads pixels under the control {control.name!r}, "
                f"which changes pictures, got {type(self.detector).__name__}, which reads the truth"
            )

    def _answered(self, found: Detections) -> Detections:
        sure = found.above(self.answer_score)
        return sure.take(np.arange(min(len(sure), self.crowd.config.max_boxes)))

    def _act(self, regions: Boxes) -> Any:
        """Say in words what an action means, and hear what the detector makes of the crops."""
        episode = self.episode
        if not len(regions):
            answered = self._answered(self.found)
            think = Think(f"{len(answered)} found.")
            boxes = episode.view.scene_to_text(answered.boxes)
            answer = Answer(boxes, scores=tuple(answered.scores.tolist()))
            return self.env.step(episode.grammar.format([think, answer]))
        width, height = episode.view.text_size
        look = Look(regions * (width, height, width, height))
        known = len(episode.crops)
        result = self.env.step(episode.grammar.format([Think("Closer."), look]))
        if (refused := result[-1]["parse_error"]) is not None:
            raise ConfigError(
                f"looks: expected regions that the environment can show, got "
                f"{regions.tolist()} in shares of the image: {refused}"
            )
        self._findings += [self._finding_in(crop) for crop in episode.crops[known:]]
        self.found = merged(self._findings, self.nms_iou)
        return result

    def _finding_in(self, crop: Crop) -> Finding:
        return self._finding(Sight(crop.image, crop.region, self.episode.scene))

    def _finding(self, sight: Sight) -> Finding:
        """Return what the detector finds, without what the picture cuts off."""
        whole = uncut(self.detector(sight), sight.size, sight.open_sides)
        found = Detections(sight.to_scene(whole.boxes), whole.scores)
        return Finding(sight.inside, min(sight.scale), found)

    def _potential(self) -> float:
        """Return the accuracy that an answer would earn now."""
        return self.worth(self.answer())

    def _observe(self) -> Arrays:
        return {key: getattr(self, f"_see_{key}")() for key in self.keys}

    def _see_image(self) -> NDArray[np.uint8]:
        return padded(self.episode.opening.images[0], self.image_size)

    def _see_crop(self) -> NDArray[np.uint8]:
        if self.episode.crops:
            return padded(self.episode.crops[-1].image, self.crop_size)
        return np.zeros((self.crop_size, self.crop_size, 3), np.uint8)

    def _see_looked(self) -> NDArray[np.float32]:
        regions = [crop.region for crop in self.episode.crops]
        return looked_map(as_boxes(regions), self.episode.scene.size, self.cells)

    def _see_found(self) -> NDArray[np.float32]:
        return self._map(self.found.scores)

    def _see_doubt(self) -> NDArray[np.float32]:
        return self._map(4 * self.found.scores * (1 - self.found.scores))

    def _see_budget(self) -> NDArray[np.float32]:
        left = self.episode.looks_left / self.crowd.config.max_looks
        return np.array([left], np.float32)

    def _see_places(self) -> NDArray[np.float32]:
        assert isinstance(self.looks, GridLooks)  # no other looks have this part
        places = self.looks.cells * np.tile(self.episode.scene.size, 2)
        sums = [
            weight_inside(places, self.found.boxes, weights)
            for weights in (np.ones(len(self.found)), self.found.scores)
        ]
        looked = covered_share(places, [crop.region for crop in self.episode.crops])
        return np.stack([*np.log1p(sums), looked], axis=1).astype(np.float32)

    def _map(self, weights: NDArray[np.float64]) -> NDArray[np.float32]:
        return weight_map(self.found.boxes, weights, self.episode.scene.size, self.cells)

    def _with_found(self, info: dict[str, Any]) -> dict[str, Any]:
        """Add the detections so far, (N, 4) view frame, and their scores.

        They are lists for the same reason as in ``dip_env.env.info_of``: their number differs.
        """
        boxes = self.episode.view.scene_to_view(self.found.boxes).tolist()
        return {**info, "found_boxes": boxes, "found_scores": self.found.scores.tolist()}
