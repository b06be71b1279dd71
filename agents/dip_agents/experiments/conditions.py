"""Play the arms of a comparison on looking, and say as plain values what each came to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dip_agents.evaluation.evaluate import evaluate_arms
from dip_agents.evaluation.play import Arm
from dip_agents.evaluation.result import EvalResult
from dip_agents.experiments.measures import (
    GainHarm,
    Landing,
    compared,
    landing_of,
    mean_landing,
)
from dip_agents.policies.base import Policy, RememberingPolicy
from dip_env.errors import ConfigError
from dip_env.group import EpisodeGroup
from dip_env.metrics.intervals import Interval, bootstrap
from dip_env.scenes.base import SceneSource

HOW_MEASURED: Mapping[str, Any] = {
    "interval_level": 0.95,
    "interval_method": "bootstrap over scenes, percentile; differences paired by scene",
    "iou_threshold": 0.5,
}
"""What holds of the numbers of every arm."""


def check_arms(what: str, names: Sequence[str], indices: Sequence[int]) -> None:
    """Check that there is something to compare.

    Args:
        what: is measured; the message begins with it.
        names: of the arms.
        indices: of the scenes.

    Raises:
        ConfigError: for no scenes, or two arms of one name.
    """
    if not len(indices):
        raise ConfigError(f"{what}: expected at least one scene, got none")
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{what}: expected one arm named {name!r}, got several")


def play_arms(
    policy: Policy,
    source: SceneSource,
    indices: Sequence[int],
    arms: Mapping[str, Arm],
    *,
    seed: int = 0,
    batch_size: int = 16,
    workers: int = 0,
    on_batch: Callable[[int, int], None] | None = None,
) -> tuple[dict[str, EvalResult], dict[str, tuple[Landing, ...]]]:
    """Play a policy in every arm and measure where its looks land; see ``evaluate_arms``.

    Returns:
        An evaluation for each arm, and a landing of each scene for each arm, both by name.
    """
    landings: dict[str, list[Landing]] = {name: [] for name in arms}

    def note(name: str, group: EpisodeGroup) -> None:
        landings[name].append(landing_of(group.episodes[0]))

    results = evaluate_arms(
        # Most arms begin alike: what is said there is said once, and to the letter the same.
        RememberingPolicy(policy),
        source,
        indices,
        arms,
        batch_size=batch_size,
        seed=seed,
        workers=workers,
        on_batch=on_batch,
        on_group=note,
    )
    return results, {name: tuple(those) for name, those in landings.items()}


def arm_values(result: EvalResult, landings: Sequence[Landing], seed: int) -> dict[str, Any]:
    """Return what one arm came to.

    Args:
        result: its evaluation.
        landings: of its looks, one for each scene.
        seed: of the bootstrap.

    Returns:
        ``metrics`` (those ``COMPARED`` that are defined) and ``looks`` (where they landed), each
        with value, low and high.
    """
    return {
        "metrics": plain(bootstrap(compared(result.score), result.n, seed=seed)),
        "looks": plain(mean_landing(landings, seed=seed)),
    }


def gain_harm_values(split: GainHarm) -> dict[str, Any]:
    """Return a split of gain and harm, its mean with value, low and high."""
    return {**vars(split), "mean": plain({"mean": split.mean})["mean"]}


def plain(intervals: Mapping[str, Interval]) -> dict[str, dict[str, float | None]]:
    """Return the intervals that have a value."""
    return {
        name: {"value": found.value, "low": found.low, "high": found.high}
        for name, found in intervals.items()
        if found.value is not None
    }
