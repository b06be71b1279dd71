"""One-to-one matching of predicted boxes with the ground truth; independent of rewards.

Rewards, ambiguity and metrics all compare boxes by this module, so "found" has one meaning. The
order of the boxes never matters: ties are broken by their coordinates.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from dip_env.boxes import Boxes, BoxesLike, as_boxes, box_area, box_intersection, shared_to_iou

IGNORE_SHARE = 0.5
"""An unmatched prediction with more than this share inside one ignore region is dropped."""

_PAIRS_AT_ONCE = 100_000

Indices = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Matches:
    """The pairs of a matching, and what is left over.

    Every prediction is in exactly one of pred, unmatched_pred and dropped.

    Args:
        pred: (K,) indices of matched predictions, ascending.
        truth: (K,) index of the true box that each of them matches.
        iou: (K,) their IoU, at least the threshold.
        unmatched_pred: indices of false positives.
        unmatched_truth: indices of missed true boxes.
        dropped: indices of unmatched predictions that lie in an ignore region and do not count.
        repeated: indices of predictions that equal an earlier one; they are never matched, and
            each is in unmatched_pred or dropped as well.
    """

    pred: Indices
    truth: Indices
    iou: NDArray[np.float64]
    unmatched_pred: Indices
    unmatched_truth: Indices
    dropped: Indices
    repeated: Indices


@dataclass(frozen=True, eq=False)
class Overlaps:
    """The overlaps of an answer with the ground truth, from which any threshold can be matched.

    Args:
        pred: (N, 4) xyxy predictions.
        truth: (M, 4) xyxy true boxes, in the same frame.
        iou: (N, M) IoU of each prediction with each true box, 0 in the rows of repeats.
        in_ignore: (N,) True where most of a prediction lies in one ignore region.
        repeated: (N,) True where a prediction equals an earlier one.
    """

    pred: Boxes
    truth: Boxes
    iou: NDArray[np.float64]
    in_ignore: NDArray[np.bool_]
    repeated: NDArray[np.bool_]

    def match(self, iou_threshold: float = 0.5) -> Matches:
        """Match at one threshold: most pairs first, then most total IoU (source: ours).

        A prediction without area and an exact repeat of an earlier one never match.

        Args:
            iou_threshold: least IoU of a pair, in (0, 1].

        Returns:
            The matches, the same for every order of the boxes.
        """
        pred, truth = self._pairs(iou_threshold)
        free = np.ones(len(self.pred), dtype=bool)
        free[pred] = False
        missed = np.ones(len(self.truth), dtype=bool)
        missed[truth] = False
        return Matches(
            pred=pred,
            truth=truth,
            iou=self.iou[pred, truth],
            unmatched_pred=np.flatnonzero(free & ~self.in_ignore),
            unmatched_truth=np.flatnonzero(missed),
            dropped=np.flatnonzero(free & self.in_ignore),
            repeated=np.flatnonzero(self.repeated),
        )

    def _pairs(self, threshold: float) -> tuple[Indices, Indices]:
        """Return the indices of matched predictions (ascending) and of their true boxes."""
        i, j = np.divmod(np.flatnonzero(self.iou >= threshold), max(len(self.truth), 1))
        rivals_i, rivals_j = np.bincount(i), np.bincount(j)
        alone = (rivals_i[i] == 1) & (rivals_j[j] == 1)
        if alone.all():
            return i, j
        # Two boxes that overlap only each other are a pair; the rest has to be assigned.
        rows = _by_coordinates(np.flatnonzero(np.bincount(i[~alone])), self.pred)
        columns = _by_coordinates(np.flatnonzero(np.bincount(j[~alone])), self.truth)
        iou = self.iou[rows[:, None], columns]
        # One more pair outweighs any sum of IoUs.
        gain = np.where(iou >= threshold, iou + (min(iou.shape) + 1.0), 0.0)
        row, column = linear_sum_assignment(gain, maximize=True)
        taken = gain[row, column] > 0
        pred = np.concatenate([i[alone], rows[row[taken]]])
        truth = np.concatenate([j[alone], columns[column[taken]]])
        order = np.argsort(pred)
        return pred[order], truth[order]


def overlaps(
    answers: Sequence[BoxesLike], truth: BoxesLike, ignore_boxes: BoxesLike
) -> list[Overlaps]:
    """Compare several answers with one ground truth.

    Args:
        answers: boxes (N_g, 4) xyxy of each answer, at least one answer.
        truth: (M, 4) xyxy, in the frame of the answers.
        ignore_boxes: (K, 4) xyxy regions; an unmatched prediction with more than half of its area
            inside one of them is dropped.

    Returns:
        One ``Overlaps`` per answer.
    """
    preds = [as_boxes(answer) for answer in answers]
    truth, ignore_boxes = as_boxes(truth), as_boxes(ignore_boxes)
    found: list[Overlaps] = []
    for block in _blocks(preds, len(truth) + len(ignore_boxes)):
        found += _overlaps_of_block(block, truth, ignore_boxes)
    return found


def _blocks(preds: Sequence[Boxes], columns: int) -> Iterator[Sequence[Boxes]]:
    """Split answers so that the arrays of a block stay in the cache; few boxes are one block."""
    start = pairs = 0
    for stop, pred in enumerate(preds):
        pairs += len(pred) * columns
        if pairs > _PAIRS_AT_ONCE and stop > start:
            yield preds[start:stop]
            start, pairs = stop, len(pred) * columns
    yield preds[start:]


def _overlaps_of_block(preds: Sequence[Boxes], truth: Boxes, ignore_boxes: Boxes) -> list[Overlaps]:
    """Compare some answers with the ground truth, all in one array."""
    stacked = np.concatenate(preds) if len(preds) > 1 else preds[0]
    area = box_area(stacked)
    shared = box_intersection(stacked, np.concatenate([truth, ignore_boxes]))
    iou = shared_to_iou(shared[:, : len(truth)], area, box_area(truth))
    in_ignore = np.any(shared[:, len(truth) :] > IGNORE_SHARE * area[:, None], axis=1)
    found = []
    start = 0
    for pred in preds:
        part = slice(start, start + len(pred))
        start += len(pred)
        repeated = _repeated(pred)
        if repeated.any():
            iou[part][repeated] = 0.0
        found.append(Overlaps(pred, truth, iou[part], in_ignore[part], repeated))
    return found


def _by_coordinates(indices: Indices, boxes: Boxes) -> Indices:
    """Sort indices by their boxes, so that ties do not depend on the order of an answer."""
    return indices[np.lexsort(boxes[indices].T)]


def _repeated(boxes: Boxes) -> NDArray[np.bool_]:
    """Return True where a box equals one before it."""
    order = np.lexsort(boxes.T)
    ordered = boxes[order]
    repeated = np.zeros(len(boxes), dtype=bool)
    repeated[order[1:]] = (ordered[1:] == ordered[:-1]).all(axis=1)
    return repeated
