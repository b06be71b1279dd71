"""Average precision and miss rate of ranked detections. Independent of boxes.

Every value is a function of image weights, so that a bootstrap over images matches boxes once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from dip_env.formats.box_sets import Floats, Indices

MissRateRule = Literal["caltech", "crowddet", "citypersons"]
"""Which point of the curve is read at a reference, see :func:`log_average_miss_rate`."""

MISS_RATE_RULES: tuple[str, ...] = get_args(MissRateRule)

REFERENCES = (0.0100, 0.0178, 0.0316, 0.0562, 0.1000, 0.1778, 0.3162, 0.5623, 1.0000)
"""False positives per image at which the miss rate is read."""

MISS_FLOOR = 1e-10
"""Floor of the miss rate, whose logarithm is averaged; its uses are reported."""


@dataclass(frozen=True, eq=False)
class Curve:
    """True and false positives among the k highest-scoring detections, for every k.

    Args:
        tp: (K,) cumulative true positives.
        fp: (K,) cumulative false positives.
        people: number of non-ignored instances.
        images: number of images.
    """

    tp: Floats
    fp: Floats
    people: float
    images: float


@dataclass(frozen=True, eq=False)
class Ranked:
    """Non-ignored detections of all images together, highest score first.

    Args:
        image: (K,) image index of each.
        found: (K,) True for a true positive, False for a false one.
        people: (I,) non-ignored instances of each image.
    """

    image: Indices
    found: NDArray[np.bool_]
    people: Indices

    def curve(self, counts: Floats | None = None) -> Curve:
        """Accumulate true and false positives.

        Args:
            counts: (I,) weight of each image, 1 by default. Detections of an image of weight 2
                enter the curve together.

        Returns:
            The curve, without the detections of images of weight 0.
        """
        if counts is None:
            tp = np.cumsum(self.found, dtype=np.float64)
            ranks = np.arange(1, len(tp) + 1, dtype=np.float64)
            return Curve(tp, ranks - tp, float(self.people.sum()), float(len(self.people)))
        weight = counts[self.image]
        present = weight > 0
        weight, found = weight[present], self.found[present]
        return Curve(
            np.cumsum(weight * found),
            np.cumsum(weight * ~found),
            float(self.people @ counts),
            float(counts.sum()),
        )


def ranked(image: Indices, rank: Indices, found: NDArray[np.bool_], people: Indices) -> Ranked:
    """Sort detections by rank.

    Args:
        image: (K,) image of each non-ignored detection.
        rank: (K,) its rank by score, 0 for the highest.
        found: (K,) True for true positives.
        people: (I,) non-ignored instances of each image.

    Returns:
        The same, sorted.
    """
    order = np.argsort(rank, kind="stable")
    return Ranked(image[order], found[order], people)


def raw_average_precision(curve: Curve) -> float | None:
    """Return CrowdDet's AP: trapezoids under the raw curve from its first point on.

    Without envelope and without the segment before the first point: a perfect list of N scores
    1 - 1/N and a single box 0 (the published evaluator's quirk; source: CrowdDet, lib/evaluate).

    Args:
        curve: of all images.

    Returns:
        AP in [0, 1]; None without non-ignored instances.
    """
    if curve.people <= 0:
        return None
    recall = curve.tp / curve.people
    precision = curve.tp / (curve.tp + curve.fp)
    return float(np.sum(np.diff(recall) * (precision[1:] + precision[:-1]) / 2))


def envelope_average_precision(curve: Curve) -> float | None:
    """Return VOC's all-point AP: the area under the envelope of the curve (source: VOC 2010).

    Args:
        curve: of all images.

    Returns:
        AP in [0, 1]; None without non-ignored instances.
    """
    if curve.people <= 0:
        return None
    recall = np.concatenate([[0.0], curve.tp / curve.people])
    precision = curve.tp / (curve.tp + curve.fp)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall) * envelope))


@dataclass(frozen=True)
class MissRate:
    """A log-average miss rate and the number of references where the miss rate was 0.

    Args:
        value: in [0, 1]; None without non-ignored instances.
        floored: references at which 0 was replaced by ``MISS_FLOOR``.
    """

    value: float | None
    floored: int = 0


def log_average_miss_rate(curve: Curve, rule: MissRateRule) -> MissRate:
    """Return MR^-2: the geometric mean of the miss rate at nine rates of false positives per image.

    The point of the curve that is read at a reference is

    - ``caltech``: the last with fppi <= reference, and a miss rate of 1 where there is none
      (source: Dollar's toolbox, bbGt compRoc);
    - ``citypersons``: the same, but where there is none the very last point is read: index -1 wraps
      (the published Python evaluator's quirk; it flatters sets under 100 images);
    - ``crowddet``: the first with fppi >= reference, else the last (source: CrowdDet).

    Args:
        curve: of all images.
        rule: how the point is chosen.

    Returns:
        The miss rate, 1 without any detection.
    """
    if curve.people <= 0 or curve.images <= 0:
        return MissRate(None)
    if not len(curve.tp):
        return MissRate(1.0)
    fppi = curve.fp / curve.images
    miss = 1.0 - curve.tp / curve.people
    if rule == "crowddet":
        at = np.minimum(np.searchsorted(fppi, REFERENCES, side="left"), len(fppi) - 1)
        read = miss[at]
    else:
        at = np.searchsorted(fppi, REFERENCES, side="right") - 1
        read = miss[at]
        if rule == "caltech":
            read = np.where(at < 0, 1.0, read)
    floored = read < MISS_FLOOR
    value = float(np.exp(np.mean(np.log(np.maximum(read, MISS_FLOOR)))))
    return MissRate(value, int(floored.sum()))
