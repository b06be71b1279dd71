"""Metrics of detections without scores: counts, overlaps and the AP of tied scores.

A language model's boxes have no confidence, so scores are not read, and no value depends on the
order of boxes or images. Boxes are not clipped (except by the Jaccard index, as CrowdHuman does),
exact duplicates of a box may match different people, and categories are not used.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dip_env.formats.box_sets import Detections, Floats, Indices, Truth
from dip_env.metrics.assignment import best_pairs, coordinate_rank
from dip_env.metrics.pairs import Pairs, shared_pairs
from dip_env.metrics.protocols.crowdhuman import jaccard_index
from dip_env.metrics.protocols.jaccard import Jaccard

THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
"""The IoU thresholds of COCO; metrics without a threshold in their name use the first."""

IGNORE_SHARE = 0.5
"""An unmatched box with more than this share inside one ignore region is dropped."""

_NOBODY = "there was nobody to find"
_NO_BOX = "no box was predicted that counts"
_NOTHING = "no box was predicted that counts and there was nobody to find"


@dataclass(frozen=True, eq=False)
class Matched:
    """The matching at IoU 0.5; every detection is used, dropped or a false positive.

    Args:
        found: (M,) True for matched rows of the ground truth; never for ignored ones.
        used: (N,) True for matched detections.
        dropped: (N,) True for the others that lie in an ignore region.
    """

    found: NDArray[np.bool_]
    used: NDArray[np.bool_]
    dropped: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class UnscoredScore:
    """Matches of each image, at each of the T thresholds.

    Args:
        matched: box by box, at IoU 0.5.
        people: (I,) persons.
        boxes: (I,) detections.
        regions: number of ignored annotations.
        tp: (T, I) pairs.
        dropped: (T, I) unmatched boxes with more than half of their area in one region.
        dropped_coco: (T, I) unmatched boxes with a share >= the threshold in one region.
        iou: (I,) summed IoU of the pairs at 0.5.
        duplicates: (I,) false positives on persons that another box matches.
        jaccard: the Jaccard index of all boxes.
    """

    matched: Matched
    people: Floats
    boxes: Floats
    regions: int
    tp: Floats
    dropped: Floats
    dropped_coco: Floats
    iou: Floats
    duplicates: Floats
    jaccard: Jaccard

    def values(self, counts: Floats | None = None) -> dict[str, float | None]:
        """Return the metrics.

        Args:
            counts: (I,) weight of each image, 1 by default.

        Returns:
            By name, None where one is not defined.

            - ``precision``, ``recall``, ``F1``, ``mean_iou`` (of the pairs), ``tp``, ``fp``,
              ``fn`` and ``dropped`` at IoU 0.5, pooled over images.
            - ``JI``: CrowdHuman's Jaccard index, mean over images.
            - ``AP_tied``, ``AP50_tied``, ``AP75_tied``: COCO's AP when all scores are equal, see
              :func:`tied_average_precision`; ``AP_tied_ioa05`` drops boxes by more than half of
              their area at every threshold, where COCO's share grows with it.
            - ``precision_50_95``, ``recall_50_95``, ``F1_50_95``: means over the thresholds.
            - ``count_mae``, ``count_rmse``: of the non-dropped boxes (``tp + fp``) against the
              persons of an image.
            - ``duplicates_per_answer``: false positives per image that overlap, by IoU >= 0.5,
              a person that another box matches.
            - ``MR``: always None, it needs scores.
        """
        c = np.ones(len(self.people)) if counts is None else counts
        images, people = float(c.sum()), float(self.people @ c)
        tp, boxes = self.tp @ c, float(self.boxes @ c)
        dropped = self.dropped @ c
        precision = [ratio(t, boxes - d) for t, d in zip(tp, dropped, strict=True)]
        recall = [ratio(t, people) for t in tp]
        f1 = [ratio(2 * t, boxes - d + people) for t, d in zip(tp, dropped, strict=True)]
        tied = self._tied(tp, boxes - self.dropped_coco @ c, people)
        gap = self.boxes - self.dropped[0] - self.people
        mse = ratio(float(gap**2 @ c), images)
        return {
            "precision": precision[0],
            "recall": recall[0],
            "F1": f1[0],
            "mean_iou": ratio(float(self.iou @ c), tp[0]),
            "JI": self.jaccard.value(counts),
            "AP_tied": _mean(tied),
            "AP50_tied": tied[0],
            "AP75_tied": tied[THRESHOLDS.index(0.75)],
            "AP_tied_ioa05": _mean(self._tied(tp, boxes - dropped, people)),
            "precision_50_95": _mean(precision),
            "recall_50_95": _mean(recall),
            "F1_50_95": _mean(f1),
            "count_mae": ratio(float(np.abs(gap) @ c), images),
            "count_rmse": None if mse is None else mse**0.5,
            "duplicates_per_answer": ratio(float(self.duplicates @ c), images),
            "tp": float(tp[0]),
            "fp": boxes - float(dropped[0] + tp[0]),
            "fn": people - float(tp[0]),
            "dropped": float(dropped[0]),
            "MR": None,
        }

    def reasons(self) -> dict[str, str]:
        """Return why a value is None, by the name of the metric."""
        recall = ("recall", "AP_tied", "AP50_tied", "AP75_tied", "AP_tied_ioa05", "recall_50_95")
        why = (
            dict.fromkeys(recall, _NOBODY)
            | dict.fromkeys(("precision", "precision_50_95"), _NO_BOX)
            | dict.fromkeys(("F1", "F1_50_95", "JI"), _NOTHING)
            | dict.fromkeys(("count_mae", "count_rmse", "duplicates_per_answer"), "no image")
            | {"mean_iou": "no box found anybody", "MR": "it needs real scores"}
        )
        return {name: why[name] for name, value in self.values().items() if value is None}

    def details(self) -> dict[str, Any]:
        """Return counts, and the values behind the means over thresholds."""
        tp, boxes, people = self.tp.sum(axis=1), self.boxes.sum(), self.people.sum()
        dropped, coco = self.dropped.sum(axis=1), self.dropped_coco.sum(axis=1)
        tied = self._tied(tp, boxes - coco, float(people))
        return {
            "images": len(self.people),
            "persons": int(people),
            "ignored": self.regions,
            "detections": int(boxes),
            "per_iou": {
                f"{threshold:.2f}": {
                    "tp": int(tp[k]),
                    "fp": int(boxes - dropped[k] - tp[k]),
                    "fn": int(people - tp[k]),
                    "dropped": int(dropped[k]),
                    "dropped_coco": int(coco[k]),
                    "AP_tied": tied[k],
                }
                for k, threshold in enumerate(THRESHOLDS)
            },
        }

    def _tied(self, tp: Floats, counted: Floats, people: float) -> list[float | None]:
        """AP at each threshold, from pairs (T,) and non-dropped boxes (T,)."""
        return [tied_average_precision(t, n, people) for t, n in zip(tp, counted, strict=True)]


def tied_average_precision(tp: float, boxes: float, people: float) -> float | None:
    """Return COCO's 101-point AP when all boxes have the same score.

    Ties enter the curve together, so it has one point (R, P); the envelope is P up to recall R and
    0 behind it: ``P * (floor(100 R) + 1) / 101`` (source: ours, from COCO's definition).

    Args:
        tp: true positives.
        boxes: true and false positives.
        people: non-ignored persons.

    Returns:
        AP in [0, 1], 0 without true positives; None without persons.
    """
    if people <= 0:
        return None
    if tp <= 0:
        return 0.0
    # Multiplied first: 100 * (tp / people) may fall short of a whole number by rounding.
    return float(tp / boxes * (np.floor(100 * tp / people) + 1) / 101)


def measure_unscored(truth: Truth, detections: Detections) -> UnscoredScore:
    """Match boxes with persons one to one, at every threshold.

    A matching has the most pairs with IoU >= threshold and, among those, the largest sum of IoU;
    ignore regions are not matched. An unmatched box that lies in one of them is dropped.

    Args:
        truth: of all images; persons inside ignore regions are matched too.
        detections: in the same images; their scores are not read.

    Returns:
        The score.
    """
    pairs = shared_pairs(detections.xyxy, detections.starts, truth.xyxy, truth.starts)
    in_region = truth.ignore[pairs.b]
    share = _share_in_a_region(pairs.only(in_region), detections)
    near, iou = _near(pairs.only(~in_region), truth, detections)
    taken = _match(near, iou, truth, detections)
    used = [_mark(near.a[mask], len(detections)) for mask in taken]
    unmatched = [~mask for mask in used]
    matched = Matched(
        found=_mark(near.b[taken[0]], len(truth)),
        used=used[0],
        dropped=unmatched[0] & (share > IGNORE_SHARE),
    )
    # The number of pairs is maximal, so any person an unmatched box overlaps is matched by another.
    duplicate = _mark(near.a, len(detections)) & unmatched[0] & ~matched.dropped

    def per_image(rows: NDArray[Any], weight: Floats | None = None) -> Floats:
        counted = np.bincount(detections.image[rows], weight, minlength=truth.images)
        return counted.astype(np.float64)

    return UnscoredScore(
        matched=matched,
        people=truth.people.astype(np.float64),
        boxes=np.diff(detections.starts).astype(np.float64),
        regions=int(truth.ignore.sum()),
        tp=np.stack([per_image(mask) for mask in used]),
        dropped=np.stack([per_image(mask & (share > IGNORE_SHARE)) for mask in unmatched]),
        dropped_coco=np.stack(
            [per_image(m & (share >= t)) for m, t in zip(unmatched, THRESHOLDS, strict=True)]
        ),
        iou=per_image(near.a[taken[0]], iou[taken[0]]),
        duplicates=per_image(duplicate),
        jaccard=jaccard_index(truth, _all_equal(detections), (0.0,)),
    )


def _share_in_a_region(pairs: Pairs, detections: Detections) -> Floats:
    """Largest share (N,) of each detection that lies in one ignore region."""
    share = np.zeros(len(detections))
    np.maximum.at(share, pairs.a, pairs.shared / detections.areas[pairs.a])
    return share


def _near(pairs: Pairs, truth: Truth, detections: Detections) -> tuple[Pairs, Floats]:
    """Pairs that can match at the lowest threshold, and their IoU."""
    # Areas are width times height, overlaps come from corners: of a box much thinner than its
    # distance from the origin, rounding can make the overlap larger than the area.
    area, other = detections.areas[pairs.a], truth.areas[pairs.b]
    shared = np.minimum(pairs.shared, np.minimum(area, other))
    iou = np.minimum(shared / (area + other - shared), 1.0)
    keep = iou >= THRESHOLDS[0]
    return pairs.only(keep), iou[keep]


def _match(
    near: Pairs, iou: Floats, truth: Truth, detections: Detections
) -> list[NDArray[np.bool_]]:
    """Mark the pairs of the best matching at each threshold."""
    # Ranked by coordinates, so that ties do not depend on the order in the file.
    a = coordinate_rank(detections.xywh)[near.a]
    b = coordinate_rank(truth.xywh)[near.b]
    found = []
    for threshold in THRESHOLDS:
        keep = iou >= threshold
        taken = np.zeros(len(iou), dtype=bool)
        taken[keep] = best_pairs(a[keep], b[keep], iou[keep], most_pairs=True)
        found.append(taken)
    return found


def _mark(rows: Indices, n: int) -> NDArray[np.bool_]:
    """True (n,) at the given rows."""
    marked = np.zeros(n, dtype=bool)
    marked[rows] = True
    return marked


def _all_equal(detections: Detections) -> Detections:
    """The same boxes, each with score 1."""
    return replace(detections, scores=np.ones(len(detections)))


def ratio(over: float, under: float) -> float | None:
    """Divide, or return None for a divisor of 0."""
    return float(over / under) if under > 0 else None


def _mean(values: list[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if len(defined) == len(values) else None
