"""Play the conditions of a comparison on looking, and say as plain values what each came to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dip_agents.evaluation.evaluator import evaluate_conditions
from dip_agents.evaluation.play import EvalCondition
from dip_agents.evaluation.result import EvalResult
from dip_agents.experiments.measures import (
    GainHarm,
    LookCoverage,
    compared,
    look_coverage_of,
    mean_look_coverage,
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
"""What holds of the numbers of every condition."""


def check_conditions(what: str, names: Sequence[str], indices: Sequence[int]) -> None:
    """Check that there is something to compare.

    Args:
        what: is measured; the message begins with it.
        names: of the conditions.
        indices: of the scenes.

    Raises:
        ConfigError: for no scenes, or two conditions of one name.
    """
    if not len(indices):
        raise ConfigError("indices: expected at least one scene, got none")
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{what}: expected one condition named {name!r}, got several")


def play_conditions(
    policy: Policy,
    source: SceneSource,
    indices: Sequence[int],
    conditions: Mapping[str, EvalCondition],
    *,
    seed: int = 0,
    batch_size: int = 16,
    workers: int = 0,
    on_batch: Callable[[int, int], None] | None = None,
) -> tuple[dict[str, EvalResult], dict[str, tuple[LookCoverage, ...]]]:
    """Play a policy in every condition and measure what its looks cover.

    Returns:
        An evaluation for each condition, and a look coverage of each scene for each condition, both
        by name.
    """
    look_coverages: dict[str, list[LookCoverage]] = {name: [] for name in conditions}

    def note(name: str, group: EpisodeGroup) -> None:
        look_coverages[name].append(look_coverage_of(group.episodes[0]))

    results = evaluate_conditions(
        # Most conditions begin alike: what is said there is said once, and to the letter the same.
        RememberingPolicy(policy),
        source,
        indices,
        conditions,
        batch_size=batch_size,
        seed=seed,
        workers=workers,
        on_batch=on_batch,
        on_group=note,
    )
    return results, {name: tuple(those) for name, those in look_coverages.items()}


def condition_values(
    result: EvalResult, look_coverages: Sequence[LookCoverage], seed: int
) -> dict[str, Any]:
    """Return what one condition came to.

    Args:
        result: its evaluation.
        look_coverages: of its looks, one for each scene.
        seed: of the bootstrap.

    Returns:
        ``metrics`` (those ``COMPARED`` that are defined) and ``looks`` (where they landed), each
        with value, low and high.
    """
    return {
        "metrics": to_plain(bootstrap(compared(result.score), result.n, seed=seed)),
        "looks": to_plain(mean_look_coverage(look_coverages, seed=seed)),
    }


def gain_harm_values(split: GainHarm) -> dict[str, Any]:
    """Return a split of gain and harm, its mean with value, low and high."""
    return {**vars(split), "mean": to_plain({"mean": split.mean})["mean"]}


def to_plain(intervals: Mapping[str, Interval]) -> dict[str, dict[str, float | None]]:
    """Return the intervals that have a value."""
    return {
        name: {"value": found.value, "low": found.low, "high": found.high}
        for name, found in intervals.items()
        if found.value is not None
    }
