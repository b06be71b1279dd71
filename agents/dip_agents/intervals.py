"""From counts per scene to metrics with bootstrap intervals; plays nothing, writes nothing.

Every metric is a ratio of two sums over scenes, so that scenes weigh as much as they hold, and a
bootstrap resamples whole scenes (the boxes of one scene depend on each other).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Tallies = Mapping[str, NDArray[np.float64]]
"""Sums per scene, each (S,): tp, fp, fn, boxes, truth, looks, parse_failures, reward, format,
look, accuracy, episodes."""

TALLIES = (
    "tp",
    "fp",
    "fn",
    "boxes",
    "truth",
    "looks",
    "parse_failures",
    "reward",
    "format",
    "look",
    "accuracy",
    "episodes",
)


@dataclass(frozen=True)
class Ratio:
    """A metric as weighted sums of tallies.

    Args:
        over: weight of each tally in the numerator.
        under: weight of each tally in the denominator.
        undefined: what it means when the denominator is 0.
    """

    over: Mapping[str, float]
    under: Mapping[str, float]
    undefined: str


_NO_EPISODE = "no episode was played"


def _per_episode(tally: str) -> Ratio:
    return Ratio({tally: 1}, {"episodes": 1}, _NO_EPISODE)


METRICS: dict[str, Ratio] = {
    "precision": Ratio({"tp": 1}, {"tp": 1, "fp": 1}, "no box was predicted"),
    "recall": Ratio({"tp": 1}, {"tp": 1, "fn": 1}, "there was nobody to find"),
    "F1": Ratio(
        {"tp": 2}, {"tp": 2, "fp": 1, "fn": 1}, "no box was predicted and there was nobody to find"
    ),
    "reward": _per_episode("reward"),
    "format": _per_episode("format"),
    "look": _per_episode("look"),
    "accuracy": _per_episode("accuracy"),
    "looks_per_episode": _per_episode("looks"),
    "boxes_per_truth": Ratio({"boxes": 1}, {"truth": 1}, "there was nobody to find"),
    "parse_failures": _per_episode("parse_failures"),
}
"""Every metric by name; precision, recall and F1 are pooled over scenes, the rest are means per
episode (``parse_failures``: malformed turns)."""


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % interval; None where it is not defined, with the reason.

    Args:
        value: the metric, or the difference of two.
        low: lower end.
        high: upper end.
        reason: why something is None.
    """

    value: float | None
    low: float | None
    high: float | None
    reason: str | None = None

    @property
    def excludes_zero(self) -> bool:
        """True when 0 lies outside the interval."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def resample_counts(n: int, rounds: int, seed: int) -> NDArray[np.float64]:
    """Draw bootstrap samples of n scenes.

    Args:
        n: number of scenes.
        rounds: number of samples.
        seed: the same seed gives the same samples.

    Returns:
        (rounds, n) how often each scene is in each sample; rows sum to n.
    """
    rng = np.random.default_rng(seed)
    return rng.multinomial(n, np.full(n, 1 / n), size=rounds).astype(np.float64)


def _values(ratio: Ratio, tallies: Tallies, counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the metric of each sample, (rounds,); nan where it is undefined."""
    over = sum(w * (counts @ tallies[name]) for name, w in ratio.over.items())
    under = np.asarray(sum(w * (counts @ tallies[name]) for name, w in ratio.under.items()))
    return np.divide(over, under, out=np.full(len(counts), np.nan), where=under > 0)


def _interval(value: float, samples: NDArray[np.float64], n: int, undefined: str) -> Interval:
    if np.isnan(value):
        return Interval(None, None, None, undefined)
    defined = samples[~np.isnan(samples)]
    if n < 2 or not len(defined):
        return Interval(value, None, None, "an interval needs at least two scenes")
    low, high = np.quantile(defined, [0.025, 0.975])
    return Interval(value, float(low), float(high))


def measure(tallies: Tallies, *, rounds: int = 2000, seed: int = 0) -> dict[str, Interval]:
    """Compute every metric with its 95 % bootstrap interval over scenes.

    Args:
        tallies: sums per scene.
        rounds: bootstrap samples.
        seed: seed of the bootstrap.

    Returns:
        An interval for each name in ``METRICS``.
    """
    n = len(tallies["episodes"])
    counts = resample_counts(n, rounds, seed) if n else np.zeros((0, 0))
    once = np.ones((1, n))
    return {
        name: _interval(
            float(_values(ratio, tallies, once)[0]),
            _values(ratio, tallies, counts),
            n,
            ratio.undefined,
        )
        for name, ratio in METRICS.items()
    }


def paired_difference(
    before: Tallies, after: Tallies, *, rounds: int = 2000, seed: int = 0
) -> dict[str, Interval]:
    """Compare two evaluations of the same scenes, scene by scene.

    Each bootstrap sample picks the same scenes for both, so that scenes being easy or hard
    cancels out.

    Args:
        before: sums per scene of the first.
        after: sums per scene of the second, same scenes in the same order.
        rounds: bootstrap samples.
        seed: seed of the bootstrap.

    Returns:
        For each metric, after minus before with its 95 % interval.

    Raises:
        ValueError: for unequal numbers of scenes.
    """
    n = len(before["episodes"])
    if len(after["episodes"]) != n:
        raise ValueError(f"expected the same {n} scenes, got {len(after['episodes'])}")
    counts = resample_counts(n, rounds, seed) if n else np.zeros((0, 0))
    once = np.ones((1, n))
    return {
        name: _interval(
            float((_values(ratio, after, once) - _values(ratio, before, once))[0]),
            _values(ratio, after, counts) - _values(ratio, before, counts),
            n,
            ratio.undefined,
        )
        for name, ratio in METRICS.items()
    }


def stack(scenes: Sequence[Mapping[str, float]]) -> dict[str, NDArray[np.float64]]:
    """Turn one dict of sums per scene into one array per tally.

    Args:
        scenes: sums of each scene, every name of ``TALLIES`` present.

    Returns:
        (S,) array for each tally.
    """
    return {name: np.array([s[name] for s in scenes], dtype=np.float64) for name in TALLIES}
