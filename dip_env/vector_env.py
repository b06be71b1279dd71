"""Groups of episodes as one Gymnasium vector environment: each run of G members shares a scene."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array
from numpy.typing import NDArray

from dip_env.checks import check_bytes, check_integer
from dip_env.config import EpisodeConfig
from dip_env.env import (
    RENDER_MODES,
    SOURCE_KEYWORDS,
    Arrays,
    action_space,
    check_options,
    check_render_mode,
    info_of,
    observation_space,
    observe,
    open_source,
    pick_scene,
)
from dip_env.errors import ConfigError, EpisodeOverError
from dip_env.group import MAX_GROUP_SIZE, EpisodeGroup
from dip_env.rendering import render_frame, transcript_text
from dip_env.scenes import SceneSource
from dip_env.spaces import ActionSpace

MAX_BATCH = 2**34
"""Most bytes of an array of all observations."""

Flags = NDArray[np.bool_]


class DIPCrowdVectorEnv(VectorEnv[Arrays, Sequence[str], NDArray[Any]]):
    """P groups of G environments; the members of a group share a scene and end together.

    A member that has ended waits: reward 0, ``infos["waiting"]`` True, its further actions
    ignored. In the step in which the last member of a group ends, all G terminate (or, without an
    answer, truncate) and get their rewards; with G >= 3 the look term is measured on a member's
    siblings. Actions, observations and the other infos are those of ``DIPCrowdEnv``.

    With ``autoreset_mode="NextStep"`` the step after the end starts a new scene and ignores the
    group's actions. With ``"Disabled"`` a group that has ended must be reset before the next step:
    ``reset(options={"reset_mask": mask})`` with a mask that covers whole groups.

    Args:
        num_envs: P * G environments.
        group_size: G, the members of each group.
        autoreset_mode: ``"NextStep"`` or ``"Disabled"``, or Gymnasium's enum.
        scenes: name of a preset or reader (see ``make_source``), or a ``SceneSource``.
        render_mode: ``rgb_array``, ``ansi`` or None.
        **keywords: further keywords of ``DIPCrowdEnv``: those of the source (``root``, ``split``,
            ``scene_seed``, ``source_kwargs``) and any field of ``EpisodeConfig`` and
            ``RewardConfig``.

    Raises:
        ConfigError: for an unknown name or a value out of range.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 (Gymnasium's)
        "render_modes": list(RENDER_MODES),
        "render_fps": 2,
        "autoreset_mode": AutoresetMode.NEXT_STEP,
    }

    def __init__(
        self,
        num_envs: int = 1,
        group_size: int = 1,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        scenes: str | SceneSource = "crowd",
        render_mode: str | None = None,
        **keywords: Any,
    ) -> None:
        """Open the source and lay out the spaces."""
        group_size = check_integer("group_size", group_size, 1, MAX_GROUP_SIZE)
        num_envs = check_integer("num_envs", num_envs, 0)
        if not num_envs or num_envs % group_size:
            raise ConfigError(
                f"num_envs: expected a positive multiple of group_size={group_size}, got {num_envs}"
            )
        of_source = {name: keywords.pop(name) for name in SOURCE_KEYWORDS if name in keywords}
        self.config = EpisodeConfig.from_keywords(keywords)
        self.source = open_source(scenes, **of_source)
        self.render_mode = check_render_mode(render_mode)
        self.metadata = {**self.metadata, "autoreset_mode": _checked_mode(autoreset_mode)}
        self.num_envs, self.group_size = num_envs, group_size
        self.single_observation_space = observation_space(self.config)
        arrays = self.single_observation_space.spaces.values()
        check_bytes(
            "num_envs, view_size, crop_size, max_looks, max_regions",
            num_envs * max(math.prod(space.shape or ()) for space in arrays),
            MAX_BATCH,
            "observations",
        )
        self.single_action_space = action_space(self.config)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._action_spaces = cast(Iterable[ActionSpace], self.action_space)
        self.groups: list[EpisodeGroup | None] = [None] * (num_envs // group_size)
        """The P groups; None before the first reset."""
        self._rngs = [seeding.np_random()[0] for _ in self.groups]

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Arrays, dict[str, Any]]:
        """Start new scenes.

        Args:
            seed: group p gets ``seed + p``, or entry p of a sequence of P seeds.
            options: ``scene``: an index for all groups, or P of them; ``reset_mask``: bool
                (num_envs,) of the environments to reset, whole groups only; default all.

        Returns:
            Observations of all environments; infos of those that were reset.

        Raises:
            ConfigError: for another option, a mask that splits a group, or P that do not fit.
            IndexError: for a scene that the source does not have.
            ResetNeeded: for a mask before the first reset.
        """
        wishes = check_options(options, {"scene", "reset_mask"})
        chosen = np.ones(len(self.groups), bool)
        if "reset_mask" in wishes:
            chosen = self._groups_in(wishes["reset_mask"])
        if any(group is None for group, new in zip(self.groups, chosen, strict=True) if not new):
            raise ResetNeeded("expected a reset of all groups before one with a reset_mask")
        scenes = self._per_group("scene", wishes.get("scene"))
        seeds, common = self._seeds(seed)
        infos: dict[str, Any] = {}
        with self._all_or_nothing():
            starting = np.flatnonzero(chosen).tolist()
            for p in starting:
                if seeds[p] is not None:
                    self._rngs[p] = seeding.np_random(seeds[p])[0]
            for p in starting:
                self._start(p, pick_scene(self.source, self._rngs[p], scenes[p]), infos)
            super().reset(seed=common)
            return self._observations(), infos

    def step(
        self, actions: Sequence[str]
    ) -> tuple[Arrays, NDArray[np.float64], Flags, Flags, dict[str, Any]]:
        """Take one action per environment.

        Args:
            actions: num_envs texts; those of waiting members and of resetting groups are ignored.

        Returns:
            Observations, rewards, terminations, truncations (num_envs,) and infos.

        Raises:
            TypeError: when the action of a member that has not ended is not a string.
            ValueError: for another number of actions than environments.
            EpisodeOverError: when autoreset is disabled and a group has ended.
            ResetNeeded: before the first reset.
        """
        groups = self._started()
        self._check_actions(actions, groups)
        rewards = np.zeros(self.num_envs)
        terminations, truncations = np.zeros((2, self.num_envs), bool)
        infos: dict[str, Any] = {}
        if ended := [p for p, group in enumerate(groups) if group.done]:
            with self._all_or_nothing():  # scenes may be unreadable, so they start before any acts
                for p in ended:
                    self._start(p, pick_scene(self.source, self._rngs[p]), infos)
        for p, group in enumerate(groups):
            if group.done:
                continue
            first = p * self.group_size
            turns = group.step(actions[first : first + self.group_size])
            for i, (episode, turn) in enumerate(zip(group.episodes, turns, strict=True), first):
                rewards[i], terminations[i], truncations[i] = (
                    turn.reward,
                    turn.terminated,
                    turn.truncated,
                )
                self._add_info(infos, info_of(episode, turn), i)
        return self._observations(), rewards, terminations, truncations, infos

    def render(self) -> tuple[Any, ...] | None:
        """Return one image or transcript per environment, or None without a render mode."""
        if self.render_mode is None:
            return None
        if self.render_mode == "ansi":
            return tuple(
                transcript_text(episode.transcript)
                for group in self._started()
                for episode in group.episodes
            )
        return tuple(
            render_frame(episode, group.scores[g] if group.done else None)
            for group in self._started()
            for g, episode in enumerate(group.episodes)
        )

    @contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        """Leave groups and random states as they were where a scene cannot start."""
        before = list(self.groups), list(self._rngs)
        states = [rng.bit_generator.state for rng in self._rngs]
        try:
            yield
        except BaseException:
            self.groups, self._rngs = before
            for rng, state in zip(self._rngs, states, strict=True):
                rng.bit_generator.state = state
            raise

    def _start(self, p: int, index: int, infos: dict[str, Any]) -> None:
        """Start group p on a scene and add the infos of its members."""
        group = EpisodeGroup(self.source[index], self.config, self.group_size, index)
        _ = group.episodes[0].opening  # reads the image, which may be damaged
        self.groups[p] = group
        for i, episode in enumerate(group.episodes, start=p * self.group_size):
            self._add_info(infos, {**info_of(episode), "waiting": False}, i)

    def _started(self) -> list[EpisodeGroup]:
        """Return the groups, which ``reset`` must have started."""
        groups = [group for group in self.groups if group is not None]
        if len(groups) < len(self.groups):
            raise ResetNeeded("expected reset() before the first step() or render()")
        return groups

    def _check_actions(self, actions: Sequence[str], groups: Sequence[EpisodeGroup]) -> None:
        """Refuse a wrong call before any group has taken a step."""
        if isinstance(actions, str):
            raise TypeError(f"actions: expected {self.num_envs} strings, got one string")
        if len(actions) != self.num_envs:
            raise ValueError(f"actions: expected {self.num_envs}, got {len(actions)}")
        ended = [p for p, group in enumerate(groups) if group.done]
        if ended and self.metadata["autoreset_mode"] is AutoresetMode.DISABLED:
            raise EpisodeOverError(
                f"expected reset(options={{'reset_mask': ...}}) as groups {ended} have ended, "
                "got another step"
            )
        episodes = [episode for group in groups for episode in group.episodes]
        for i, (episode, action) in enumerate(zip(episodes, actions, strict=True)):
            if not episode.done and not isinstance(action, str):
                raise TypeError(f"actions[{i}]: expected str, got {type(action).__name__}")

    def _per_group(self, name: str, value: Any) -> list[Any]:
        """Return one value per group from one for all or P of them."""
        if np.ndim(value) == 0:
            return [value] * len(self.groups)
        if len(value) != len(self.groups):
            raise ConfigError(
                f"{name}: expected one or {len(self.groups)}, one per group, got {len(value)}"
            )
        return list(value)

    def _seeds(self, seed: Any) -> tuple[list[Any], int | None]:
        """Return a seed for each group, and the one that they follow from, where there is one."""
        if isinstance(seed, int | np.integer):
            return [int(seed) + p for p in range(len(self.groups))], int(seed)
        seeds = self._per_group("seed", seed)
        return [int(one) if isinstance(one, np.integer) else one for one in seeds], None

    def _groups_in(self, mask: Any) -> Flags:
        """Return the groups that a reset mask covers, (P,): whole ones, at least one."""
        mask = np.asarray(mask)
        if mask.shape != (self.num_envs,) or mask.dtype != np.bool_:
            raise ConfigError(
                f"reset_mask: expected bool ({self.num_envs},), got {mask.dtype} {mask.shape}"
            )
        rows = mask.reshape(-1, self.group_size)
        split = np.flatnonzero(rows.any(axis=1) & ~rows.all(axis=1))
        if split.size:
            raise ConfigError(
                f"reset_mask: expected whole groups of {self.group_size}, "
                f"got part of group {split[0]}: {rows[split[0]].tolist()}"
            )
        if not mask.any():
            raise ConfigError("reset_mask: expected at least one True, got none")
        return rows.all(axis=1)

    def _observations(self) -> Arrays:
        """Return the batched observations as fresh arrays."""
        episodes = [episode for group in self._started() for episode in group.episodes]
        for actions, episode in zip(self._action_spaces, episodes, strict=True):
            actions.narrow(episode.view.text_size, episode.looks_left)
        single = [observe(episode) for episode in episodes]
        space = self.single_observation_space
        out = create_empty_array(space, self.num_envs, np.empty)
        return cast(Arrays, concatenate(space, single, cast(Arrays, out)))


def _checked_mode(mode: str | AutoresetMode) -> AutoresetMode:
    """Return Gymnasium's enum of an autoreset mode that groups support."""
    known = (AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED)
    for candidate in known:
        if mode in (candidate, candidate.value):
            return candidate
    raise ConfigError(f"autoreset_mode: expected {[m.value for m in known]}, got {mode!r}")
