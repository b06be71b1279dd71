"""The session of one client of an OpenEnv server; independent of the network."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gymnasium.error import ResetNeeded
from gymnasium.utils import seeding

from dip_agents.adapters.task import Task
from dip_agents.runtime.optional import require_extra
from dip_env.env import pick_scene
from dip_env.episode import Episode
from dip_env.errors import ConfigError, SceneError

require_extra("openenv", "openenv")

from openenv.core.env_server.interfaces import Environment

from dip_agents.adapters.openenv import client as wire

_LOG = logging.getLogger(__name__)


class CrowdEnvironment(Environment[wire.CrowdAction, wire.CrowdObservation, wire.CrowdState]):
    """One session.

    Args:
        task: scenes and rules, shared by all sessions.
    """

    SUPPORTS_CONCURRENT_SESSIONS = True
    # A source need not be thread-safe: all sessions read it from one thread.
    REQUIRES_SINGLE_THREAD_EXECUTOR = True

    def __init__(self, task: Task) -> None:
        """Wait for a reset."""
        super().__init__()
        self._task, self._state = task, wire.CrowdState()
        self._episode: Episode | None = None
        self._rng = seeding.np_random(None)[0]

    def reset(
        self,
        seed: int | None = None,
        episode_id: str | None = None,
        scene: int | None = None,
        **others: Any,
    ) -> wire.CrowdObservation:
        """Start an episode of this session; its first message is returned.

        Args:
            seed: fixes the scene of this and all later episodes, as for ``DIPCrowdEnv``.
            episode_id: a label that ``state`` repeats.
            scene: index of the scene, instead of drawing one.
            **others: must be empty: a client chooses nothing else.

        Raises:
            ConfigError: for any other argument.
            IndexError: for a scene that the source does not have.
            TypeError: for an index that is not an integer.
            SceneError: when the scene cannot be read.
        """
        for name in others:
            raise ConfigError(f"reset: expected seed, episode_id or scene, got {name!r}")
        if isinstance(scene, bool) or not isinstance(scene, int | None):
            raise TypeError(f"scene: expected an integer or None, got {type(scene).__name__}")
        rng = self._rng if seed is None else seeding.np_random(seed)[0]
        index = pick_scene(self._task.source, rng, scene)
        state = wire.CrowdState(episode_id=episode_id, scene=index)
        with _unread_in_the_log(index):
            episode = self._task.episode(index)
            first = wire.CrowdObservation(content=wire.content_of(episode.opening))
        # Stored last, so that a refused reset leaves the running episode as it was.
        self._rng, self._state, self._episode = rng, state, episode
        return first

    def step(self, action: wire.CrowdAction, *_: Any, **__: Any) -> wire.CrowdObservation:
        """Take one action; OpenEnv's further arguments, such as a time limit, are not needed.

        Raises:
            ResetNeeded: before the first reset.
            EpisodeOverError: when the episode has ended.
            SceneError: when the scene cannot be read; the episode stays as it was.
        """
        episode = self._episode
        if episode is None:
            raise ResetNeeded("expected a reset before the first step")
        with _unread_in_the_log(self._state.scene):
            # An episode stores its actions; one character too many is refused as millions are.
            turn = episode.step(action.text[: episode.grammar.max_chars + 1])
        self._state.step_count, self._state.done = episode.turn, episode.done
        return wire.CrowdObservation(
            content=wire.content_of(turn.message),
            parse_error=turn.parse_error,
            reward_terms=None if turn.result is None else turn.result.terms.as_dict(),
            reward=turn.reward,
            done=episode.done,
        )

    @property
    def state(self) -> wire.CrowdState:
        """The state of this session."""
        return self._state


@contextmanager
def _unread_in_the_log(scene: int | None) -> Iterator[None]:
    """Log an unreadable file on the server only: the message names folders of the server."""
    try:
        yield
    except (OSError, SceneError) as error:
        _LOG.exception("scene %s cannot be read", scene)
        message = f"scene {scene} cannot be read; the server's log says why"
        raise SceneError(message) from error
