"""Ground truth and answers in COCO's JSON formats, readable by any detection tool.

An image has the id it has in its data set, where that is an integer, so that an answer can be
scored against the data set's own annotations; else scene index + 1. Annotation ids count from 1,
since pycocotools takes an annotation with id 0 for a missing one. Both are clipped to the
image, as in the rewards: no answer can reach beyond the border. The boxes as annotated are kept as
``full_bbox`` and ``full_vis_bbox``, which protocols whose evaluators do not clip read instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dip_env.boxes import clip_boxes
from dip_env.errors import SceneError
from dip_env.scenes.base import Scene


@dataclass(frozen=True)
class CocoImage:
    """What ties answers to a scene.

    Args:
        image_id: id of the image in ``truth.json``.
        category_id: id of what was to be found in it.
        size: (width, height) of the image.
    """

    image_id: int
    category_id: int
    size: tuple[int, int]


class CocoTruth:
    """A ground-truth file that grows scene by scene.

    Each target (``Scene.target``) is a category, numbered from 1 in the order of appearance.
    """

    def __init__(self) -> None:
        """Start without images."""
        self._images: dict[int, str] = {}
        self._categories: dict[str, int] = {}
        self.data: dict[str, Any] = {
            "info": {"description": "boxes in source pixels; iscrowd marks ignored instances"},
            "images": [],
            "annotations": [],
            "categories": [],
        }
        """What the file holds."""

    def add(self, scene_index: int, scene: Scene) -> CocoImage:
        """Add one scene: an image and its annotations.

        Each annotation has ``bbox`` (what of the full box lies inside the image), ``vis_bbox``
        (likewise of the visible part), both as annotated (``full_bbox``, ``full_vis_bbox``),
        ``vis_ratio``, ``area`` of the ``bbox``, and ``iscrowd`` 1 for ignored instances; all in
        source pixels.

        Args:
            scene_index: index of the scene in its source.
            scene: the scene.

        Returns:
            The ids that answers to this scene carry.

        Raises:
            SceneError: for an image id that another scene has already.
        """
        image_id = _image_id(scene_index, scene)
        if image_id in self._images:
            raise SceneError(
                f"scene {scene.scene_id} (index {scene_index}): expected an image id of its own, "
                f"got {image_id}, the id of scene {self._images[image_id]}"
            )
        self._images[image_id] = scene.scene_id
        image = CocoImage(image_id, self._category_id(scene.target), scene.size)
        width, height = scene.size
        self.data["images"].append(
            {
                "id": image_id,
                "width": width,
                "height": height,
                "file_name": scene.scene_id,
                "scene_index": scene_index,
            }
        )
        rows = zip(
            xywh(clip_boxes(scene.boxes, scene.size)),
            xywh(scene.boxes),
            xywh(clip_boxes(scene.visible_boxes, scene.size)),
            xywh(scene.visible_boxes),
            scene.visible_share.tolist(),
            scene.ignore.tolist(),
            strict=True,
        )
        annotations = self.data["annotations"]
        for box, full, visible, full_visible, share, ignore in rows:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": image.category_id,
                    "bbox": box,
                    "full_bbox": full,
                    "vis_bbox": visible,
                    "full_vis_bbox": full_visible,
                    "vis_ratio": share,
                    "area": box[2] * box[3],
                    "iscrowd": int(ignore),
                    "ignore": int(ignore),
                }
            )
        return image

    def _category_id(self, target: str) -> int:
        if target not in self._categories:
            self._categories[target] = len(self._categories) + 1
            self.data["categories"].append({"id": self._categories[target], "name": target})
        return self._categories[target]


def coco_detections(
    image: CocoImage, boxes: NDArray[np.float64], scores: Sequence[float | None]
) -> list[dict[str, Any]]:
    """Write one answer in COCO's result format.

    Args:
        image: that the answer belongs to.
        boxes: (N, 4) xyxy, scene frame.
        scores: confidence of each box, None where the policy gave none (written as 1.0).

    Returns:
        One entry for each box, clipped to the image; also for one without area inside, whose width
        or height is then 0.
    """
    return [
        {
            "image_id": image.image_id,
            "category_id": image.category_id,
            "bbox": box,
            "score": 1.0 if score is None else float(score),
        }
        for box, score in zip(xywh(clip_boxes(boxes, image.size)), scores, strict=True)
    ]


def xywh(boxes: NDArray[Any]) -> list[list[float]]:
    """Turn (N, 4) xyxy boxes into COCO's x, y, width, height lists; an inverted side is 0 long."""
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 0.0)
    rows: list[list[float]] = np.hstack([boxes[:, :2], sides]).tolist()
    return rows


def _image_id(scene_index: int, scene: Scene) -> int:
    given = scene.notes.get("image_id")
    if isinstance(given, int) and not isinstance(given, bool):
        return given
    return scene_index + 1
