"""Truth and answers in COCO's json formats, readable by any detection tool.

Everybody is one category, as in the rewards. Image ids are scene index + 1 and annotation ids
count from 1, since pycocotools takes an annotation with id 0 for a missing one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dip_env.scenes.base import Scene

PERSON = 1
"""The one category id."""


def image_id(scene_index: int) -> int:
    """Return the COCO image id of a scene."""
    return scene_index + 1


def xywh(boxes: NDArray[Any]) -> list[list[float]]:
    """Turn (N, 4) xyxy boxes into COCO's x, y, width, height lists."""
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    rows: list[list[float]] = np.hstack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]]).tolist()
    return rows


def new_truth() -> dict[str, Any]:
    """Return an empty truth file, to be filled by :func:`add_scene`."""
    return {
        "info": {"description": "boxes in source pixels; iscrowd marks ignored instances"},
        "images": [],
        "annotations": [],
        "categories": [{"id": PERSON, "name": "person"}],
    }


def add_scene(truth: dict[str, Any], scene_index: int, scene: Scene) -> None:
    """Add one scene to a truth file.

    Args:
        truth: what ``new_truth`` returned; gains an image and its annotations (``bbox`` amodal,
            ``vis_bbox`` the visible part, ``iscrowd`` 1 for ignored instances; source pixels).
        scene_index: index of the scene in its source.
        scene: the scene.
    """
    width, height = scene.size
    truth["images"].append(
        {
            "id": image_id(scene_index),
            "width": width,
            "height": height,
            "file_name": scene.scene_id,
            "scene_index": scene_index,
        }
    )
    rows = zip(
        xywh(scene.boxes),
        xywh(scene.visible_boxes),
        scene.visible_share.tolist(),
        scene.ignore.tolist(),
        strict=True,
    )
    for box, visible, share, ignore in rows:
        truth["annotations"].append(
            {
                "id": len(truth["annotations"]) + 1,
                "image_id": image_id(scene_index),
                "category_id": PERSON,
                "bbox": box,
                "vis_bbox": visible,
                "vis_ratio": share,
                "area": box[2] * box[3],
                "iscrowd": int(ignore),
                "ignore": int(ignore),
            }
        )


def coco_detections(
    scene_index: int, boxes: NDArray[np.float64], scores: Sequence[float | None]
) -> list[dict[str, Any]]:
    """Write one answer in COCO's result format.

    Args:
        scene_index: the scene that was answered.
        boxes: (N, 4) xyxy, scene frame.
        scores: confidence of each box, None where the policy gave none (written as 1.0).

    Returns:
        One entry for each box that has an area.
    """
    return [
        {
            "image_id": image_id(scene_index),
            "category_id": PERSON,
            "bbox": box,
            "score": 1.0 if score is None else float(score),
        }
        for box, score in zip(xywh(boxes), scores, strict=True)
        if box[2] > 0 and box[3] > 0
    ]
