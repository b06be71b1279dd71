"""Evaluations of the same scenes beside each other, in pairs: over scenes, and over seeds.

A run is one evaluation or several of one kind, one for each seed; its value is the mean over the
seeds of a metric pooled over scenes. Every bootstrap sample draws the same scenes for all runs, and
for runs with several seeds it draws seeds as well (a two-way percentile bootstrap), the same ones
for runs that have equally many. So scenes that are easy or hard cancel out of a difference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from dip_agents.evaluation.result import EvalResult
from dip_agents.evaluation.scores import METRICS
from dip_env.errors import ConfigError
from dip_env.formats.box_sets import Floats
from dip_env.metrics.intervals import Interval, differences, percentile_intervals, resamples

ROUNDS = 1000
"""Samples of the bootstrap."""


@dataclass(frozen=True)
class Comparison:
    """Runs beside each other.

    Args:
        n: scenes.
        seeds: evaluations of each run.
        metrics: of each run, by the name of the metric.
        differences: of each run but the first to the first, in pairs.
    """

    n: int
    seeds: Mapping[str, int]
    metrics: Mapping[str, Mapping[str, Interval]]
    differences: Mapping[str, Mapping[str, Interval]]

    @property
    def reference(self) -> str:
        """The run that the others are compared with."""
        return next(iter(self.metrics))

    def to_json(self) -> dict[str, Any]:
        """Return plain values: each interval with value, low and high, null where undefined."""

        def plain(runs: Mapping[str, Mapping[str, Interval]]) -> dict[str, Any]:
            return {
                run: {name: asdict(interval) for name, interval in metrics.items()}
                for run, metrics in runs.items()
            }

        return {
            "n": self.n,
            "seeds": dict(self.seeds),
            "reference": self.reference,
            "metrics": plain(self.metrics),
            "differences": plain(self.differences),
        }


def compare_runs(runs: Mapping[str, Sequence[EvalResult]], *, seed: int = 0) -> Comparison:
    """Compare runs on the same scenes.

    Args:
        runs: by name, one evaluation for each seed; the first run is the reference.
        seed: of the bootstrap.

    Returns:
        The comparison.

    Raises:
        ConfigError: when the runs were measured on other scenes.
    """
    n = _check_same_scenes(runs)
    once = np.ones(n)
    whole = {name: _mean(results, once) for name, results in runs.items()}
    samples: dict[str, list[dict[str, float | None]]] = {name: [] for name in runs}
    rng = np.random.default_rng([seed, 1])
    for counts in resamples(n, ROUNDS, seed):
        drawn: dict[int, list[int]] = {}
        for name, results in runs.items():
            size = len(results)
            if size not in drawn:
                drawn[size] = list(rng.integers(size, size=size)) if size > 1 else [0]
            samples[name].append(_mean([results[k] for k in drawn[size]], counts))
    reference = next(iter(runs))
    return Comparison(
        n=n,
        seeds={name: len(results) for name, results in runs.items()},
        metrics={name: percentile_intervals(whole[name], samples[name], n) for name in runs},
        differences={
            name: percentile_intervals(
                differences(whole[reference], whole[name]),
                list(map(differences, samples[reference], samples[name])),
                n,
            )
            for name in runs
            if name != reference
        },
    )


def _check_same_scenes(runs: Mapping[str, Sequence[EvalResult]]) -> int:
    """Return the number of scenes that all runs were measured on."""
    first_name, first = next((name, results[0]) for name, results in runs.items())
    truth = first.score.unscored
    for name, results in runs.items():
        for result in results:
            other = result.score.unscored
            people = truth.people[: first.n], other.people[: result.n]
            if result.scene_indices != first.scene_indices or not np.array_equal(*people):
                raise ConfigError(
                    f"{name}: expected the same scenes as {first_name}, got others: only runs on "
                    "equal scenes can be compared in pairs"
                )
    return first.n


def _mean(results: Sequence[EvalResult], counts: Floats) -> dict[str, float | None]:
    """Return the mean of each metric over seeds; None where one of them does not define it."""
    values = [result.score.values(counts) for result in results]
    means: dict[str, float | None] = {}
    for name in METRICS:
        defined = [v for value in values if (v := value[name]) is not None]
        means[name] = sum(defined) / len(defined) if len(defined) == len(values) else None
    return means
