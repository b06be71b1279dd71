"""Agents that choose looks without learning, and the scores of any agent on held-out scenes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dip_env.boxes import covered_share
from dip_env.errors import ConfigError
from dip_env.metrics.intervals import Interval, bootstrap
from dip_wrappers.glimpse import Glimpse, GridLooks
from dip_wrappers.glimpse.maps import weight_inside

Counts = NDArray[np.int64]


class Agent(Protocol):
    """Chooses looks; models of stable-baselines3 fit."""

    def predict(self, observation: Any, *, deterministic: bool = True) -> tuple[Any, Any]:
        """Return an action and a state, which is not used."""
        ...


class RandomLooks:
    """Random cells, none twice in an episode: the lower bound of every table.

    Args:
        env: that it plays in.
        seed: of the choice.
        cells: indices of the cells, all by default. Small cells of a fine grid show few people
            each, so random large cells are the stronger baseline.
    """

    def __init__(self, env: Glimpse, seed: int = 0, cells: Sequence[int] | None = None) -> None:
        """Seed the choice."""
        self.env, self.rng = env, np.random.default_rng(seed)
        self.cells = list(range(len(grid_of(env).cells)) if cells is None else cells)
        self.order: list[int] = []

    def predict(self, observation: Any, *, deterministic: bool = True) -> tuple[Any, Any]:
        """Return a cell."""
        taken = len(self.env.episode.crops)
        if taken == 0:
            self.order = self.rng.permutation(self.cells).tolist()
        return self.order[taken % len(self.order)], None


class GridScan:
    """Cells in a fixed order.

    Args:
        env: whose cells.
        order: indices of the cells; by default all cells of the first level, from the middle row
            outwards.
    """

    def __init__(self, env: Glimpse, order: Sequence[int] | None = None) -> None:
        """Store the order."""
        side = grid_of(env).levels[0]
        middle_out = sorted(range(side), key=lambda row: abs(row - (side - 1) / 2))
        self.order = order or [row * side + column for row in middle_out for column in range(side)]
        self.env = env

    def predict(self, observation: Any, *, deterministic: bool = True) -> tuple[Any, Any]:
        """Return the next cell."""
        taken = len(self.env.episode.crops)
        return self.order[taken % len(self.order)], None


class MostDetections:
    """The cell with most detections, of any score, in the area not looked at: a hand-made rule.

    Args:
        env: that it plays in.
    """

    def __init__(self, env: Glimpse) -> None:
        """Store the environment."""
        self.env, self.cells = env, grid_of(env).cells

    def predict(self, observation: Any, *, deterministic: bool = True) -> tuple[Any, Any]:
        """Return the best cell, the first of equals."""
        cells = self.cells * np.tile(self.env.episode.scene.size, 2)
        found = self.env.found
        counts = weight_inside(cells, found.boxes, np.ones(len(found)))
        looked = covered_share(cells, [crop.region for crop in self.env.episode.crops])
        return int(np.argmax(counts * (1 - looked))), None


class OracleLooks:
    """The cell after which an answer earns most, chosen greedily with the ground truth.

    Args:
        env: that it plays in.
    """

    def __init__(self, env: Glimpse) -> None:
        """Store the environment."""
        self.env, self.cells = env, grid_of(env).cells

    def predict(self, observation: Any, *, deterministic: bool = True) -> tuple[Any, Any]:
        """Return the best cell, the first of equals."""
        worth = [self.env.worth(self.env.answer_after(cell)) for cell in self.cells]
        return int(np.argmax(worth)), None


def grid_of(env: Glimpse) -> GridLooks:
    """Return the grids of an environment whose actions are single cells.

    Raises:
        ConfigError: for other actions.
    """
    looks = env.looks
    if not isinstance(looks, GridLooks) or looks.at_once != 1:
        raise ConfigError(f"looks: expected GridLooks with one region an action, got {looks!r}")
    return looks


def match_counts(agent: Agent, env: Glimpse, scenes: Sequence[int]) -> Counts:
    """Let an agent play scenes, once each, and count how its answers match.

    Args:
        agent: that chooses the looks.
        env: that it plays in.
        scenes: indices of scenes in the source of the environment.

    Returns:
        (S, 3) per scene: matched boxes, answered boxes (except those that an ignore region drops),
        non-ignored instances.

    Raises:
        ConfigError: for no scenes.
    """
    if not len(scenes):
        raise ConfigError("scenes: expected at least one, got none")
    counts = []
    for scene in scenes:
        observation, info = env.reset(options={"scene": scene})
        done = False
        while not done:
            action, _ = agent.predict(observation, deterministic=True)
            observation, _, terminated, truncated, info = env.step(action)
            done = terminated or truncated
        matches = info["matches"]
        found = len(matches["pred"])
        counts.append(
            (found, found + len(matches["unmatched_pred"]), found + len(matches["unmatched_truth"]))
        )
    return np.array(counts)


def detection_scores(counts: Counts) -> dict[str, Interval]:
    """Return precision, recall and F1 over all scenes from ``match_counts``."""
    return bootstrap(lambda weights: _scores(weights @ counts), len(counts))


def _scores(total: NDArray[np.float64]) -> Mapping[str, float | None]:
    found, boxes, people = (float(value) for value in total)
    return {
        "precision": found / boxes if boxes else None,
        "recall": found / people if people else None,
        "F1": 2 * found / (boxes + people) if boxes + people else None,
    }
