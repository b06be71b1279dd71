"""Ray: a vector environment whose groups run in other processes or on other machines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from types import SimpleNamespace
from typing import Any

import numpy as np
from gymnasium.error import ClosedEnvironmentError, ResetNeeded
from gymnasium.utils import seeding
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray

from dip_agents.adapters.ray.workers import Workers
from dip_env.env import Arrays, check_options, pick_scene
from dip_env.vector_env import DIPCrowdVectorEnv, Flags


class RayVectorEnv(DIPCrowdVectorEnv):
    """``DIPCrowdVectorEnv`` whose groups are played by Ray actors, whole groups by each.

    The same seeds and actions give the same results as in the local environment, group rewards
    included. The episodes live in the actors, so ``groups`` stays empty. Both sides open the
    source: files must be on every machine. Start Ray first, or it starts by itself on this machine
    alone.

    Args:
        num_envs: P * G environments.
        group_size: G, the members of each group.
        num_workers: actors, from 1 to P.
        actor_options: for Ray's ``options`` of each actor, such as ``{"num_cpus": 1}``.
        start_timeout: seconds until all actors must have started.
        call_timeout: seconds until all must have answered a reset or a step.
        **keywords: as for ``DIPCrowdVectorEnv``.

    Raises:
        ConfigError: for an unknown name or a value out of range.
        WorkerDiedError: when an actor could not start; calls raise it when one has died, or Ray has
            been shut down.
        WorkerTimeoutError: in calls that an actor does not answer in time.
        WorkersNotStartedError: when actors did not start in time, as for lack of resources.
    """

    def __init__(
        self,
        num_envs: int = 1,
        group_size: int = 1,
        *,
        num_workers: int = 1,
        actor_options: Mapping[str, Any] | None = None,
        start_timeout: float = 60.0,
        call_timeout: float = 600.0,
        **keywords: Any,
    ) -> None:
        """Start the actors."""
        super().__init__(num_envs, group_size, **keywords)
        self._ended: Flags | None = None
        """Which episodes have ended, (P, G); None before the first reset."""
        self.workers = Workers(
            len(self.groups),
            group_size,
            num_workers,
            actor_options or {},
            start_timeout,
            call_timeout,
            **keywords,
        )

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Arrays, dict[str, Any]]:
        """Start new scenes, as ``DIPCrowdVectorEnv.reset`` does."""
        wishes = check_options(options, {"scene", "reset_mask"})
        chosen = self._groups_in(wishes.get("reset_mask", np.ones(self.num_envs, bool)))
        if self._ended is None and not chosen.all():
            raise ResetNeeded("expected a reset of all groups before one with a reset_mask")
        scenes = self._per_group("scene", wishes.get("scene"))
        seeds, common = self._seeds(seed)
        # A wrong index or seed is refused before any worker takes a step.
        for p in np.flatnonzero(chosen):
            if seeds[p] is not None:
                seeding.np_random(seeds[p])
            if scenes[p] is not None:
                pick_scene(self.source, self._rngs[p], scenes[p])
        VectorEnv.reset(self, seed=common)
        observations, infos = self._joined(self._call("start", seeds, scenes, chosen.tolist()))[:2]
        return observations, infos

    def step(
        self, actions: Sequence[str]
    ) -> tuple[Arrays, NDArray[np.float64], Flags, Flags, dict[str, Any]]:
        """Take one action per environment, as ``DIPCrowdVectorEnv.step`` does."""
        self._check_actions(actions, self._started())
        size = self.group_size
        rows = [actions[p * size : (p + 1) * size] for p in range(len(self.groups))]
        observations, infos, numbers = self._joined(self._call("play", rows))
        rewards, terminations, truncations = map(np.concatenate, numbers)
        return observations, rewards, terminations, truncations, infos

    def render(self) -> tuple[Any, ...] | None:
        """Return one image or transcript per environment, or None without a render mode."""
        if self.render_mode is None:
            return None
        self._started()
        return tuple(chain(*self._call("render")))

    def close_extras(self, **kwargs: Any) -> None:
        """End the actors."""
        self.workers.end()

    def _call(self, method: str, *per_group: Sequence[Any]) -> list[Any]:
        if self.closed:
            raise ClosedEnvironmentError("expected no call after close(), got another one")
        return self.workers.call(method, *per_group)

    def _started(self) -> list[Any]:
        """Return stand-ins for the groups, with the attributes that the checks read."""
        if self._ended is None:
            raise ResetNeeded("expected reset() before the first step() or render()")
        return [
            SimpleNamespace(done=row.all(), episodes=[SimpleNamespace(done=done) for done in row])
            for row in self._ended
        ]

    def _joined(self, parts: Sequence[tuple[Any, ...]]) -> tuple[Arrays, dict[str, Any], Any]:
        """Merge the results of the workers: observations, infos and further arrays."""
        observed, infos_of, ended, *numbers = zip(*parts, strict=True)
        self._ended = np.concatenate(ended)
        observations = {}
        for name in observed[0]:
            values = [part[name] for part in observed]
            arrays = isinstance(values[0], np.ndarray)
            observations[name] = np.concatenate(values) if arrays else tuple(chain(*values))
        infos: dict[str, Any] = {}
        for groups, found in zip(self.workers.groups, infos_of, strict=True):
            for i, info in found.items():
                self._add_info(infos, info, groups.start * self.group_size + i)
        return observations, infos, numbers
