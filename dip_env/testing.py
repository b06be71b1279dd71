"""Checks for custom scene sources and environments; every failure is one clear error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np

from dip_env.actions import Answer, Grammar, Look, Think
from dip_env.config import EpisodeConfig
from dip_env.env import DIPCrowdEnv, info_of
from dip_env.episode import Episode
from dip_env.errors import DipError, SceneError
from dip_env.scenes.base import Scene, SceneSource
from dip_env.views import View

END_KEYS = ("reward_terms", "truth_boxes", "ignore_boxes", "answer_boxes", "matches")
"""What ``info`` may hold only after the end."""


def check_dip_env(
    subject: SceneSource | gymnasium.Env[Any, Any],
    config: EpisodeConfig | None = None,
    indices: Sequence[int] = (0, 1, 2),
) -> None:
    """Check that a source of scenes, or an environment made from one, keeps the contract.

    Scenes must be the same each time and in any order, load an image of the size they state, and be
    solvable: the ground truth, printed as an answer, must earn accuracy 1. Each is played to the
    end by a script; the ground truth may not show before, and rewards must stay in range.

    Args:
        subject: a ``SceneSource``, or a ``DIPCrowdEnv`` with or without wrappers.
        config: rules of the episodes on a source; an environment has its own.
        indices: scenes to check; those beyond the end of the source are left out.

    Raises:
        DipError: naming the first thing that failed.
    """
    if isinstance(subject, gymnasium.Env):
        env = subject.unwrapped
        if not isinstance(env, DIPCrowdEnv):
            raise DipError(f"expected a DIPCrowdEnv inside, got {type(env).__name__}")
        check_dip_env(env.source, env.config, indices)
        for index in _present(env.source, indices):
            _play(_EnvPlayer(subject, index), env.source[index], env.config, index)
        return
    config = config or EpisodeConfig()
    present = _present(subject, indices)
    _check_range(subject)
    scenes = {index: subject[index] for index in present}
    for index, scene in scenes.items():
        _check_scene(scene, index)
    _check_names(scenes)
    # Backwards, so that a source that ignores the index is detected.
    for index in reversed(present):
        before, now = _fingerprint(scenes[index]), _fingerprint(subject[index])
        for name in before:
            if before[name] != now[name]:
                raise SceneError(f"scene {index}: {name}: expected the same each time, it changed")
    for index, scene in scenes.items():
        _play(_SourcePlayer(scene, config, index), scene, config, index)


class _SourcePlayer:
    """One scene, played through ``Episode``."""

    def __init__(self, scene: Scene, config: EpisodeConfig, index: int) -> None:
        self.scene, self.config, self.index = scene, config, index
        self.start()

    def start(self) -> None:
        self.episode = Episode(self.scene, self.config, self.index)

    def step(self, action: str) -> tuple[float, bool, Mapping[str, Any]]:
        turn = self.episode.step(action)
        info = info_of(self.episode, turn)
        return turn.reward, turn.terminated or turn.truncated, info


class _EnvPlayer:
    """One scene, played through a Gymnasium environment and its wrappers."""

    def __init__(self, env: gymnasium.Env[Any, Any], index: int) -> None:
        self.env, self.index = env, index
        self.start()

    def start(self) -> None:
        self.env.reset(options={"scene": self.index})

    def step(self, action: str) -> tuple[float, bool, Mapping[str, Any]]:
        _, reward, terminated, truncated, info = self.env.step(action)
        return float(reward), terminated or truncated, info


def _present(source: SceneSource, indices: Sequence[int]) -> list[int]:
    """Return the indices that the source has."""
    if not isinstance(source, SceneSource):
        raise SceneError(
            f"expected a source with __len__ and __getitem__, got {type(source).__name__}"
        )
    present = [index for index in indices if 0 <= index < len(source)]
    if not present:
        raise SceneError(f"expected a scene among {list(indices)}, got {len(source)} scenes in all")
    return present


def _check_range(source: SceneSource) -> None:
    """Require IndexError outside the range, on which plain loops over a source rely."""
    for index in (len(source), -1):
        try:
            source[index]
        except IndexError:
            continue
        raise SceneError(f"scene {index}: expected IndexError outside 0..{len(source) - 1}")


def _check_scene(scene: Scene, index: int) -> None:
    """Require what ``Scene`` itself does not check: its type, shares and image."""
    if not isinstance(scene, Scene):
        raise SceneError(f"scene {index}: expected a Scene, got {type(scene).__name__}")
    share = scene.visible_share
    if not (np.isfinite(share).all() and (share >= 0).all() and (share <= 1).all()):
        raise SceneError(f"scene {index}: visible_share: expected numbers in [0, 1], got {share}")
    width, height = scene.size
    outside = (scene.boxes[:, :2] >= (width, height)) | (scene.boxes[:, 2:] <= 0)
    for k in np.flatnonzero(outside.any(axis=1)):
        raise SceneError(
            f"scene {index}: boxes[{k}]: expected a part inside the image of {width}x{height}, "
            f"got {scene.boxes[k].tolist()}"
        )
    scene.image.load()


def _check_names(scenes: Mapping[int, Scene]) -> None:
    """Require a different name of every scene."""
    seen: dict[str, int] = {}
    for index, scene in scenes.items():
        other = seen.setdefault(scene.scene_id, index)
        if other != index:
            raise SceneError(
                f"scene {index}: scene_id: expected a name of its own, got {scene.scene_id!r}, "
                f"which is that of scene {other}"
            )


def _fingerprint(scene: Scene) -> dict[str, Any]:
    """Return everything of a scene in a form that compares by value."""
    arrays = ("boxes", "visible_boxes", "visible_share", "ignore")
    return {
        "scene_id": scene.scene_id,
        "size": tuple(scene.size),
        "labels": scene.labels,
        "image": scene.image.tobytes(),
        **{name: getattr(scene, name).tobytes() for name in arrays},
    }


def _play(
    player: _SourcePlayer | _EnvPlayer, scene: Scene, config: EpisodeConfig, index: int
) -> None:
    """Play one scene twice: until the turns run out, then with the ground truth as the answer."""
    where = f"scene {index}"
    for turn in range(1, config.max_turns + 1):
        reward, done, info = player.step("not an action" if turn == 1 else "<think>hm</think>")
        if done != (turn == config.max_turns):
            raise DipError(f"{where}: expected the end after {config.max_turns} turns, got {turn}")
        _check_turn(reward, done, info, config, where)
        if (info["parse_error"] is None) != (turn > 1):
            raise DipError(f"{where}: parse_error: expected one in turn 1 only, got it in {turn}")

    player.start()
    grammar = Grammar(config.max_regions, config.max_boxes)
    view = View.of(scene.size, config.view_size, config.size_multiple, config.coordinate_format)
    if config.max_looks and config.max_turns > 1:
        width, height = view.text_size
        look = Look(np.array([[0, 0, width // 2, height // 2]]))
        reward, done, info = player.step(grammar.format((Think("the top left"), look)))
        if done or info["parse_error"] is not None:
            raise DipError(f"{where}: expected a look to go on, got {info['parse_error']!r}")
        _check_turn(reward, done, info, config, where)
    truth = view.scene_to_text(scene.truth)
    reward, done, info = player.step(grammar.format((Answer(truth),)))
    if not done:
        raise DipError(f"{where}: expected an answer to end the episode, it went on")
    _check_turn(reward, done, info, config, where)
    accuracy = info["reward_terms"]["accuracy"]
    # At the stricter thresholds, printing with two decimals may cost a tiny box a match.
    if config.reward.iou == "0.5" and accuracy != 1.0:
        raise DipError(
            f"{where}: expected the ground truth as an answer to earn accuracy 1, "
            f"got {accuracy:.3f}; is a box given twice, "
            "or too small to be printed with two decimals?"
        )


def _check_turn(
    reward: float, done: bool, info: Mapping[str, Any], config: EpisodeConfig, where: str
) -> None:
    """Require one turn's reward and info to keep the contract."""
    for key in ("parse_error", "segments"):
        if key not in info:
            raise DipError(f"{where}: info: expected {key!r} at every step, it is missing")
    if not done:
        shown = [key for key in END_KEYS if key in info]
        if shown:
            raise DipError(
                f"{where}: info: expected {shown[0]!r} only after the end, got it before"
            )
        if reward != 0:
            raise DipError(f"{where}: reward: expected 0 before the end, got {reward}")
        return
    for key in END_KEYS:
        if key not in info:
            raise DipError(f"{where}: info: expected {key!r} after the end, it is missing")
    for name, value in info["reward_terms"].items():
        if not 0 <= value <= 1:
            raise DipError(f"{where}: reward term {name}: expected [0, 1], got {value}")
    highest = sum(config.reward.weights.values())
    if not 0 <= reward <= highest + 1e-9:
        raise DipError(f"{where}: reward: expected [0, {highest}], got {reward}")
