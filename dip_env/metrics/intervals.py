"""Bootstrap intervals for any metric over images. Independent of metrics and boxes.

Whole images are resampled, since the boxes of one image depend on each other. A metric is given as
a function of image weights, so that boxes are matched once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from dip_env.formats.box_sets import Floats

Values = Callable[[Floats], Mapping[str, float | None]]
"""From image weights (I,) to metrics by name; None where one is not defined."""


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % interval; None where it is not defined, with the reason.

    Args:
        value: the metric, or the difference of two.
        low: lower end.
        high: upper end.
        reason: why a value is None.
        undefined: number of bootstrap samples left out because the metric is undefined on them.
    """

    value: float | None
    low: float | None
    high: float | None
    reason: str | None = None
    undefined: int = 0


def bootstrap(
    values: Values,
    n: int,
    *,
    rounds: int = 1000,
    seed: int = 0,
    reasons: Mapping[str, str] | None = None,
) -> dict[str, Interval]:
    """Compute the 95 % percentile interval of every metric (source: Efron 1979).

    Args:
        values: the metrics as a function of image weights.
        n: number of images.
        rounds: bootstrap samples.
        seed: the same seed gives the same samples.
        reasons: why a metric is not defined, by name.

    Returns:
        An interval for each metric.
    """
    estimate = values(np.ones(n))
    samples = [values(counts) for counts in resamples(n, rounds, seed)]
    return percentile_intervals(estimate, samples, n, reasons or {})


def paired(
    before: Values,
    after: Values,
    n: int,
    *,
    rounds: int = 1000,
    seed: int = 0,
    reasons: Mapping[str, str] | None = None,
) -> dict[str, Interval]:
    """Compare two results on the same images, image by image.

    Each bootstrap sample takes the same images for both, so that the difficulty of images cancels
    out.

    Args:
        before: metrics of the first.
        after: metrics of the second, on the same images in the same order.
        n: number of images.
        rounds: bootstrap samples.
        seed: the same seed gives the same samples.
        reasons: why a metric is not defined in either, by name.

    Returns:
        For each common metric, after minus before with its 95 % percentile interval.
    """

    def difference(counts: Floats) -> dict[str, float | None]:
        return differences(before(counts), after(counts))

    return bootstrap(difference, n, rounds=rounds, seed=seed, reasons=reasons)


def resamples(n: int, rounds: int, seed: int) -> Iterator[Floats]:
    """Draw bootstrap samples of n images, one after the other.

    Args:
        n: number of images; below two nothing is yielded.
        rounds: number of samples.
        seed: the same seed gives the same samples.

    Yields:
        (n,) multiplicity of each image in the sample; sums to n.
    """
    rng = np.random.default_rng(seed)
    for _ in range(rounds if n > 1 else 0):
        yield np.bincount(rng.integers(n, size=n), minlength=n).astype(np.float64)


def differences(
    before: Mapping[str, float | None], after: Mapping[str, float | None]
) -> dict[str, float | None]:
    """Subtract metrics by name.

    Args:
        before: the first.
        after: the second.

    Returns:
        For each metric that both have, after minus before; None where either is not defined.
    """
    pairs = {name: (before[name], after[name]) for name in before if name in after}
    return {
        name: None if was is None or now is None else now - was
        for name, (was, now) in pairs.items()
    }


def percentile_intervals(
    estimate: Mapping[str, float | None],
    samples: Sequence[Mapping[str, float | None]],
    n: int,
    reasons: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, Interval]:
    """Put an interval around every metric, from its values in bootstrap samples.

    Args:
        estimate: the metrics of all images.
        samples: the metrics of each bootstrap sample.
        n: number of images.
        reasons: why a metric is not defined, by name.

    Returns:
        An interval for each metric.
    """
    found = {}
    for name, value in estimate.items():
        if value is None:
            found[name] = Interval(None, None, None, reasons.get(name, "it is not defined"))
            continue
        drawn = [sample[name] for sample in samples]
        defined = [v for v in drawn if v is not None]
        left_out = len(drawn) - len(defined)
        if n < 2:
            found[name] = Interval(value, None, None, "an interval needs at least two images")
        elif not defined:
            reason = "no bootstrap sample defines it"
            found[name] = Interval(value, None, None, reason, left_out)
        else:
            low, high = np.quantile(defined, [0.025, 0.975])
            found[name] = Interval(value, float(low), float(high), None, left_out)
    return found
