"""Record episodes, replay them, and score them again under another reward, without the model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from dip_env.ambiguity import SiblingTable
from dip_env.config import RewardConfig
from dip_env.episode import Episode
from dip_env.errors import EpisodeOverError
from dip_env.group import EpisodeGroup
from dip_env.messages import Turn
from dip_env.rewards import RewardTerms, Score, score_group
from dip_env.scenes.base import SceneSource
from dip_wrappers.controlled import Control
from dip_wrappers.trace_files import TornTraceWarning, Trace, TraceError, TraceTurn, load_traces
from dip_wrappers.trace_writer import TraceWriter

__all__ = [
    "EpisodeTrace",
    "GroupRecorder",
    "ReplayMismatchError",
    "Rescored",
    "TornTraceWarning",
    "Trace",
    "TraceError",
    "TraceTurn",
    "TraceWriter",
    "describe_source",
    "load_traces",
    "replay",
    "rescore",
]


class ReplayMismatchError(TraceError):
    """Replaying a trace did not give what was recorded."""


def describe_source(source: SceneSource) -> str:
    """Return a source's own description, or its class where it has none."""
    kind = type(source)
    if kind.__repr__ is object.__repr__:  # that one names a memory address, different in each run
        return f"{kind.__module__}.{kind.__qualname__}"
    return repr(source)


class EpisodeTrace(gym.Wrapper[Any, str, Any, str], gym.utils.RecordConstructorArgs):
    """Write every episode of an environment to a folder, turn by turn.

    Args:
        env: a ``DIPCrowdEnv``, wrapped or not.
        folder: of the trace; made if missing, never overwritten.
    """

    def __init__(self, env: gym.Env[Any, str], folder: str | Path) -> None:
        """Open a file of its own in the folder."""
        gym.utils.RecordConstructorArgs.__init__(self, folder=str(folder))
        gym.Wrapper.__init__(self, env)
        self.writer = TraceWriter(folder, describe_source(self.get_wrapper_attr("source")))
        self._name: str | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin a new episode; one left unfinished stays in the trace as it is.

        Args:
            seed: passed on and recorded.
            options: passed on.

        Returns:
            Observation and info of the environment.
        """
        observation, info = self.env.reset(seed=seed, options=options)
        self._name = self.writer.start(self.get_wrapper_attr("episode"), seed=seed)
        return observation, info

    def step(self, action: str) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Take an action and record it with its result.

        Args:
            action: passed on.

        Returns:
            Observation, reward, terminated, truncated and info of the environment.
        """
        episode: Episode | None = self.get_wrapper_attr("episode")
        seen = len(episode.crops) if episode else 0
        observation, reward, terminated, truncated, info = self.env.step(action)
        if episode is None or self._name is None:
            raise EpisodeOverError(
                "EpisodeTrace: expected a reset through this wrapper before step"
            )
        message = None if episode.done else episode.transcript[-1]
        crops = tuple(episode.crops[seen:])
        turn = Turn(message, crops, float(reward), terminated, truncated)
        self.writer.turn(self._name, episode.last_action, turn, info)
        if episode.done:
            self.writer.end(self._name, episode, turn.reward, info["reward_terms"])
            self._name = None
        return observation, reward, terminated, truncated, info

    def close(self) -> None:
        """Close the file and the environment."""
        self.writer.close()
        self.env.close()


class GroupRecorder:
    """Write the episodes of one group as they are played.

    Args:
        writer: of the trace.
        group: before its first step.
        seed: seed of the run, kept with every member.
    """

    def __init__(self, writer: TraceWriter, group: EpisodeGroup, seed: int | None = None) -> None:
        """Write the beginning of every member."""
        self._writer = writer
        self._group = group
        self._finished = False
        size = len(group.episodes)
        key = writer.new_group() if size > 1 else None
        table = group.siblings
        self._names = [
            writer.start(
                episode,
                seed=seed,
                group=key,
                group_size=size,
                member=member,
                siblings=None if table is None else np.flatnonzero(table[member]).tolist(),
            )
            for member, episode in enumerate(group.episodes)
        ]

    def step(self, actions: Sequence[str | None], turns: Sequence[Turn]) -> None:
        """Write one step of the group; members without an action wait and write nothing.

        Args:
            actions: of each member, None where it waits; recorded as the episode took it.
            turns: of each member.
        """
        episodes = self._group.episodes
        for name, action, turn, episode in zip(self._names, actions, turns, episodes, strict=True):
            if action is not None:
                self._writer.turn(name, episode.last_action, turn)
        self.finish()

    def step_member(self, member: int, action: str, turn: Turn) -> None:
        """Write the step of one member.

        Args:
            member: its index in the group.
            action: its action; recorded as the episode took it.
            turn: its turn.
        """
        self._writer.turn(self._names[member], self._group.episodes[member].last_action, turn)
        self.finish()

    def finish(self) -> None:
        """Write the end of the group, once it has ended.

        The steps call this themselves; a group that ends by an abandoned member needs the call.
        """
        if not self._group.done or self._finished:
            return
        self._finished = True
        weights = self._group.config.reward.weights
        for name, episode, terms in zip(
            self._names, self._group.episodes, self._group.terms, strict=True
        ):
            self._writer.end(name, episode, terms.total(weights), terms.as_dict())


def _same_pixels(recorded: NDArray[np.uint8], played: NDArray[np.uint8], what: str) -> None:
    if recorded.shape != played.shape:
        raise ReplayMismatchError(f"{what}: recorded {recorded.shape}, played {played.shape}")
    differing = np.argwhere((recorded != played).any(axis=-1))
    if len(differing):
        y, x = (int(v) for v in differing[0])
        raise ReplayMismatchError(
            f"{what}: {len(differing)} of {recorded.shape[0] * recorded.shape[1]} pixels differ, "
            f"first at x={x}, y={y}: recorded {recorded[y, x].tolist()}, "
            f"played {played[y, x].tolist()}"
        )


def _same_value(recorded: Any, played: Any, what: str) -> None:
    if recorded != played:
        raise ReplayMismatchError(f"{what}: recorded {recorded!r}, played {played!r}")


def replay(trace: Trace, source: SceneSource, control: Control | None = None) -> Episode:
    """Replay the recorded actions and check that the results are the same.

    Images are compared byte for byte, messages character for character. The reward of a group's
    member is checked by ``rescore``, which has its siblings.

    Args:
        trace: a recorded episode, finished or not.
        source: the scenes it was recorded on.
        control: that it was recorded under, if images were changed.

    Returns:
        The episode after the last recorded action.

    Raises:
        TraceError: when the trace does not name its scene in the source.
        ReplayMismatchError: at the first difference; the message names turn and crop.
    """
    if trace.scene_index is None:
        raise TraceError(f"episode {trace.episode}: expected a scene index, got None")
    scene = source[trace.scene_index]
    name = f"episode {trace.episode}" + (f", {trace.control}" if trace.control else "")
    _same_value(trace.scene_id, scene.scene_id, f"{name}: scene id")
    grouped = trace.group_size > 1
    start = control.episode if control else Episode
    episode = start(scene, trace.config, trace.scene_index)
    # The reward of a group's member depends on its siblings.
    take_action = episode.advance if grouped else episode.step
    prompt = episode.transcript[0]
    _same_value(trace.prompt, prompt.text, f"{name}: prompt")
    _same_pixels(trace.image(trace.overview), prompt.images[0], f"{name}: overview")
    for number, recorded in enumerate(trace.turns):
        at = f"{name}: turn {number}"
        played = take_action(recorded.action)
        message = None if played.message is None else played.message.text
        _same_value(recorded.message, message, f"{at}: message")
        _same_value(len(recorded.crops), len(played.crops), f"{at}: number of crops")
        for k, (file, crop) in enumerate(zip(recorded.crops, played.crops, strict=True)):
            _same_value(recorded.regions[k], tuple(crop.region.tolist()), f"{at}: region {k}")
            _same_pixels(trace.image(file), crop.image, f"{at}: crop {k}")
        if not grouped:  # a group's members end together, which one alone cannot reproduce
            _same_value(recorded.terminated, played.terminated, f"{at}: terminated")
            _same_value(recorded.reward, played.reward, f"{at}: reward")
    return episode


@dataclass(frozen=True)
class Rescored:
    """The reward of an episode under another configuration.

    Args:
        trace: the recorded episode.
        terms: its unweighted terms.
        reward: their weighted sum.
    """

    trace: Trace
    terms: RewardTerms
    reward: float


def rescore(
    traces: Sequence[Trace], reward: RewardConfig, source: SceneSource | None = None
) -> list[Rescored]:
    """Score finished episodes again under another reward, without the model.

    Rollouts of one group are scored together, so the look term is measured on siblings again.

    Args:
        traces: finished episodes; of a group, all its members.
        reward: the other reward.
        source: of the scenes; without it the ground truth stored in the traces is used.

    Returns:
        One result for each trace, in their order.

    Raises:
        TraceError: for an unfinished episode, or a group with members missing.
    """
    groups: dict[str, list[int]] = defaultdict(list)
    for position, trace in enumerate(traces):
        if not trace.ended:
            raise TraceError(f"episode {trace.episode}: expected a finished one, it never ended")
        key = trace.group if trace.group is not None else f"alone: {trace.episode}"
        groups[f"{trace.folder}: {key}"].append(position)
    results: dict[int, Rescored] = {}
    for key, positions in groups.items():
        members = [traces[p] for p in positions]
        if len(members) != members[0].group_size:
            raise TraceError(
                f"group {key}: expected {members[0].group_size} members, got {len(members)}"
            )
        scores = _score(members, reward, source)
        for position, trace, score in zip(positions, members, scores, strict=True):
            results[position] = Rescored(trace, score.terms, score.terms.total(reward.weights))
    return [results[p] for p in range(len(traces))]


def _score(
    members: Sequence[Trace], reward: RewardConfig, source: SceneSource | None
) -> list[Score]:
    """Replay one group to rebuild its outcomes, and score them together."""
    first = members[0]
    if source is None or first.scene_index is None:
        scene = first.stored_scene()
    else:
        scene = source[first.scene_index]
        _same_value(first.scene_id, scene.scene_id, f"episode {first.episode}: scene id")
    outcomes = []
    for trace in members:
        config = replace(trace.config, reward=reward)
        episode = Episode(scene, config, scene_index=trace.scene_index)
        for turn in trace.turns:
            episode.advance(turn.action)
        outcomes.append(episode.outcome)
    return score_group(outcomes, scene, replace(first.config, reward=reward), _siblings(members))


def _siblings(members: Sequence[Trace]) -> SiblingTable | None:
    """Return whose answers the look term of each member was measured on, None for all others.

    Members come in any order; a trace names its siblings by their index in the group.
    """
    if all(trace.siblings is None for trace in members):
        return None
    everyone = range(len(members))
    known = [
        set(everyone) - {trace.member} if trace.siblings is None else set(trace.siblings)
        for trace in members
    ]
    return np.array([[other.member in row for other in members] for row in known])
