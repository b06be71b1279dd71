"""CrowdHuman's Jaccard index: detections and persons as sets, above each score threshold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from dip_env.formats.box_sets import Detections, Floats, Indices, Truth
from dip_env.metrics.assignment import best_pairs, components, coordinate_rank
from dip_env.metrics.protocols.crowd_overlaps import EPSILON, Overlaps


@dataclass(frozen=True, eq=False)
class Jaccard:
    """Counts for JI, at T score thresholds in I images.

    Args:
        thresholds: T scores; detections above them were kept.
        pairs: (T, I) detections matched with a person.
        people: (T, I) persons, without the unmatched ones in ignore regions.
        detections: (T, I) detections kept, without the unmatched ones in ignore regions.
    """

    thresholds: tuple[float, ...]
    pairs: Indices
    people: Indices
    detections: Indices

    @cached_property
    def ratio(self) -> Floats:
        """(T, I) pairs over the union of persons and detections, in [0, 1)."""
        return self.pairs / (self.people + self.detections - self.pairs + EPSILON)

    @cached_property
    def counts(self) -> NDArray[np.bool_]:
        """(T, I) True where the image has a person or a detection that is not ignored."""
        return (self.people != 0) | (self.detections != 0)

    def by_threshold(self, counts: Floats | None = None) -> list[float | None]:
        """Average over the images with persons or detections.

        Args:
            counts: (I,) weight of each image, 1 by default.

        Returns:
            T values in [0, 1), None at thresholds where every image is empty.
        """
        weight = np.ones(self.ratio.shape[1]) if counts is None else counts
        images, sums = self.counts @ weight, self.ratio @ weight
        return [float(s / n) if n > 0 else None for s, n in zip(sums, images, strict=True)]

    def best(self, counts: Floats | None = None) -> tuple[float, float] | None:
        """Return the largest value and the (first) threshold it belongs to; None without any."""
        values = zip(self.by_threshold(counts), self.thresholds, strict=True)
        defined = [(value, threshold) for value, threshold in values if value is not None]
        return max(defined, key=lambda pair: pair[0], default=None)

    def value(self, counts: Floats | None = None) -> float | None:
        """Return JI, in [0, 1): the best over all thresholds; None where every image is empty."""
        best = self.best(counts)
        return None if best is None else best[0]


def count_above(
    truth: Truth, detections: Detections, overlaps: Overlaps, thresholds: Sequence[float]
) -> Jaccard:
    """Match the detections above each threshold with the persons, and count.

    The matching has the largest sum of IoU, which need not have the most pairs. Ties are broken by
    coordinates, not by the order in the file.

    Args:
        truth: persons and ignore regions.
        detections: in the same images.
        overlaps: of both.
        thresholds: T scores; detections with a higher one are kept.

    Returns:
        The counts of every image at every threshold.
    """
    images = truth.images
    order = np.argsort(thresholds, kind="stable")
    # A detection is kept at the lowest ``level`` thresholds.
    level = np.searchsorted(np.asarray(thresholds)[order], detections.scores, side="left")
    people, image = truth.people, detections.image
    number = np.zeros((3, len(thresholds), images), dtype=np.int64)
    for k, chosen in enumerate(_chosen_at(overlaps, level, len(thresholds))):
        matched = np.zeros(len(detections), dtype=bool)
        matched[overlaps.people.a[chosen]] = True
        met = np.zeros(len(truth), dtype=bool)
        met[overlaps.people.b[chosen]] = True
        counts = (level > k) & (matched | (overlaps.region < 0))
        excused = overlaps.person_in_region & ~met
        number[:, order[k]] = (
            np.bincount(image[matched], minlength=images),
            people - np.bincount(truth.image[excused], minlength=images),
            np.bincount(image[counts], minlength=images),
        )
    return Jaccard(tuple(float(t) for t in thresholds), *number)


def _chosen_at(overlaps: Overlaps, level: Indices, thresholds: int) -> list[Indices]:
    """Return the matched pairs at each threshold, the lowest first."""
    pairs = overlaps.people
    a, b = (
        _by_coordinates(rows, corners)
        for rows, corners in zip((pairs.a, pairs.b), overlaps.corners, strict=True)
    )
    part = components(a, b)
    present_until = level[pairs.a]
    chosen = np.zeros(len(a), dtype=bool)
    result = []
    for k in range(thresholds):
        # From one threshold to the next few components lose a detection; only these are solved
        # again.
        changed = np.zeros(part.max(initial=-1) + 1, dtype=bool)
        changed[part[present_until == k] if k else part] = True
        again = changed[part]
        chosen[again] = False
        again &= present_until > k
        chosen[again] = best_pairs(a[again], b[again], overlaps.iou[again])
        result.append(np.flatnonzero(chosen))
    return result


def _by_coordinates(rows: Indices, corners: Floats) -> Indices:
    """Rank rows by the coordinates of their boxes, so that ties do not depend on the order."""
    used = np.zeros(len(corners), dtype=bool)
    used[rows] = True
    number = np.full(len(corners), -1, dtype=np.int64)
    number[used] = coordinate_rank(corners[used])
    return number[rows]
