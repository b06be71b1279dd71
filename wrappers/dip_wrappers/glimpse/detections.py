"""The detections of one image, and how those of overview and crops are merged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dip_env.boxes import Boxes, as_boxes, box_iou
from dip_env.errors import ConfigError

MARGIN = 1.0
"""Pixels from the border of an image in which a box may be cut off."""


@dataclass(frozen=True, eq=False)
class Detections:
    """Boxes with scores.

    Args:
        boxes: (N, 4) xyxy; the frame is that of the context.
        scores: (N,) in [0, 1].

    Raises:
        ConfigError: for boxes that are not (N, 4) finite numbers or that are inverted, for unequal
            numbers of boxes and scores, or scores outside [0, 1].
    """

    boxes: Boxes
    scores: NDArray[np.float64]

    def __post_init__(self) -> None:
        """Check and convert, so that any detector may return lists."""
        try:
            boxes = as_boxes(self.boxes)
        except ValueError as error:
            raise ConfigError(f"detections: {error}") from error
        if not np.isfinite(boxes).all():
            wrong = boxes[~np.isfinite(boxes).all(axis=1)][0]
            raise ConfigError(f"detections: expected finite boxes, got {wrong.tolist()}")
        if (inverted := (boxes[:, 2:] < boxes[:, :2]).any(axis=1)).any():
            raise ConfigError(
                "detections: expected x1,y1,x2,y2 with x1 <= x2 and y1 <= y2, got "
                f"{boxes[inverted][0].tolist()}; is that x,y,width,height?"
            )
        scores = np.asarray(self.scores, dtype=np.float64).reshape(-1)
        if len(boxes) != len(scores):
            raise ConfigError(f"detections: expected {len(boxes)} scores, got {len(scores)}")
        if not ((scores >= 0) & (scores <= 1)).all():  # written so that NaN fails
            raise ConfigError(f"detections: expected scores in [0, 1], got {scores.tolist()[:8]}")
        object.__setattr__(self, "boxes", boxes)
        object.__setattr__(self, "scores", scores)

    def __len__(self) -> int:
        """N."""
        return len(self.scores)

    def take(self, which: NDArray[Any]) -> Detections:
        """Return some of them, in the order of the indices or of the mask."""
        return Detections(self.boxes[which], self.scores[which])

    def above(self, score: float) -> Detections:
        """Return those with at least a score."""
        return self.take(self.scores >= score)


NOTHING = Detections(np.zeros((0, 4)), np.zeros(0))
"""No detections."""


def joined(*parts: Detections) -> Detections:
    """Return all detections of the parts, in order."""
    return Detections(
        np.concatenate([part.boxes for part in parts] or [np.zeros((0, 4))]),
        np.concatenate([part.scores for part in parts] or [np.zeros(0)]),
    )


def suppressed(detections: Detections, iou_threshold: float = 0.5) -> Detections:
    """Keep the highest-scoring of overlapping boxes (greedy non-maximum suppression).

    Args:
        detections: N, one frame.
        iou_threshold: boxes that overlap a higher-scoring one by more than this are left out.

    Returns:
        At most N, highest score first; of equal scores the earlier one.
    """
    order = np.argsort(-detections.scores, kind="stable")
    overlap = box_iou(detections.boxes[order], detections.boxes[order]) > iou_threshold
    kept = np.zeros(len(order), dtype=bool)
    for row in range(len(order)):
        kept[row] = not overlap[row, :row][kept[:row]].any()
    return detections.take(order[kept])


@dataclass(frozen=True)
class AnswerRule:
    """Which detections are answered.

    Args:
        min_score: least score of an answered detection.
        nms_iou: of two detections that overlap by more than this, the higher-scoring one is kept.

    Raises:
        ConfigError: for a number outside [0, 1].
    """

    min_score: float = 0.5
    nms_iou: float = 0.5

    def __post_init__(self) -> None:
        """Check both numbers once."""
        for name in ("min_score", "nms_iou"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ConfigError(f"answer.{name}: expected a number in [0, 1], got {value!r}")


@dataclass(frozen=True, eq=False)
class Finding:
    """The detections in one image.

    Args:
        inside: (4,) xyxy, scene frame: boxes inside it were shown whole.
        scale: pixels of the image per pixel of the scene; more than 1 adds no detail.
        detections: those whose boxes were whole in the image, scene frame.
    """

    inside: NDArray[np.float64]
    scale: float
    detections: Detections


def merged(findings: Sequence[Finding], iou_threshold: float = 0.5) -> Detections:
    """Merge the detections of several images; the one with the larger scale decides.

    Boxes that lie wholly inside an image of larger scale are dropped: it would have found them
    again if they were there. Of images of equal scale the later one decides. Boxes across the
    border of such an image stay, as it cuts them off.

    Args:
        findings: in the order in which the images were seen.
        iou_threshold: of ``suppressed``.

    Returns:
        Detections, scene frame, highest score first.
    """
    ranks = [(min(1.0, finding.scale), order) for order, finding in enumerate(findings)]
    kept = []
    for rank, finding in zip(ranks, findings, strict=True):
        left = finding.detections
        for other_rank, other in zip(ranks, findings, strict=True):
            if other_rank > rank:
                left = left.take(~_lie_in(left.boxes, other.inside))
        kept.append(left)
    return suppressed(joined(*kept), iou_threshold)


def _lie_in(boxes: Boxes, region: NDArray[np.float64]) -> NDArray[np.bool_]:
    low, high = region[:2], region[2:]
    return np.all((boxes[:, :2] >= low) & (boxes[:, 2:] <= high), axis=1)


def uncut(
    detections: Detections, size: tuple[int, int], open_sides: Any, margin: float = MARGIN
) -> Detections:
    """Drop boxes that a crop cuts off: half a person is a wrong box.

    Args:
        detections: in pixels of the crop.
        size: (width, height) of the crop.
        open_sides: four bools for left, top, right, bottom: whether the scene continues there.
        margin: pixels from the border that count as touching it.

    Returns:
        Those that touch no open side.
    """
    left, top, right, bottom = (bool(side) for side in open_sides)
    x1, y1, x2, y2 = detections.boxes.T
    cut = (left & (x1 <= margin)) | (top & (y1 <= margin))
    cut |= (right & (x2 >= size[0] - margin)) | (bottom & (y2 >= size[1] - margin))
    return detections.take(~cut)
