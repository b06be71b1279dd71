"""Box statistics: how large boxes are and how often they repeat each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dip_env.boxes import Boxes, box_area, box_iou, clip_boxes

if TYPE_CHECKING:
    from dip_agents.grpo.rollouts import RolloutStats

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


def box_metrics(stats: Sequence[RolloutStats]) -> dict[str, float]:
    """Describe the boxes of all rollouts of a step.

    Args:
        stats: of the rollouts; those without box statistics are left out.

    Returns:
        Numbers under ``rollout/``: ``empty_answers`` (share of rollouts that answered without a
        box), ``empty_scenes`` (share whose scene has no instance), ``duplicate_boxes`` (share of
        all boxes), ``whole_looks`` and ``repeated_looks`` (shares of rollouts); and means over the
        rollouts that have such boxes: ``huge_boxes``, ``box_area`` and ``truth_area``.
    """
    measured = [(one, one.box_stats) for one in stats if one.box_stats is not None]
    if not measured:
        return {}

    def share(hits: Sequence[bool]) -> float:
        return float(np.mean(hits))

    def mean(name: str, values: Sequence[float]) -> dict[str, float]:
        return {f"rollout/{name}": float(np.mean(values))} if values else {}

    boxes = sum(one.boxes for one, _ in measured)
    with_boxes = [shapes for one, shapes in measured if one.boxes]
    with_people = [shapes for one, shapes in measured if one.truth_count]
    duplicates = sum(shapes.duplicates for _, shapes in measured)
    return {
        "rollout/empty_answers": share([one.answered and not one.boxes for one, _ in measured]),
        "rollout/empty_scenes": share([not one.truth_count for one, _ in measured]),
        "rollout/duplicate_boxes": duplicates / boxes if boxes else 0.0,
        "rollout/whole_looks": share([s.largest_look >= WHOLE_IMAGE for _, s in measured]),
        "rollout/repeated_looks": share([s.look_overlap >= SAME_LOOK for _, s in measured]),
        **mean("huge_boxes", [shapes.huge_boxes for shapes in with_boxes]),
        **mean("box_area", [shapes.box_area for shapes in with_boxes]),
        **mean("truth_area", [shapes.truth_area for shapes in with_people]),
    }


def _earlier_iou(boxes: Boxes) -> Boxes:
    """Return the highest IoU of each box with an earlier one, (N,)."""
    return np.tril(box_iou(boxes, boxes), -1).max(axis=1, initial=0.0)
