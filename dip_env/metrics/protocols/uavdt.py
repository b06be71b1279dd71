"""The UAVDT detection benchmark, applied to persons: AP at IoU .7 outside ignore regions.

Source: the benchmark's published Matlab evaluator; it rounds to hundredths of a percent, this does
not. The details hold COCO's AP per class, which some papers report instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dip_env.formats.box_sets import Detections, Floats, Truth
from dip_env.metrics.curves import Ranked, envelope_average_precision, ranked
from dip_env.metrics.pairs import best_free, shared_pairs
from dip_env.metrics.protocols.coco import CocoScore, measure_coco

OVERLAP = 0.7
"""Least IoU of a match, inclusive."""

PER_CLASS_DETECTIONS = 500
"""Limit of detections per image and class for COCO's AP per class (as VisDrone's)."""


@dataclass(frozen=True, eq=False)
class UavdtScore:
    """The matches.

    Args:
        matches: ranked detections that were not removed.
        ignored: number of ignore regions.
        detections: number of detections, removed ones included.
        per_class: COCO's matching of each class; None where the ground truth has one class only.
    """

    matches: Ranked
    ignored: int
    detections: int
    per_class: CocoScore | None

    def values(self, counts: Floats | None = None) -> dict[str, float | None]:
        """Return average precision at IoU .7, all classes together.

        Args:
            counts: (I,) weight of each image, 1 by default.

        Returns:
            ``AP70`` in [0, 1]; None without persons.
        """
        return {"AP70": envelope_average_precision(self.matches.curve(counts))}

    def reasons(self) -> dict[str, str]:
        """Return why a value is None.

        Returns:
            A fragment of a sentence by key, for those keys only.
        """
        return {
            key: "no person in the ground truth"
            for key, value in self.values().items()
            if value is None
        }

    def details(self) -> dict[str, Any]:
        """Return further results.

        Returns:
            Counts, and with several classes ``per_class``: AP, AP50 and AP75 by class name as
            pycocotools computes them (at most 500 detections, none removed before: it has its own
            rule for ignore regions).
        """
        facts: dict[str, Any] = {
            "images": len(self.matches.people),
            "persons": int(self.matches.people.sum()),
            "ignored": self.ignored,
            "detections": self.detections,
            "detections_removed": self.detections - len(self.matches.found),
            "tp": int(self.matches.found.sum()),
            "fp": int((~self.matches.found).sum()),
        }
        if self.per_class is not None:
            facts["per_class"] = self.per_class.per_category()
        return facts


def measure_uavdt(truth: Truth, detections: Detections) -> UavdtScore:
    """Remove detections strictly inside an ignore region, then match across classes.

    By score, each detection is matched with the free person of the largest IoU >= .7, the later one
    of equals; without one it is a false positive. Persons are never removed.

    Args:
        truth: persons and ignore regions.
        detections: of the same images.

    Returns:
        The matches.
    """
    kept = ~strictly_inside(detections, truth)
    pairs = shared_pairs(detections.xyxy, detections.starts, truth.xyxy, truth.starts)
    areas = (detections.areas[pairs.a], truth.areas[pairs.b])
    iou = pairs.shared / (areas[0] + areas[1] - pairs.shared)
    possible = kept[pairs.a] & ~truth.ignore[pairs.b] & (iou >= OVERLAP)
    taken = best_free(pairs.only(possible), iou[possible], detections.rank, later_wins=True)
    listed = np.flatnonzero(kept)
    matches = ranked(
        detections.image[listed], detections.rank[listed], taken[listed] >= 0, truth.people
    )
    classes = np.unique(truth.category[~truth.ignore])
    per_class = None
    if len(classes) > 1:
        per_class = measure_coco(truth, detections, PER_CLASS_DETECTIONS, sizes=("all",))
    return UavdtScore(
        matches=matches,
        ignored=int(truth.ignore.sum()),
        detections=len(detections),
        per_class=per_class,
    )


def strictly_inside(detections: Detections, truth: Truth) -> NDArray[np.bool_]:
    """Return which detections lie strictly inside one ignore region.

    Args:
        detections: N detections.
        truth: with the ignore regions.

    Returns:
        (N,) True where all four edges lie within those of one region without touching them.
    """
    # Detections without area are grown by a pixel, so that they share area with a region.
    grown = detections.xyxy + np.array([-1.0, -1.0, 1.0, 1.0])
    pairs = shared_pairs(grown, detections.starts, truth.xyxy, truth.starts)
    pairs = pairs.only(truth.ignore[pairs.b])
    box, region = detections.xyxy[pairs.a], truth.xyxy[pairs.b]
    within = np.hstack([box[:, :2] > region[:, :2], box[:, 2:] < region[:, 2:]]).all(axis=1)
    inside = np.zeros(len(detections), dtype=bool)
    inside[pairs.a[within]] = True
    return inside
