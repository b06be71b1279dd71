"""Scenes behind an OpenEnv server: ``python -m dip_agents.adapters.openenv --scenes crowd``.

Scenes and rules are the server's, told when it starts. A client chooses a seed or the index of a
scene, never a path, a source or a rule. Each session plays episodes of its own, on scenes that all
sessions share; without siblings the look term is measured by the annotation prior.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from typing import Any

from gymnasium.error import ResetNeeded
from gymnasium.utils import seeding

from dip_agents.adapters.task import Task
from dip_agents.needs import needs
from dip_env.env import pick_scene
from dip_env.episode import Episode
from dip_env.errors import ConfigError

needs("openenv", "openenv")

import uvicorn  # noqa: E402
from fastapi import FastAPI, WebSocketDisconnect  # noqa: E402
from openenv.core.env_server.http_server import HTTPEnvServer  # noqa: E402
from openenv.core.env_server.interfaces import Environment  # noqa: E402

from dip_agents.adapters import openenv_client as wire  # noqa: E402

ROUTES = ("/ws", "/health", "/metadata", "/schema")
"""All that a server offers; episodes are played on ``/ws``."""


class CrowdEnvironment(Environment[wire.CrowdAction, wire.CrowdObservation, wire.CrowdState]):
    """One session.

    Args:
        task: scenes and rules, shared by all sessions.
    """

    SUPPORTS_CONCURRENT_SESSIONS = True
    # A source need not bear several threads: all sessions read it from one.
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
            **others: must be empty: nothing else is the client's to choose.

        Raises:
            ConfigError: for any other argument.
            IndexError, TypeError: for what is no index of a scene.
        """
        for name in others:
            raise ConfigError(f"reset: expected seed, episode_id or scene, got {name!r}")
        if not isinstance(scene, int | None):
            raise TypeError(f"scene: expected an integer or None, got {type(scene).__name__}")
        rng = self._rng if seed is None else seeding.np_random(seed)[0]
        index = pick_scene(self._task.source, rng, scene)
        state = wire.CrowdState(episode_id=episode_id, scene=index)
        episode = self._task.episode(index)
        first = wire.CrowdObservation(content=wire.content_of(episode.opening))
        # Taken over last, so that a refused reset leaves the running episode as it was.
        self._rng, self._state, self._episode = rng, state, episode
        return first

    def step(self, action: wire.CrowdAction, *_: Any, **__: Any) -> wire.CrowdObservation:
        """Take one action; OpenEnv's further arguments, such as a time limit, are not needed.

        Raises:
            ResetNeeded: before the first reset.
            EpisodeOverError: when the episode has ended.
        """
        if self._episode is None:
            raise ResetNeeded("expected a reset before the first step")
        turn = self._episode.step(action.text)
        self._state.step_count, self._state.done = self._episode.turn, self._episode.done
        return wire.CrowdObservation(
            content=wire.content_of(turn.message),
            parse_error=turn.info["parse_error"],
            reward_terms=turn.info.get("reward_terms"),
            reward=turn.reward,
            done=self._episode.done,
        )

    @property
    def state(self) -> wire.CrowdState:
        """Where this session stands."""
        return self._state


def make_app(task: Task, max_sessions: int = 64) -> FastAPI:
    """Build the server; only ``ROUTES`` are kept of what OpenEnv would offer.

    Its web page shows one episode to all visitors, its ``/reset`` and ``/step`` forget the episode
    between two calls, and sessions opened on ``/mcp`` stay until somebody closes them.

    Args:
        task: scenes and rules.
        max_sessions: clients at a time; further ones are refused.
    """
    app = FastAPI(title="dip_crowd", docs_url=None, redoc_url=None, openapi_url=None)
    session = partial(CrowdEnvironment, task)
    server = HTTPEnvServer(session, wire.CrowdAction, wire.CrowdObservation, max_sessions)
    server.register_routes(app)
    # OpenEnv also closes the socket of a client that has left, which is no error of the server.
    app.add_exception_handler(WebSocketDisconnect, lambda *_: None)
    app.router.routes[:] = [r for r in app.router.routes if getattr(r, "path", None) in ROUTES]
    return app


def main() -> None:
    """Serve from the command line."""
    parser = argparse.ArgumentParser(prog="python -m dip_agents.adapters.openenv")
    more = 'further keywords of gym.make, such as {"root": "data", "view_size": 672}'
    parser.add_argument("--scenes", default="crowd", help="name of the scenes")
    parser.add_argument("--keywords", type=json.loads, default={}, metavar="JSON", help=more)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=8000)
    args = parser.parse_args()
    uvicorn.run(make_app(Task(args.scenes, **args.keywords)), host=args.host, port=args.port)


if __name__ == "__main__":
    main()
