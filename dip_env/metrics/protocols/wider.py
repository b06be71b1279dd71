"""The WIDER Pedestrian 2018 challenge: VOC matching at ten thresholds after deletion of boxes.

Source: the challenge's published scorer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dip_env.formats.box_sets import BoxSet, Detections, Floats, Indices, Truth
from dip_env.metrics.curves import Ranked, envelope_average_precision
from dip_env.metrics.pairs import shared_pairs

THRESHOLDS: tuple[float, ...] = tuple(np.arange(0.5, 1.0, 0.05).tolist())
"""IoU that a true positive exceeds; computed as in the scorer, 0.6000000000000001 included."""

COVERED = 0.5
"""A box is deleted when ignore regions cover more than this share of it."""

SLACK = 0.01
"""Covered area in pixels that the scorer subtracts before it compares."""


@dataclass(frozen=True, eq=False)
class WiderScore:
    """The matches at every threshold.

    Args:
        matches: ranked detections after deletion, one per entry of ``THRESHOLDS``.
        people: number of persons before deletion.
        ignored: number of ignore regions.
        detections: number of detections before deletion.
    """

    matches: Sequence[Ranked]
    people: int
    ignored: int
    detections: int

    def values(self, counts: Floats | None = None) -> dict[str, float | None]:
        """Return average precision, over all thresholds and at .5.

        Args:
            counts: (I,) weight of each image, 1 by default.

        Returns:
            ``AP`` and ``AP50`` in [0, 1]; None without persons.
        """
        each = [envelope_average_precision(found.curve(counts)) for found in self.matches]
        defined = [value for value in each if value is not None]
        mean = float(np.mean(defined)) if defined else None
        return {"AP": mean, "AP50": each[0]}

    def reasons(self) -> dict[str, str]:
        """Return why a value is None.

        Returns:
            A fragment of a sentence by key, for those keys only.
        """
        why = "no person in the ground truth"
        if self.people:
            why = "ignore regions cover every person of the ground truth"
        return {key: why for key, value in self.values().items() if value is None}

    def details(self) -> dict[str, Any]:
        """Return further results.

        Returns:
            Counts before and of deletion, and true and false positives at IoU .5.
        """
        at_half = self.matches[0]
        return {
            "images": len(at_half.people),
            "persons": self.people,
            "persons_deleted": self.people - int(at_half.people.sum()),
            "ignored": self.ignored,
            "detections": self.detections,
            "detections_deleted": self.detections - len(at_half.found),
            "tp": int(at_half.found.sum()),
            "fp": int((~at_half.found).sum()),
        }


def measure_wider(truth: Truth, detections: Detections) -> WiderScore:
    """Delete boxes in ignore regions, then match as VOC does, at every threshold.

    A detection can match only the person it overlaps most: if a higher-scoring detection already
    matches that person, it is a false positive, even if it overlaps another person.

    Args:
        truth: persons and ignore regions; categories are not used.
        detections: of the same images.

    Returns:
        The matches, per threshold.
    """
    people = ~truth.ignore & ~deleted(truth, truth)
    kept = ~deleted(detections, truth)
    person, overlap = most_overlapped(truth, detections, people)
    order = np.flatnonzero(kept)
    order = order[np.argsort(detections.rank[order])]
    person, overlap, image = person[order], overlap[order], detections.image[order]
    numbers = np.bincount(truth.image[people], minlength=truth.images)
    return WiderScore(
        matches=[Ranked(image, first_takers(person, overlap > t), numbers) for t in THRESHOLDS],
        people=int(truth.people.sum()),
        ignored=int(truth.ignore.sum()),
        detections=len(detections),
    )


def deleted(boxes: BoxSet, truth: Truth) -> NDArray[np.bool_]:
    """Return which boxes lie in ignore regions.

    Args:
        boxes: persons or detections, N of them.
        truth: with the ignore regions; where two overlap, their common area counts twice (a quirk
            of the published scorer).

    Returns:
        (N,) True for boxes of which more than half is covered. A box without area never is.
    """
    pairs = shared_pairs(boxes.xyxy, boxes.starts, truth.xyxy, truth.starts)
    pairs = pairs.only(truth.ignore[pairs.b])
    covered = np.full(len(boxes), -SLACK)
    np.add.at(covered, pairs.a, pairs.shared)
    share = np.divide(covered, boxes.areas, out=np.zeros(len(boxes)), where=boxes.areas > 0)
    return share > COVERED


def most_overlapped(
    truth: Truth, detections: Detections, people: NDArray[np.bool_]
) -> tuple[Indices, Floats]:
    """Find the person each detection overlaps most.

    Boxes include their last pixel here, as in VOC: sides are w + 1 and h + 1.

    Args:
        truth: M annotations.
        detections: N detections.
        people: (M,) True for persons that can be matched.

    Returns:
        (N,) row of the person, the earlier one of equals, and (N,) the IoU; -1 and 0 where no
        overlap exceeds the lowest threshold.
    """
    pixel = np.array([0.0, 0.0, 1.0, 1.0])
    pairs = shared_pairs(
        detections.xyxy + pixel, detections.starts, truth.xyxy + pixel, truth.starts
    )
    areas = (_pixels(detections)[pairs.a], _pixels(truth)[pairs.b])
    overlap = pairs.shared / (areas[0] + areas[1] - pairs.shared)
    possible = people[pairs.b] & (overlap > THRESHOLDS[0])
    pairs, overlap = pairs.only(possible), overlap[possible]
    order = np.lexsort((pairs.b, -overlap, pairs.a))
    who, first = np.unique(pairs.a[order], return_index=True)
    person = np.full(len(detections), -1, dtype=np.int64)
    most = np.zeros(len(detections))
    person[who], most[who] = pairs.b[order][first], overlap[order][first]
    return person, most


def first_takers(person: Indices, overlaps: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which detections are the first to match their person.

    Args:
        person: (K,) the person each detection overlaps most, highest score first.
        overlaps: (K,) True where the overlap is large enough.

    Returns:
        (K,) True for the first sufficiently overlapping detection of each person.
    """
    able = np.flatnonzero(overlaps)
    _, first = np.unique(person[able], return_index=True)
    found = np.zeros(len(person), dtype=bool)
    found[able[first]] = True
    return found


def _pixels(boxes: BoxSet) -> Floats:
    return (boxes.xywh[:, 2] + 1.0) * (boxes.xywh[:, 3] + 1.0)
