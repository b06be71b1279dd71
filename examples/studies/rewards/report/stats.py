"""Metrics of several runs on the same scenes, with intervals over scenes and seeds; no files.

A value of a variant is the mean over its seeds of a metric pooled over scenes. Its 95 % interval is
a bootstrap that draws scenes and seeds at once, both with replacement (a two-way percentile
bootstrap): the drawn scenes are the same for all seeds and, in a comparison, for both variants, and
so are the drawn seeds, since two variants learn from the same scenes under the same seed. With one
seed only scenes are drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from dip_env.metrics import Interval
from dip_env.metrics.intervals import resamples
from examples.studies.rewards.measure.answers import Columns

Floats = NDArray[np.float64]
Runs = Mapping[int | None, Columns]
"""What was measured of a variant, by seed; the starting model has the one seed None."""

ROUNDS = 2000
COVERED = ("covered", "covered_at_random", "covered_by_oracle")
"""Share of the ambiguity inside the looks of a variant, and inside random and oracle looks."""


@dataclass(frozen=True, eq=False)
class Sums:
    """Sums over scenes in R samples.

    Args:
        columns: numbers of each scene.
        counts: (R, S) how often each scene is in each sample.
    """

    columns: Columns
    counts: Floats

    def of(self, name: str) -> Floats:
        """Return the sums of a column, (R,) or (R, T)."""
        return np.asarray(self.counts @ self.columns[name])


def _per_episode(name: str) -> Callable[[Sums], Floats]:
    return lambda sums: _over(sums.of(name), sums.of("episodes"))


def _of_ambiguous(name: str) -> Callable[[Sums], Floats]:
    return lambda sums: _over(sums.of(name), sums.of("ambiguous"))


def _f1(sums: Sums) -> Floats:
    """F1 at each threshold, (R, T)."""
    return _over(2 * sums.of("tp"), sums.of("counted") + sums.of("people")[:, None])


def _correlation(pair: str) -> Callable[[Sums], Floats]:
    """Correlation of a pair of ``noise.py`` within scenes, pooled over them."""

    def metric(sums: Sums) -> Floats:
        spreads = np.sqrt(sums.of(f"{pair}_xx") * sums.of(f"{pair}_yy"))
        return _over(sums.of(f"{pair}_xy"), spreads)

    return metric


METRICS: Mapping[str, Callable[[Sums], Floats]] = {
    "F1": lambda sums: _f1(sums)[:, 0],
    "precision": lambda sums: _over(sums.of("tp")[:, 0], sums.of("counted")[:, 0]),
    "recall": lambda sums: _over(sums.of("tp")[:, 0], sums.of("people")),
    "F1_50_95": lambda sums: _f1(sums).mean(axis=1),
    "boxes": _per_episode("boxes"),
    "boxes_per_person": lambda sums: _over(sums.of("counted")[:, 0], sums.of("people")),
    "duplicates": _per_episode("duplicates"),
    "looks": _per_episode("looks"),
    "well_formed": _per_episode("format"),
    "look": _per_episode("look"),
    "regions": _per_episode("regions"),
    "look_area": _per_episode("area"),
    **{name: _of_ambiguous(name) for name in COVERED},
    "reward": _per_episode("reward"),
    "same_people": _correlation("people"),
    "same_look": _correlation("look"),
    "as_prior": _correlation("prior"),
    "with_accuracy": _correlation("accuracy"),
    "look_share": lambda sums: _over(sums.of("weighed_look"), sums.of("weighed_reward")),
}
"""Metrics by name, each from sums over scenes; NaN where one is not defined. Boxes and people are
those that count; ``well_formed`` is the format term, and F1 is at IoU 0.5. What looks cover is a
mean over the scenes where something is ambiguous, and the correlations (the last ones) are known
where two groups played."""


def value(metric: str, runs: Runs) -> Interval:
    """Return a metric of a variant with its interval.

    Args:
        metric: a name of ``METRICS``.
        runs: at least one, all on the same scenes.

    Returns:
        The mean over seeds; without a value where it is not defined.
    """
    return _interval(lambda counts, seeds: _mean(metric, list(runs.values()), counts, seeds), runs)


def difference(metric: str, before: Runs, after: Runs) -> Interval:
    """Compare two variants on the same scenes, in pairs.

    Args:
        metric: a name of ``METRICS``.
        before: the first variant.
        after: the second variant. Where both were trained, the seeds that both have are compared.

    Returns:
        After minus before with its interval; without a value where it is not defined, or where
        they have no seed in common.
    """
    if None not in before and None not in after:
        both = [seed for seed in after if seed in before]
        before, after = ({seed: runs[seed] for seed in both} for runs in (before, after))
        if not both:
            return Interval(None, None, None, "no seed is finished in both variants")

    def gain(counts: Floats, seeds: Floats | None) -> Floats:
        return _mean(metric, list(after.values()), counts, seeds) - _mean(
            metric, list(before.values()), counts, seeds
        )

    return _interval(gain, max(before, after, key=len))


def per_seed(metric: str, runs: Runs) -> dict[int | None, float]:
    """Return a metric of each run alone, NaN where it is not defined."""
    return {
        seed: float(METRICS[metric](Sums(columns, np.ones((1, _scenes(columns)))))[0])
        for seed, columns in runs.items()
    }


def per_scene_f1(columns: Columns) -> Floats:
    """Return F1 at IoU 0.5 of each scene alone, (S,); 1 where nobody is there and none is found."""
    f1 = _f1(Sums(columns, np.eye(_scenes(columns))))[:, 0]
    return np.where(np.isnan(f1), 1.0, f1)


def overlap(first: Interval, second: Interval) -> bool | None:
    """Tell whether two intervals overlap; None where one is missing."""
    ends = (first.low, first.high, second.low, second.high)
    if any(end is None for end in ends):
        return None
    return bool(ends[0] <= ends[3] and ends[2] <= ends[1])  # type: ignore[operator]


def _interval(estimate: Callable[[Floats, Floats | None], Floats], runs: Runs) -> Interval:
    """Bootstrap an estimate over the scenes and seeds of runs."""
    columns = next(iter(runs.values()))
    scenes, seeds = _scenes(columns), len(runs)
    whole = float(estimate(np.ones((1, scenes)), None)[0])
    if np.isnan(whole):
        return Interval(None, None, None, "it is not defined")
    counts = _drawn(scenes, seed=0)
    if not len(counts):
        return Interval(whole, None, None, "an interval needs at least two scenes")
    drawn = _drawn(seeds, seed=1) if seeds > 1 else None
    samples = estimate(counts, drawn)
    defined = samples[~np.isnan(samples)]
    left_out = len(samples) - len(defined)
    if not len(defined):
        return Interval(whole, None, None, "no bootstrap sample defines it", left_out)
    low, high = np.quantile(defined, [0.025, 0.975])
    return Interval(whole, float(low), float(high), None, left_out)


@lru_cache(maxsize=16)
def _drawn(n: int, seed: int) -> Floats:
    """How often each of n is in each bootstrap sample, (R, n); no samples of fewer than two."""
    return np.array(list(resamples(n, ROUNDS, seed)))


def _mean(metric: str, runs: Sequence[Columns], counts: Floats, seeds: Floats | None) -> Floats:
    """Return the mean over seeds (R,), in samples of scenes (R, S) and of seeds (R, K)."""
    values = np.array([METRICS[metric](Sums(columns, counts)) for columns in runs])
    if seeds is None or len(runs) == 1:
        return np.asarray(values.mean(axis=0))
    return np.asarray((values * seeds.T).sum(axis=0) / len(runs))


def _scenes(columns: Columns) -> int:
    return len(columns["episodes"])


def _over(top: Floats, bottom: Floats) -> Floats:
    """Divide; NaN where there is nothing to divide by."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(bottom > 0, top / bottom, np.nan))
