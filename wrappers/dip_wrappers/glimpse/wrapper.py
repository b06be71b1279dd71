"""The environment with numeric spaces: an agent chooses looks, a detector answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from dip_env.actions import Answer, Look, Think
from dip_env.boxes import Boxes, BoxesLike, clip_boxes
from dip_env.config import EpisodeConfig
from dip_env.env import DIPCrowdEnv
from dip_env.episode import Episode
from dip_env.errors import ConfigError
from dip_env.rewards import accuracy_reward
from dip_env.views import Crop
from dip_wrappers.controlled import Control, ControlledEpisode
from dip_wrappers.glimpse.detections import NOTHING, AnswerRule, Detections, Finding, merged, uncut
from dip_wrappers.glimpse.detectors import Detector, DetectorInput
from dip_wrappers.glimpse.looks import GridLooks, Looks
from dip_wrappers.glimpse.observations import KEYS, ObservationSizes, observation_parts

Arrays = dict[str, NDArray[Any]]


class Glimpse(gym.Wrapper[Arrays, Any, dict[str, Any], str], gym.utils.RecordConstructorArgs):
    """``DIPCrowd-v0`` with numeric spaces, for agents that produce no text.

    ## Action space
    That of ``looks``: regions of the image, and for grids a number that answers. When the looks are
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
    | cells | float32 (P, 3) | for each cell of ``GridLooks``: log(1 + x) of the number x of \
    detections in it, and of the sum x of their scores; share that has been looked at |

    ## Answer
    The detections with a score of at least ``answer.min_score``: those of the overview, corrected
    by those of each crop, without boxes that a crop cuts off, after non-maximum suppression.

    ## Reward
    That of the environment at the end. With ``shaping`` above 0, also at every step the gain of a
    potential, the accuracy that an answer would earn now: ``shaping * (discount * new - old)``, 0
    after the end. It rewards each look for its gain in accuracy and leaves the optimal policy as it
    is (Ng, Harada and Russell 1999), if ``discount`` is the agent's.

    Args:
        env: ``gymnasium.make("DIPCrowd-v0", ...)``, whose rules allow the looks.
        detector: finds people in the overview and in crops.
        looks: the action space; by default the cells of two grids.
        keys: the parts of the observation, in this order; by default all but ``cells``.
        sizes: of the parts.
        answer: which detections are answered.
        shaping: weight of the potential.
        discount: of the potential; that of the agent.

    Raises:
        ConfigError: for an environment whose rules do not allow the looks, or values out of range.
    """

    def __init__(
        self,
        env: gym.Env[dict[str, Any], str],
        detector: Detector,
        looks: Looks | None = None,
        *,
        keys: Sequence[str] = KEYS,
        sizes: ObservationSizes | None = None,
        answer: AnswerRule | None = None,
        shaping: float = 0.0,
        discount: float = 0.99,
    ) -> None:
        """Check the settings and lay out the spaces."""
        gym.utils.RecordConstructorArgs.__init__(
            self, detector=detector, looks=looks, keys=keys, sizes=sizes, answer=answer,
            shaping=shaping, discount=discount,
        )  # fmt: skip
        gym.Wrapper.__init__(self, env)
        if not isinstance(env.unwrapped, DIPCrowdEnv):
            raise ConfigError(f"env: expected DIPCrowd-v0, got {type(env.unwrapped).__name__}")
        self.crowd = env.unwrapped
        self.detector = detector
        self.looks = looks if looks is not None else GridLooks()
        _check_rules(self.crowd.config, self.looks)
        _check_range("shaping", shaping, 0, np.inf)
        _check_range("discount", discount, 0, 1)
        self.answer_rule = answer or AnswerRule()
        self.shaping, self.discount = shaping, discount
        self.found = NOTHING
        """Detections so far, scene frame."""
        self.parts = observation_parts(keys, sizes or ObservationSizes(), self.looks)
        """The parts of the observation by their keys."""
        self.action_space = self.looks.space
        self.observation_space = spaces.Dict(  # type: ignore[assignment]
            {key: part.space for key, part in self.parts.items()}
        )
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
        """Start an episode and run the detector on the overview; see ``DIPCrowdEnv.reset``.

        Raises:
            ConfigError: under a control that changes images, with a detector that reads none.
        """
        _, info = self.env.reset(seed=seed, options=options)
        episode = self.episode
        if isinstance(episode, ControlledEpisode) and episode.control.changes_pixels:
            self._check_reads_pixels(episode.control)
        whole = np.array([0.0, 0.0, *episode.scene.size])
        overview = DetectorInput(episode.opening.images[0], whole, episode.scene)
        self._findings = [self._finding(overview)]
        self.found = merged(self._findings, self.answer_rule.nms_iou)
        return self._observe(), self._with_found(info)

    def step(self, action: Any) -> tuple[Arrays, float, bool, bool, dict[str, Any]]:
        """Look at the regions of an action, or answer; also answer when no look is left."""
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
        """Return the answer that would be given now, (N, 4) scene frame, highest score first."""
        return self._answered(self.found).boxes

    def answer_after(self, region: BoxesLike) -> Boxes:
        """Return the answer that would be given after a look, without taking it.

        Args:
            region: (4,) xyxy in shares of the image.

        Returns:
            (N, 4) scene frame, highest score first.
        """
        episode = self.episode
        (crop,) = episode.cut(np.asarray(region)[None] * np.tile(episode.scene.size, 2))
        seen = [*self._findings, self._finding_in(crop)]
        return self._answered(merged(seen, self.answer_rule.nms_iou)).boxes

    def worth(self, boxes: Boxes) -> float:
        """Return the accuracy in [0, 1] that an answer of boxes, (N, 4) scene frame, would earn."""
        scene, rule = self.episode.scene, self.crowd.config.reward
        answer, truth, ignored = (
            clip_boxes(part, scene.size) for part in (boxes, scene.truth, scene.ignore_boxes)
        )
        return accuracy_reward(
            answer, truth, ignored, rule.accuracy, rule.beta, rule.precision_weight, rule.iou
        )

    def _check_reads_pixels(self, control: Control) -> None:
        if not getattr(self.detector, "reads_pixels", True):
            raise ConfigError(
                f"detector: expected one that reads pixels under the control {control.name!r}, "
                f"which changes images, got {type(self.detector).__name__}, "
                "which reads the ground truth"
            )

    def _answered(self, found: Detections) -> Detections:
        confident = found.above(self.answer_rule.min_score)
        return confident.take(np.arange(min(len(confident), self.crowd.config.max_boxes)))

    def _act(self, regions: Boxes) -> Any:
        """Take an action as text, and let the detector find people in its crops."""
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
        self.found = merged(self._findings, self.answer_rule.nms_iou)
        return result

    def _finding_in(self, crop: Crop) -> Finding:
        return self._finding(DetectorInput(crop.image, crop.region, self.episode.scene))

    def _finding(self, picture: DetectorInput) -> Finding:
        """Return what the detector finds, without boxes that the picture cuts off."""
        whole = uncut(self.detector(picture), picture.size, picture.open_sides)
        found = Detections(picture.to_scene(whole.boxes), whole.scores)
        return Finding(picture.inside, min(picture.scale), found)

    def _potential(self) -> float:
        """Return the accuracy that an answer would earn now."""
        return self.worth(self.answer())

    def _observe(self) -> Arrays:
        episode, found = self.episode, self.found
        return {key: part.observe(episode, found) for key, part in self.parts.items()}

    def _with_found(self, info: dict[str, Any]) -> dict[str, Any]:
        """Add the detections so far, (N, 4) view frame, and their scores.

        They are lists for the same reason as in ``dip_env.env.info_of``: their number differs.
        """
        boxes = self.episode.view.scene_to_view(self.found.boxes).tolist()
        return {**info, "found_boxes": boxes, "found_scores": self.found.scores.tolist()}


def _check_rules(rules: EpisodeConfig, looks: Looks) -> None:
    """Require rules under which the looks can be taken."""
    if rules.max_looks < 1 or rules.max_regions < looks.at_once:
        raise ConfigError(
            f"env: expected max_looks >= 1 and max_regions >= {looks.at_once}, "
            f"got {rules.max_looks} and {rules.max_regions}"
        )
    if rules.max_turns <= rules.max_looks:
        raise ConfigError(
            f"env: expected more turns than looks, got {rules.max_turns} and {rules.max_looks}"
        )


def _check_range(name: str, value: float, low: float, high: float) -> None:
    """Require a number in [low, high], or a finite one from low on."""
    if high == np.inf and not low <= value < high:
        raise ConfigError(f"{name}: expected a finite number >= {low}, got {value!r}")
    if not low <= value <= high:
        raise ConfigError(f"{name}: expected a number in [{low}, {high}], got {value!r}")
