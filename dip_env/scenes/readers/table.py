"""Annotations of many images as columns. Independent of file formats and images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dip_env.boxes import box_area


@dataclass(frozen=True, eq=False)
class AnnotationTable:
    """Checked annotations of I images with N boxes in all, image after image.

    Args:
        names: scene id of each image, I strings that differ.
        files: image file of each, relative to the image folder.
        sizes: int32 (I, 2) width and height in pixels; 0 where only the image's header states it.
        starts: int64 (I + 1,), rows ``starts[i]:starts[i + 1]`` belong to image i.
        boxes: float32 (N, 4) full boxes, xyxy, scene frame.
        visible_boxes: float32 (N, 4) boxes of the visible part.
        visible_share: float32 (N,) in [0, 1].
        ignore: bool (N,).
        label: uint16 (N,) index into ``labels``.
        labels: names of the categories.
        notes: further columns, I values each, passed to the scenes as notes.
        visible_known: whether the data set has visible boxes.
    """

    names: Sequence[str]
    files: Sequence[str]
    sizes: NDArray[np.int32]
    starts: NDArray[np.int64]
    boxes: NDArray[np.float32]
    visible_boxes: NDArray[np.float32]
    visible_share: NDArray[np.float32]
    ignore: NDArray[np.bool_]
    label: NDArray[np.uint16]
    labels: tuple[str, ...]
    notes: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    visible_known: bool = True

    @classmethod
    def of(
        cls,
        *,
        names: Sequence[str],
        files: Sequence[str],
        per_image: Sequence[int],
        boxes: Any,
        ignore: Any,
        label: Any,
        labels: tuple[str, ...],
        sizes: Any = None,
        visible_boxes: Any = None,
        notes: Mapping[str, Sequence[Any]] | None = None,
    ) -> AnnotationTable:
        """Make a table and compute the visible shares.

        Args:
            names: see the class.
            files: see the class.
            per_image: boxes of each image.
            boxes: (N, 4) xyxy full boxes, with area.
            ignore: (N,) flags.
            label: (N,) indices into ``labels``.
            labels: names of the categories.
            sizes: (I, 2), none known by default.
            visible_boxes: (N, 4) xyxy; None where the data set has none: instances are then taken
                to be fully visible.
            notes: see the class.

        Returns:
            The table; a visible share is the visible area over the full area, at most 1.
        """
        full = np.asarray(boxes, np.float64).reshape(-1, 4)
        seen = full if visible_boxes is None else np.asarray(visible_boxes, float).reshape(-1, 4)
        share = np.minimum(1.0, box_area(seen) / box_area(full))
        count = len(names)
        return cls(
            names=names,
            files=files,
            sizes=np.zeros((count, 2), np.int32) if sizes is None else np.asarray(sizes, np.int32),
            starts=np.concatenate([[0], np.cumsum(per_image, dtype=np.int64)]).astype(np.int64),
            boxes=full.astype(np.float32),
            visible_boxes=seen.astype(np.float32),
            visible_share=share.astype(np.float32),
            ignore=np.asarray(ignore, bool).reshape(-1),
            label=np.asarray(label, np.uint16).reshape(-1),
            labels=labels,
            notes=notes or {},
            visible_known=visible_boxes is not None,
        )
