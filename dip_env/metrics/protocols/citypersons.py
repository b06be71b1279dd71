"""The CityPersons benchmark: miss rate by height and visibility.

Source: the published Python evaluator of CityPersons (cvgroup-njust/CityPersons) and, for bare,
partial and the unbounded heavy split, the tables of RepLoss and CSP.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dip_env.formats.box_sets import Detections, Floats, Indices, Truth
from dip_env.metrics.curves import MissRate, MissRateRule, Ranked, log_average_miss_rate, ranked
from dip_env.metrics.pairs import Pairs, best_free, shared_pairs

OVERLAP = 0.5
"""Least IoU of a match, and least share of a detection inside an ignore box; inclusive."""

MAX_DETECTIONS = 1000
"""Highest-scoring detections of an image that are kept, before the filter by height."""

HEIGHT_MARGIN = 1.25
"""Detections may be this much shorter or taller than the persons of a setup."""


@dataclass(frozen=True)
class Setup:
    """The persons that a row of the benchmark evaluates; the others are ignored.

    Args:
        height: least and greatest height of the full box in pixels, both included.
        visibility: least and greatest share of the full box that is visible, both included.
    """

    height: tuple[float, float]
    visibility: tuple[float, float]

    def counts(self, height: Floats, visibility: Floats) -> NDArray[np.bool_]:
        """Return which persons belong to the setup.

        Args:
            height: (N,) in pixels.
            visibility: (N,) visible share; NaN belongs to no setup.

        Returns:
            (N,) True for persons of the setup.
        """
        tall = (height >= self.height[0]) & (height <= self.height[1])
        return tall & (visibility >= self.visibility[0]) & (visibility <= self.visibility[1])

    def reads(self, height: Floats) -> NDArray[np.bool_]:
        """Return which detections are kept by height; only the lower limit is inclusive.

        Args:
            height: (N,) in pixels.

        Returns:
            (N,) True for kept detections.
        """
        low, high = self.height[0] / HEIGHT_MARGIN, self.height[1] * HEIGHT_MARGIN
        return (height >= low) & (height < high)


SETUPS: Mapping[str, Setup] = {
    "MR_reasonable": Setup((50, inf), (0.65, inf)),
    "MR_small": Setup((50, 75), (0.65, inf)),
    # "Heavy" has two definitions: with a lower limit in the evaluator, without one in papers.
    "MR_heavy": Setup((50, inf), (0.2, 0.65)),
    "MR_heavy_unbounded": Setup((50, inf), (-inf, 0.65)),
    "MR_bare": Setup((50, inf), (0.9, inf)),
    "MR_partial": Setup((50, inf), (0.65, 0.9)),
    "MR_all": Setup((20, inf), (0.2, inf)),
}
"""The rows of the benchmark by the key of their miss rate."""


@dataclass(frozen=True, eq=False)
class CityPersonsScore:
    """The matches of every setup.

    Args:
        setups: ranked non-ignored detections, by key of ``SETUPS``.
        rule: which point of the curve is read at a reference.
        images: number of images.
        annotations: number of annotations, persons and ignore boxes.
        detections: number of detections.
        detections_cut: number of them beyond the best ``MAX_DETECTIONS`` of their image.
    """

    setups: Mapping[str, Ranked]
    rule: MissRateRule
    images: int
    annotations: int
    detections: int
    detections_cut: int

    def _rates(self, counts: Floats | None) -> dict[str, MissRate]:
        return {
            key: log_average_miss_rate(found.curve(counts), self.rule)
            for key, found in self.setups.items()
        }

    def values(self, counts: Floats | None = None) -> dict[str, float | None]:
        """Return the log-average miss rate of every setup.

        Args:
            counts: (I,) weight of each image, 1 by default.

        Returns:
            Miss rates in [0, 1] by key; None where the setup has no person.
        """
        return {key: rate.value for key, rate in self._rates(counts).items()}

    def reasons(self) -> dict[str, str]:
        """Return why a value is None.

        Returns:
            A fragment of a sentence by key, for those keys only.
        """
        return {key: _nobody(SETUPS[key]) for key, value in self.values().items() if value is None}

    def details(self) -> dict[str, Any]:
        """Return further results.

        Returns:
            Counts, by key of ``SETUPS`` where they depend on it: persons of the setup, ignored
            annotations, true and false positives, references with a miss rate of 0.
        """
        people = {key: int(found.people.sum()) for key, found in self.setups.items()}
        return {
            "mr_rule": self.rule,
            "images": self.images,
            "persons": people,
            "ignored": {key: self.annotations - number for key, number in people.items()},
            "tp": {key: int(found.found.sum()) for key, found in self.setups.items()},
            "fp": {key: int((~found.found).sum()) for key, found in self.setups.items()},
            "floored": {key: rate.floored for key, rate in self._rates(None).items()},
            "detections": self.detections,
            "detections_cut": self.detections_cut,
        }


def measure_citypersons(
    truth: Truth, detections: Detections, mr_rule: MissRateRule = "citypersons"
) -> CityPersonsScore:
    """Match detections with persons in every setup of the benchmark.

    Boxes are not clipped. Of each image the best 1000 detections are kept. By score, each is
    matched with the free person of the largest IoU >= .5; else it is ignored where an ignore box
    (or a person outside the setup) covers at least half of it; else it is a false positive.

    Args:
        truth: persons with their visible boxes, and ignore boxes.
        detections: of the same images.
        mr_rule: which point of the curve is read at a reference; ``citypersons`` is the
            published evaluator's own.

    Returns:
        The matches, per setup.
    """
    overlaps = _compare(truth, detections)
    read = rank_in_image(detections) < MAX_DETECTIONS
    visibility = visible_share(truth)
    setups = {}
    for key, setup in SETUPS.items():
        counts = ~truth.ignore & setup.counts(truth.xywh[:, 3], visibility)
        kept = read & setup.reads(detections.xywh[:, 3])
        setups[key] = _match(truth, detections, overlaps, counts, kept)
    return CityPersonsScore(
        setups=setups,
        rule=mr_rule,
        images=truth.images,
        annotations=len(truth),
        detections=len(detections),
        detections_cut=int(np.count_nonzero(~read)),
    )


def visible_share(truth: Truth) -> Floats:
    """Return the visible share of each annotation.

    Args:
        truth: with visible boxes.

    Returns:
        (N,) area of the visible box over area of the full box; NaN for a box without area.
    """
    seen = truth.visible_xywh[:, 2] * truth.visible_xywh[:, 3]
    return np.divide(seen, truth.areas, out=np.full(len(truth), np.nan), where=truth.areas > 0)


def rank_in_image(detections: Detections) -> Indices:
    """Return the rank of each detection within its image; ties keep their order.

    Args:
        detections: of all images.

    Returns:
        (N,) ranks, 0 for the highest score of each image.
    """
    order = np.lexsort((detections.rank, detections.image))
    position = np.empty(len(detections), dtype=np.int64)
    position[order] = np.arange(len(detections)) - detections.starts[:-1][detections.image]
    return position


@dataclass(frozen=True, eq=False)
class _Overlaps:
    """Pairs of a detection and an annotation that overlap by ``OVERLAP`` at least, in all setups.

    Args:
        near: pairs by their IoU.
        iou: (P,) the IoU of each.
        inside: pairs by the share of the detection that lies in the annotation.
    """

    near: Pairs
    iou: Floats
    inside: Pairs


def _compare(truth: Truth, detections: Detections) -> _Overlaps:
    meeting = shared_pairs(detections.xyxy, detections.starts, truth.xyxy, truth.starts)
    area = detections.areas[meeting.a]
    iou = meeting.shared / (area + truth.areas[meeting.b] - meeting.shared)
    near = iou >= OVERLAP
    inside = meeting.only(meeting.shared / area >= OVERLAP)
    return _Overlaps(meeting.only(near), iou[near], inside)


def _match(
    truth: Truth,
    detections: Detections,
    overlaps: _Overlaps,
    counts: NDArray[np.bool_],
    kept: NDArray[np.bool_],
) -> Ranked:
    """Match the detections that are ``kept`` (N,) with the persons that ``counts`` (M,) names."""
    near, inside = overlaps.near, overlaps.inside
    possible = kept[near.a] & counts[near.b]
    taken = best_free(near.only(possible), overlaps.iou[possible], detections.rank, later_wins=True)
    found = taken >= 0
    excused = np.zeros(len(detections), dtype=bool)
    excused[inside.a[~counts[inside.b]]] = True
    listed = np.flatnonzero(kept & (found | ~excused))
    people = np.bincount(truth.image[counts], minlength=truth.images)
    return ranked(detections.image[listed], detections.rank[listed], found[listed], people)


def _nobody(setup: Setup) -> str:
    heights = f"at least {setup.height[0]:g} pixels tall"
    if setup.height[1] < inf:
        heights = f"{setup.height[0]:g} to {setup.height[1]:g} pixels tall"
    low, high = (max(0.0, min(1.0, limit)) for limit in setup.visibility)
    return f"no person {heights} and {low:.0%} to {high:.0%} visible in the ground truth"
