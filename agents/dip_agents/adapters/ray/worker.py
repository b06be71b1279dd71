"""The groups of one Ray worker; independent of Ray."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dip_env.vector_env import DIPCrowdVectorEnv, Flags


class Part(DIPCrowdVectorEnv):
    """The groups of one worker; its infos are by environment, and the caller merges them."""

    def ping(self) -> None:
        """Return, which shows that the actor has started."""

    def start(
        self, seeds: Sequence[Any], scenes: Sequence[Any], chosen: Sequence[bool]
    ) -> tuple[Any, ...]:
        """Reset the groups that are chosen, of which there may be none."""
        if not any(chosen):
            return self._observations(), {}, self._ended()
        mask = np.repeat(chosen, self.group_size)
        options = {"scene": scenes, "reset_mask": mask}
        observations, infos = self.reset(seed=seeds, options=options)
        return observations, infos, self._ended()

    def play(self, actions: Sequence[Sequence[str]]) -> tuple[Any, ...]:
        """Take a step; G actions for each group."""
        observations, *numbers, infos = self.step([text for row in actions for text in row])
        return observations, infos, self._ended(), *numbers

    def _ended(self) -> Flags:
        """Return which episodes have ended, (P, G)."""
        return np.array([[e.done for e in group.episodes] for group in self._started()])

    def _add_info(
        self, vector_infos: dict[Any, Any], env_info: dict[str, Any], env_num: int
    ) -> dict[Any, Any]:
        vector_infos[env_num] = env_info
        return vector_infos
