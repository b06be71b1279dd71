"""The episode as a Gymnasium environment; a thin layer that turns messages into arrays."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from operator import index as as_index
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from gymnasium.wrappers import TimeLimit
from numpy.typing import NDArray

from dip_env.actions import Grammar
from dip_env.checks import check_bytes
from dip_env.config import EpisodeConfig
from dip_env.episode import Episode
from dip_env.errors import ConfigError
from dip_env.messages import Turn
from dip_env.rendering import render_frame, transcript_text
from dip_env.result import EpisodeResult
from dip_env.scenes import SceneSource, make_source
from dip_env.spaces import ActionSpace, UnicodeText

RENDER_MODES = ("rgb_array", "ansi")
SOURCE_KEYWORDS = ("root", "split", "scene_seed", "source_kwargs")
"""Keywords of an environment that describe its source, beside ``scenes``."""
MAX_ARRAY = 2**30
"""Most bytes of an array of an observation."""

Arrays = dict[str, Any]


class DIPCrowdEnv(gymnasium.Env[Arrays, str]):
    """Look before you answer: find every person in a crowded scene.

    ## Description
    The policy sees a reduced overview of a scene. It may look at regions enlarged, cut from the
    source image at full resolution, and at the end lists the box of every person. The idea is that
    of DIP-R1 (arXiv 2505.23179); the formulas of the rewards are ours.

    ## Action space
    Any Python string. One action holds one or more segments, with only white space between::

        <think>two people behind the kiosk?</think>
        <look>[[120,40,260,180]]</look>
        <answer>[[131,60,152,118],{"bbox_2d":[200,62,223,120],"label":"person","score":0.9}]</answer>

    Coordinates are those of the overview (``coordinate_format="pixel"``) or thousandths of it
    (``"norm1000"``). Text outside the grammar is no error: it costs a turn, and the reply states
    what was expected and what came. ``action_space.sample()`` returns well-formed actions.

    ## Observation space
    ``Dict`` with S and C the longest sides of overview and crop, K = max_looks * max_regions:

    | key | space | content |
    |---|---|---|
    | image | uint8 (S, S, 3) | overview, padded with 0 at the right and bottom |
    | crops | uint8 (K, C, C, 3) | the crops shown so far, padded likewise; 0 if not yet |
    | crop_boxes | float32 (K, 4) | region of each crop, xyxy, view frame; 0 if not yet |
    | text | any string | the conversation so far, beginning with the task |

    ``info["view_size"]`` (2,) and ``info["crop_sizes"]`` (K, 2) hold (width, height) of the
    unpadded parts, ``info["scene_index"]`` the index of the scene in its source.

    ## Rewards
    0 until the end, then the weighted sum of three terms in [0, 1]: ``format`` (think, then look,
    then answer), ``look`` (how much of what is ambiguous the looks cover, less their area) and
    ``accuracy`` (precision and recall at IoU 0.5). ``info["reward_terms"]`` holds each of them.
    With ``max_looks=0`` the prompt asks for no look, and the weight of ``look`` cannot be earned.

    ## Info
    At every step ``parse_error`` (None or the message) and ``segments`` (the parsed action or
    None). After the end ``reward_terms``, ``truth_boxes``, ``ignore_boxes``, ``answer_boxes``
    (lists of xyxy, view frame: they can be printed as an answer) and ``matches``. No ground truth
    before the end.

    ## Start
    A scene drawn from the source with the seed of ``reset``, or ``options={"scene": i}``.

    ## End
    Terminated by an answer; truncated after ``max_turns`` actions without one, which is scored
    as an empty answer. Set ``max_turns``, not Gymnasium's ``max_episode_steps``, which would end
    episodes unscored.

    ## Arguments
    Plain values, which survive ``EnvSpec.to_json``::

        gymnasium.make("DIPCrowd-v0", scenes="coco", root="data", view_size=672, max_looks=3)

    ## Version history
    v0: initial version.

    Args:
        scenes: name of a preset or reader (see ``make_source``), or a ``SceneSource``.
        root: folder of the data, for readers.
        split: part of the data.
        scene_seed: seed of a procedural source.
        source_kwargs: further arguments of the source.
        render_mode: ``rgb_array``, ``ansi`` or None.
        **rules: any field of ``EpisodeConfig`` and ``RewardConfig``.

    Raises:
        ConfigError: for an unknown name or a value out of range.
    """

    metadata = {"render_modes": list(RENDER_MODES), "render_fps": 2}  # noqa: RUF012 (Gymnasium's)

    def __init__(
        self,
        scenes: str | SceneSource = "crowd",
        root: str | None = None,
        split: str = "train",
        scene_seed: int = 0,
        source_kwargs: Mapping[str, Any] | None = None,
        render_mode: str | None = None,
        **rules: Any,
    ) -> None:
        """Open the source and lay out the spaces."""
        self.config = EpisodeConfig.from_keywords(rules)
        self.source = open_source(scenes, root, split, scene_seed, source_kwargs)
        self.render_mode = check_render_mode(render_mode)
        self.observation_space = observation_space(self.config)
        self.action_space: ActionSpace = action_space(self.config)
        self.episode: Episode | None = None
        self.new_episode: Callable[..., Episode] = Episode
        """Starts the episode of each ``reset``; wrappers may replace it by their own."""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Arrays, dict[str, Any]]:
        """Start an episode.

        Args:
            seed: fixes the scene of this and all later episodes.
            options: ``{"scene": i}`` picks a scene instead of drawing one.

        Returns:
            Observation and info.

        Raises:
            ConfigError: for another option.
            IndexError: for a scene that the source does not have.
        """
        self._check_time_limit()
        wanted = check_options(options, {"scene"}).get("scene")
        generator, its_seed = self._np_random, self._np_random_seed
        state = generator.bit_generator.state if generator is not None else {}
        try:
            super().reset(seed=seed)
            index = pick_scene(self.source, self.np_random, wanted)
            episode = self.new_episode(self.source[index], self.config, index)
            observation = observe(episode)
        except BaseException:
            # A refused reset leaves everything as it was: scenes to come, and the episode.
            self._np_random, self._np_random_seed = generator, its_seed
            if generator is not None:
                generator.bit_generator.state = state
            raise
        self.episode = episode
        self.action_space.narrow(episode.view.text_size, episode.looks_left)
        return observation, info_of(episode)

    def step(self, action: str) -> tuple[Arrays, float, bool, bool, dict[str, Any]]:
        """Take one action.

        Args:
            action: any text; see the class for the grammar.

        Returns:
            Observation, reward, terminated, truncated and info.

        Raises:
            TypeError: when the action is not a string.
            EpisodeOverError: when the episode has ended.
            ResetNeeded: before the first reset.
        """
        episode = self._running()
        turn = episode.step(action)
        self.action_space.narrow(episode.view.text_size, episode.looks_left)
        info = info_of(episode, turn)
        return observe(episode), turn.reward, turn.terminated, turn.truncated, info

    def render(self) -> NDArray[np.uint8] | str | None:
        """Return an image of the episode, its transcript, or None without a render mode."""
        if self.render_mode is None:
            gymnasium.logger.warn("render() was called without a render_mode; set it in make().")
            return None
        episode = self._running()
        if self.render_mode == "ansi":
            return transcript_text(episode.transcript)
        return render_frame(episode, episode.score)

    def _check_time_limit(self) -> None:
        """Warn, at the first reset, of a limit of steps that would end episodes unscored.

        Gymnasium tells an environment nothing of the wrappers around it, but they are calling it.
        """
        if self.episode is not None:
            return
        frame = inspect.currentframe()
        while frame is not None:
            caller = frame.f_locals.get("self")
            limit = getattr(caller, "_max_episode_steps", None)
            if (
                isinstance(caller, TimeLimit)
                and limit is not None
                and limit < self.config.max_turns
            ):
                gymnasium.logger.warn(
                    f"max_episode_steps: expected at least max_turns={self.config.max_turns}, got "
                    f"{limit}: longer episodes end without a score; set max_turns={limit} instead"
                )
                break
            frame = frame.f_back

    def _running(self) -> Episode:
        """Return the episode, which ``reset`` must have started."""
        if self.episode is None:
            raise ResetNeeded("expected reset() before the first step() or render()")
        return self.episode


def open_source(
    scenes: str | SceneSource,
    root: str | None = None,
    split: str = "train",
    scene_seed: int = 0,
    source_kwargs: Mapping[str, Any] | None = None,
) -> SceneSource:
    """Return a source from the arguments of an environment.

    Raises:
        ConfigError: for what is neither a name nor a source, or a source without scenes.
    """
    if not isinstance(source_kwargs, Mapping | None):
        raise ConfigError(f"source_kwargs: expected a mapping, got {source_kwargs!r}")
    if isinstance(scenes, str):
        source = make_source(scenes, root, split, scene_seed, **(source_kwargs or {}))
    elif isinstance(scenes, SceneSource):
        source = scenes
    else:
        raise ConfigError(f"scenes: expected a name or a SceneSource, got {type(scenes).__name__}")
    if len(source) == 0:
        raise ConfigError("scenes: expected at least one scene, got a source with none")
    return source


def check_render_mode(mode: str | None) -> str | None:
    """Return the render mode, or raise ConfigError for one that does not exist."""
    if mode is not None and mode not in RENDER_MODES:
        raise ConfigError(f"render_mode: expected one of {RENDER_MODES} or None, got {mode!r}")
    return mode


def check_options(options: Mapping[str, Any] | None, known: set[str]) -> Mapping[str, Any]:
    """Return reset options, or raise ConfigError for one that would be ignored."""
    options = options or {}
    for name in options:
        if name not in known:
            raise ConfigError(f"options: expected {sorted(known)}, got {name!r}")
    return options


def pick_scene(source: SceneSource, rng: np.random.Generator, wanted: Any = None) -> int:
    """Return the wanted index, checked, or draw one.

    Raises:
        IndexError: for a scene that the source does not have.
        TypeError: for an index that is not an integer.
    """
    count = len(source)
    if wanted is None:
        return int(rng.integers(count))
    index = as_index(wanted)
    if not 0 <= index < count:
        raise IndexError(f"options['scene']: expected 0..{count - 1}, got {index}")
    return index


def observation_space(config: EpisodeConfig) -> spaces.Dict:
    """Return the observation space under some rules; it is the same for all scenes.

    Raises:
        ConfigError: for observations that would not fit in memory.
    """
    side, crop_side, slots = _sides(config)
    check_bytes("view_size", 3 * side**2, MAX_ARRAY, "overviews")
    check_bytes(
        "crop_size, max_looks, max_regions", 3 * slots * crop_side**2, MAX_ARRAY, "all crops"
    )
    return spaces.Dict(
        {
            "image": spaces.Box(0, 255, (side, side, 3), np.uint8),
            "crops": spaces.Box(0, 255, (slots, crop_side, crop_side, 3), np.uint8),
            "crop_boxes": spaces.Box(0.0, float(side), (slots, 4), np.float32),
            "text": UnicodeText(),
        }
    )


def action_space(config: EpisodeConfig) -> ActionSpace:
    """Return the action space under some rules."""
    side = 1000 if config.coordinate_format == "norm1000" else _sides(config)[0]
    return ActionSpace(Grammar(config.max_regions, config.max_boxes), (side, side))


def observe(episode: Episode) -> Arrays:
    """Return an episode's observation as fresh arrays of ``observation_space``."""
    side, crop_side, slots = _sides(episode.config)
    image = np.zeros((side, side, 3), np.uint8)
    overview = episode.opening.images[0]
    image[: overview.shape[0], : overview.shape[1]] = overview
    crops = np.zeros((slots, crop_side, crop_side, 3), np.uint8)
    crop_boxes = np.zeros((slots, 4), np.float32)
    for k, crop in enumerate(episode.crops):
        crops[k, : crop.image.shape[0], : crop.image.shape[1]] = crop.image
    if shown := len(episode.crops):
        crop_boxes[:shown] = episode.view.scene_to_view([crop.region for crop in episode.crops])
        # float32 may round a border just past the view.
        np.clip(crop_boxes, 0, side, out=crop_boxes)
    text = transcript_text(episode.transcript)
    return {"image": image, "crops": crops, "crop_boxes": crop_boxes, "text": text}


def info_of(episode: Episode, turn: Turn | None = None) -> dict[str, Any]:
    """Return Gymnasium's ``info`` of a turn, or of a reset.

    Args:
        episode: after the turn.
        turn: its last turn; without one, only the sizes and the scene are given.

    Returns:
        The entries that ``DIPCrowdEnv`` documents, and ``waiting`` for members of a group.
    """
    info: dict[str, Any] = {}
    if turn is not None:
        info |= {"parse_error": turn.parse_error, "segments": turn.segments}
        if turn.waiting is not None:
            info["waiting"] = turn.waiting
        if turn.result is not None:
            info |= _result_info(turn.result)
    sizes = np.zeros((_sides(episode.config)[2], 2), np.int32)
    for k, crop in enumerate(episode.crops):
        sizes[k] = crop.image.shape[1::-1]
    info["view_size"] = np.array(episode.view.view_size, np.int32)
    info["crop_sizes"] = sizes
    if episode.scene_index is not None:
        info["scene_index"] = episode.scene_index
    return info


def _result_info(result: EpisodeResult) -> dict[str, Any]:
    """Return the entries of ``info`` at the end of an episode.

    Arrays whose length differs between scenes become lists: Gymnasium's vector environments
    stack arrays, which fails when two episodes of unequal crowds end in the same step.
    """
    return {
        "reward_terms": result.terms.as_dict(),
        "truth_boxes": result.truth_boxes.tolist(),
        "ignore_boxes": result.ignore_boxes.tolist(),
        "answer_boxes": result.answer_boxes.tolist(),
        "matches": {name: array.tolist() for name, array in vars(result.matches).items()},
    }


def _sides(config: EpisodeConfig) -> tuple[int, int, int]:
    """Return the longest side of overview and crop in pixels, and the number of crop slots."""
    multiple = config.size_multiple
    return (
        config.view_size // multiple * multiple,
        config.crop_size // multiple * multiple,
        # Gymnasium allows no space without slots.
        max(1, config.max_looks * config.max_regions),
    )
