"""Box statistics: how large boxes are and how often they repeat each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dip_env.boxes import Boxes, box_area, box_iou, clip_boxes

SAME_BOX = 0.9
"""IoU from which one box repeats another; two people in a dense crowd overlap by less."""
SAME_LOOK = 0.8
"""IoU from which one region shows what another has shown."""
HUGE = 4.0
"""How many times as large as the largest person; a box k times as large as another overlaps it by
1/k at most, so this one matches nobody at a threshold above 0.25."""
WHOLE_IMAGE = 0.8
"""Share of the image from which a region is the whole of it."""


@dataclass(frozen=True)
class BoxStats:
    """The boxes of one episode in a few numbers; all but the duplicates are in [0, 1].

    Args:
        box_area: median share of the image that a box of the answer covers; 0 without boxes.
        truth_area: the same of the ground truth.
        huge_boxes: share of the answer's boxes that are too large for any instance of the scene; 0
            where it has none.
        duplicates: number of boxes of the answer that repeat an earlier one.
        largest_look: share of the image that the largest region covers.
        look_overlap: highest IoU of two regions.
    """

    box_area: float
    truth_area: float
    huge_boxes: float
    duplicates: float
    largest_look: float
    look_overlap: float


def box_statistics(
    answer: Boxes, looks: Boxes, truth: NDArray[np.floating[Any]], size: tuple[float, float]
) -> BoxStats:
    """Describe the boxes of one episode by a few numbers.

    Args:
        answer: (N, 4) xyxy, scene frame.
        looks: (R, 4) regions of its looks, scene frame.
        truth: (M, 4) non-ignored instances, scene frame.
        size: (width, height) of the scene.

    Returns:
        The statistics.
    """
    image = size[0] * size[1]
    answered, people = (box_area(clip_boxes(boxes, size)) for boxes in (answer, truth))
    too_large = answered > HUGE * people.max(initial=0.0)
    return BoxStats(
        # Medians: one box around everything among thirty good ones does not change the answer.
        box_area=float(np.median(answered)) / image if len(answer) else 0.0,
        truth_area=float(np.median(people)) / image if len(truth) else 0.0,
        huge_boxes=float(too_large.mean()) if len(answer) and len(truth) else 0.0,
        duplicates=float((_earlier_iou(answer) > SAME_BOX).sum()),
        largest_look=float(box_area(looks).max(initial=0.0)) / image,
        look_overlap=float(_earlier_iou(looks).max(initial=0.0)),
    )


def _earlier_iou(boxes: Boxes) -> Boxes:
    """Return the highest IoU of each box with an earlier one, (N,)."""
    return np.tril(box_iou(boxes, boxes), -1).max(axis=1, initial=0.0)
