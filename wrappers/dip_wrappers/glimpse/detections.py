"""What a detector has found, and how findings from near and far become one list."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dip_env.boxes import Boxes, as_boxes, box_iou
from dip_env.errors import ConfigError


@dataclass(frozen=True, eq=False)
class Detections:
    """Boxes with scores.

    Args:
        boxes: (N, 4) xyxy; the frame is that of the context.
        scores: (N,) in [0, 1].

    Raises:
        ConfigError: for unequal numbers, or scores that are no numbers in [0, 1].
    """

    boxes: Boxes
    scores: NDArray[np.float64]

    def __post_init__(self) -> None:
        """Check and convert, so that any detector may return lists."""
        boxes = as_boxes(self.boxes)
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
    """Keep of overlapping boxes the surest (greedy non-maximum suppression).

    Args:
        detections: N, one frame.
        iou_threshold: boxes that overlap a surer one by more than this are left out.

    Returns:
        At most N, surest first; of equal scores the earlier one.
    """
    order = np.argsort(-detections.scores, kind="stable")
    overlap = box_iou(detections.boxes[order], detections.boxes[order]) > iou_threshold
    kept = np.zeros(len(order), dtype=bool)
    for row in range(len(order)):
        kept[row] = not overlap[row, :row][kept[:row]].any()
    return detections.take(order[kept])


def looked_closer(before: Detections, region: Any, closer: Detections) -> Detections:
    """Let a closer look correct what was thought of its region.

    Earlier boxes that lie wholly in the region are dropped: the closer look would have found them
    again if they were there. Boxes across its border stay, as the closer look cuts them off.

    Args:
        before: found so far, scene frame.
        region: (4,) xyxy that the closer look shows, scene frame.
        closer: what it found, scene frame.

    Returns:
        The remaining earlier ones and the closer ones, without suppression.
    """
    low, high = np.asarray(region[:2]), np.asarray(region[2:])
    inside = np.all((before.boxes[:, :2] >= low) & (before.boxes[:, 2:] <= high), axis=1)
    return joined(before.take(np.flatnonzero(~inside)), closer)


def uncut(
    detections: Detections, size: tuple[int, int], open_sides: Any, margin: float = 1.0
) -> Detections:
    """Drop boxes that a crop cuts off: half a person is a wrong box.

    Args:
        detections: in pixels of the crop.
        size: (width, height) of the crop.
        open_sides: four bools for left, top, right, bottom: whether the scene goes on there.
        margin: pixels from the border that count as touching it.

    Returns:
        Those that touch no open side.
    """
    left, top, right, bottom = (bool(side) for side in open_sides)
    x1, y1, x2, y2 = detections.boxes.T
    cut = (left & (x1 <= margin)) | (top & (y1 <= margin))
    cut |= (right & (x2 >= size[0] - margin)) | (bottom & (y2 >= size[1] - margin))
    return detections.take(~cut)
