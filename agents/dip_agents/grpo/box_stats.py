"""How large boxes are and how often they repeat each other: what tells gaming from looking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
1/k at most, so this one finds nobody at a threshold above 0.25."""
WHOLE_IMAGE = 0.8
"""Share of the image from which a region is the whole of it."""


def box_statistics(
    answer: Boxes, looks: Boxes, truth: NDArray[np.floating[Any]], size: tuple[float, float]
) -> dict[str, float]:
    """Describe the boxes of one episode by a few numbers.

    Args:
        answer: (N, 4) xyxy, scene frame.
        looks: (R, 4) regions of its looks, scene frame.
        truth: (M, 4) people that count, scene frame.
        size: (width, height) of the scene.

    Returns:
        ``box_area`` and ``truth_area``, the median share of the image that a box covers (0 without
        boxes); ``huge_boxes``, the share of its boxes that are too large for anybody here (0 where
        there is nobody); ``duplicates``, boxes of the answer that repeat an earlier one;
        ``largest_look``, share of the image of the largest region, and ``look_overlap``, the
        highest IoU of two regions. All but the duplicates are in [0, 1].
    """
    image = size[0] * size[1]
    answered, people = (box_area(clip_boxes(boxes, size)) for boxes in (answer, truth))
    too_large = answered > HUGE * people.max(initial=0.0)
    return {
        # Medians: one box around everything among thirty good ones is no change of manners.
        "box_area": float(np.median(answered)) / image if len(answer) else 0.0,
        "truth_area": float(np.median(people)) / image if len(truth) else 0.0,
        "huge_boxes": float(too_large.mean()) if len(answer) and len(truth) else 0.0,
        "duplicates": float((_earlier_iou(answer) > SAME_BOX).sum()),
        "largest_look": float(box_area(looks).max(initial=0.0)) / image,
        "look_overlap": float(_earlier_iou(looks).max(initial=0.0)),
    }


def box_metrics(infos: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Describe the boxes of all rollouts of a step.

    Args:
        infos: of the rollouts, with what ``box_statistics`` returned, ``boxes``, ``truth_count``
            and ``ending``.

    Returns:
        Numbers under ``rollout/``: ``empty_answers`` (share of rollouts that answered without a
        box), ``empty_scenes`` (share whose scene holds nobody), ``duplicate_boxes`` (share of all
        boxes), ``whole_looks`` and ``repeated_looks`` (shares of rollouts); and means over the
        rollouts that have such boxes: ``huge_boxes``, ``box_area`` and ``truth_area``.
    """

    def share(hits: Sequence[bool]) -> float:
        return float(np.mean(hits))

    def mean(name: str, count: str) -> dict[str, float]:
        there = [info[name] for info in infos if info[count]]
        return {f"rollout/{name}": float(np.mean(there))} if there else {}

    boxes = sum(info["boxes"] for info in infos)
    return {
        "rollout/empty_answers": share([i["ending"] == "answer" and not i["boxes"] for i in infos]),
        "rollout/empty_scenes": share([not info["truth_count"] for info in infos]),
        "rollout/duplicate_boxes": sum(i["duplicates"] for i in infos) / boxes if boxes else 0.0,
        "rollout/whole_looks": share([info["largest_look"] >= WHOLE_IMAGE for info in infos]),
        "rollout/repeated_looks": share([info["look_overlap"] >= SAME_LOOK for info in infos]),
        **mean("huge_boxes", "boxes"),
        **mean("box_area", "boxes"),
        **mean("truth_area", "truth_count"),
    }


def _earlier_iou(boxes: Boxes) -> Boxes:
    """Return the highest IoU of each box with an earlier one, (N,)."""
    return np.tril(box_iou(boxes, boxes), -1).max(axis=1, initial=0.0)
