"""AP, MR^-2 and JI by CrowdHuman's rules, as in CrowdDet's published evaluator.

Boxes are clipped to the image first, and there are two matchings: AP and MR match detections
greedily, highest score first; JI takes the one-to-one matching with the largest sum of IoU among
the detections above a threshold, and the best of ten thresholds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dip_env.formats.box_sets import Detections, Floats, Indices, Truth
from dip_env.metrics.curves import (
    Curve,
    MissRateRule,
    Ranked,
    log_average_miss_rate,
    ranked,
    raw_average_precision,
)
from dip_env.metrics.pairs import best_free
from dip_env.metrics.protocols.crowd_overlaps import compare
from dip_env.metrics.protocols.jaccard import Jaccard, count_above

JI_THRESHOLDS = tuple(0.1 * k for k in range(10))
"""Scores above which detections are kept for JI; it is the best of these."""


@dataclass(frozen=True, eq=False)
class CrowdHumanScore:
    """The matches, and the metrics as functions of image weights.

    Args:
        truth: the ground truth.
        taken: (N,) the annotation matched with each detection, -1 for none.
        swallowed: (N,) the first ignore region in file order that holds an unmatched detection,
            -1 for none.
        ranked: the detections outside ignore regions, highest score first.
        jaccard: counts for JI.
        mr_rule: at which point of the curve the miss rate is read.
    """

    truth: Truth
    taken: Indices
    swallowed: Indices
    ranked: Ranked
    jaccard: Jaccard
    mr_rule: MissRateRule = "crowddet"

    def values(self, counts: Floats | None = None) -> dict[str, float | None]:
        """Return the metrics.

        Args:
            counts: (I,) weight of each image, 1 by default.

        Returns:
            AP, MR, JI as published and AP_clean, each in [0, 1]; None where undefined.
        """
        curve = self.ranked.curve(counts)
        return {
            "AP": raw_average_precision(curve),
            "MR": log_average_miss_rate(curve, self.mr_rule).value,
            "JI": self.jaccard.value(counts),
            "AP_clean": clean_average_precision(curve),
        }

    def reasons(self) -> dict[str, str]:
        """Return why a metric is None."""
        nobody = "no person counts, so there is nobody to find"
        nothing = "no image has a person or a detection that counts"
        return {
            key: nothing if key == "JI" else nobody
            for key, value in self.values().items()
            if value is None
        }

    def details(self) -> dict[str, Any]:
        """Return counts, the threshold JI was reached at, and floored references of MR."""
        best = self.jaccard.best()
        tp = int(self.ranked.found.sum())
        by_threshold = zip(self.jaccard.thresholds, self.jaccard.by_threshold(), strict=True)
        return {
            "images": self.truth.images,
            "persons": int(self.truth.people.sum()),
            "ignored": int(self.truth.ignore.sum()),
            "detections": len(self.taken),
            "detections_in_ignored": int((self.swallowed >= 0).sum()),
            "tp": tp,
            "fp": len(self.ranked.found) - tp,
            "mr_rule": self.mr_rule,
            "floored": {"MR": log_average_miss_rate(self.ranked.curve(), self.mr_rule).floored},
            "JI_threshold": None if best is None else round(best[1], 9),
            "JI_by_threshold": {f"{threshold:g}": value for threshold, value in by_threshold},
        }


def measure_crowdhuman(
    truth: Truth, detections: Detections, mr_rule: MissRateRule = "crowddet"
) -> CrowdHumanScore:
    """Measure AP, MR^-2 and JI of persons by full boxes, whatever their categories.

    The rules of the published evaluator are kept, so that numbers are comparable:

    - x1 is clipped to [0, W-1] and x2 to [0, W] (y alike), so that a box right of the image keeps
      one column of pixels;
    - every denominator has 1e-6 added, and thresholds are strict: exactly 0.5 is not a match;
    - a match with a person has priority over any ignore region; of several regions the first in
      the file takes the detection, and regions can be matched repeatedly;
    - AP has neither an envelope nor the segment before the first detection: a perfect list of N
      scores 1 - 1/N. ``AP_clean`` starts the same curve at recall 0, which repairs that;
    - JI is the best of ten thresholds, chosen on the images it is reported for; its matching has
      the largest sum of IoU, which need not have the most pairs; detections of score 0 are never
      kept.

    Equal scores keep their order (images, then file). For equal IoU the earlier person is matched.

    Args:
        truth: persons and ignore regions.
        detections: in the same images.
        mr_rule: ``crowddet`` as published; ``caltech`` reads the last point at or below each
            reference.

    Returns:
        The score; ``values()`` has AP, MR, JI and AP_clean.

    Source: CrowdDet, lib/evaluate (Chu et al., CVPR 2020); CrowdHuman (Shao et al., 2018).
    """
    overlaps = compare(truth, detections)
    rank = detections.rank
    taken = best_free(overlaps.people, overlaps.iou, rank, later_wins=False)
    swallowed = np.where(taken < 0, overlaps.region, -1)
    counts = swallowed < 0
    return CrowdHumanScore(
        truth=truth,
        taken=taken,
        swallowed=swallowed,
        ranked=ranked(
            detections.image[counts], rank[counts], taken[counts] >= 0, people=truth.people
        ),
        jaccard=count_above(truth, detections, overlaps, JI_THRESHOLDS),
        mr_rule=mr_rule,
    )


def jaccard_index(truth: Truth, detections: Detections, thresholds: Sequence[float]) -> Jaccard:
    """Compare persons and detections as sets, above each score threshold.

    Args:
        truth: persons and ignore regions.
        detections: in the same images, in any order.
        thresholds: detections with a strictly higher score are kept, so that one threshold below
            all scores gives the index of detections without scores.

    Returns:
        The index of every image at every threshold, by CrowdHuman's rules.
    """
    return count_above(truth, detections, compare(truth, detections), thresholds)


def clean_average_precision(curve: Curve) -> float | None:
    """Return the trapezoids under the raw curve from recall 0 on (source: ours).

    The segment CrowdDet leaves out is the first detection's own: a perfect list scores 1.

    Args:
        curve: of all images.

    Returns:
        AP in [0, 1]; None without persons.
    """
    raw = raw_average_precision(curve)
    if raw is None or not len(curve.tp):
        return raw
    recall, precision = curve.tp[0] / curve.people, curve.tp[0] / (curve.tp[0] + curve.fp[0])
    return raw + float(recall * precision)
