"""The Ray actors behind a vector environment: each runs a range of whole groups."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import inf
from typing import Any

import numpy as np

from dip_agents.adapters.ray.worker import Part
from dip_agents.runtime.optional import require_extra
from dip_env.errors import ConfigError, DipError

require_extra("ray", "ray")

import ray
from ray.exceptions import GetTimeoutError, RayActorError


class WorkerDiedError(DipError, RuntimeError):
    """A worker process has died, and its episodes with it."""


class WorkerTimeoutError(DipError, TimeoutError):
    """A worker process has not answered in time: it is stopped, or overloaded."""


class WorkersNotStartedError(DipError, TimeoutError):
    """Workers did not start in time, most often for lack of resources in the cluster."""


class Workers:
    """Actors that share P groups.

    Args:
        groups: P.
        group_size: G, the members of each group.
        count: actors, from 1 to P.
        options: for Ray's ``options`` of each actor.
        start_timeout: seconds until all must have started.
        call_timeout: seconds until all must have answered a call.
        **keywords: as for ``DIPCrowdVectorEnv``.

    Raises:
        ConfigError: for more workers than groups, or none, or no time to start or to answer.
        WorkerDiedError: when an actor could not start; the others are then ended.
        WorkersNotStartedError: when some did not start in time; all are then ended.
    """

    def __init__(
        self,
        groups: int,
        group_size: int,
        count: int,
        options: Mapping[str, Any],
        start_timeout: float,
        call_timeout: float,
        **keywords: Any,
    ) -> None:
        """Start the actors and wait for them."""
        if not 1 <= count <= groups:
            raise ConfigError(
                f"num_workers: expected 1..{groups}, at most one a group, got {count}"
            )
        for name, seconds in (("start_timeout", start_timeout), ("call_timeout", call_timeout)):
            if not 0 < seconds < inf:
                raise ConfigError(f"{name}: expected seconds above 0, got {seconds}")
        self.call_timeout = call_timeout
        bounds = np.linspace(0, groups, count + 1).astype(int).tolist()
        self.groups = [slice(start, stop) for start, stop in pairwise(bounds)]
        """The groups of each actor."""
        actor = ray.remote(Part).options(**{"scheduling_strategy": "SPREAD", **options})
        self.handles = [
            actor.remote((part.stop - part.start) * group_size, group_size, **keywords)
            for part in self.groups
        ]
        self._session = _session()
        try:
            self._await_start(start_timeout, options)
        except BaseException:
            self.end()
            raise

    def call(self, method: str, *per_group: Sequence[Any]) -> list[Any]:
        """Call a method of all workers at the same time.

        Args:
            method: its name.
            *per_group: arguments with P entries; a worker gets those of its groups.

        Returns:
            The result of each worker, in order.

        Raises:
            WorkerDiedError: when an actor has died, or Ray has been shut down; other exceptions
                of an actor are raised as they are.
            WorkerTimeoutError: when an actor has not answered in time.
        """
        if not self._ray_runs():
            raise WorkerDiedError(
                "expected Ray to run, but it has been shut down, and the workers with it; "
                "close this environment and make a new one"
            )
        deadline = time.monotonic() + self.call_timeout
        calls = [
            getattr(handle, method).remote(*(values[part] for values in per_group))
            for handle, part in zip(self.handles, self.groups, strict=True)
        ]
        results = []
        for k, (call, part) in enumerate(zip(calls, self.groups, strict=True)):
            try:
                results.append(ray.get(call, timeout=max(0.0, deadline - time.monotonic())))
            except GetTimeoutError as error:
                raise WorkerTimeoutError(
                    f"expected worker {k}, which plays groups {part.start}..{part.stop - 1}, to "
                    f"answer within {self.call_timeout:g} s: it is stopped or overloaded; close "
                    "this environment and make a new one, or raise call_timeout"
                ) from error
            except RayActorError as error:
                raise WorkerDiedError(
                    f"expected worker {k} to play groups {part.start}..{part.stop - 1}, but it has "
                    f"died; close this environment and make a new one. Ray says: {error}"
                ) from error
        return results

    def end(self) -> None:
        """End the actors."""
        for handle in self.handles if self._ray_runs() else ():
            ray.kill(handle)

    def _ray_runs(self) -> bool:
        """Return whether Ray still runs as the actors know it, with them.

        After a shutdown they are gone, and a call would start Ray again, or be one to another Ray.
        """
        return ray.is_initialized() and _session() == self._session

    def _await_start(self, timeout: float, options: Mapping[str, Any]) -> None:
        """Wait until all have started; Ray itself would wait for resources forever."""
        pings = [handle.ping.remote() for handle in self.handles]
        standing, missing = ray.wait(pings, num_returns=len(pings), timeout=timeout)
        if missing:
            raise WorkersNotStartedError(
                f"expected {len(pings)} workers to stand within {timeout:g} s, got "
                f"{len(standing)}; each asks for {dict(options)}, and of the cluster's resources "
                f"{ray.available_resources()} are left: ask for fewer workers or less for each, or "
                f"raise start_timeout where machines are still to come"
            )
        # Ray counts dead actors as ready; another call raises for them.
        self.call("ping")


def _session() -> tuple[str, str]:
    """Return what tells this connection to Ray from any other."""
    context = ray.get_runtime_context()
    return context.get_node_id(), context.get_job_id()
