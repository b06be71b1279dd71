"""Geometry of axis-aligned boxes; independent of images, frames and matches.

A box is ``x1, y1, x2, y2`` (float, origin top left). Its width is ``max(0, x2 - x1)``, so an
inverted box has no area and intersects nothing. Every function takes anything ``as_boxes`` takes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Boxes = NDArray[np.float64]
"""Boxes as one array, (N, 4) xyxy."""
BoxesLike = ArrayLike
"""Anything that ``as_boxes`` takes: an array or nested sequences of shape (N, 4), or none."""

_TINY = np.finfo(np.float64).tiny


def as_boxes(values: BoxesLike) -> Boxes:
    """Return boxes as one float64 array.

    Args:
        values: anything of shape (N, 4), or an empty sequence.

    Returns:
        Float64 (N, 4); the same array when ``values`` already is one.

    Raises:
        ValueError: for another shape.
    """
    boxes = np.asarray(values, dtype=np.float64)
    if boxes.ndim == 2 and boxes.shape[1] == 4:
        return boxes
    if boxes.size == 0 and boxes.ndim <= 2:
        return np.zeros((0, 4))
    raise ValueError(f"boxes: expected shape (N, 4), got {boxes.shape}")


def box_area(boxes: BoxesLike) -> NDArray[np.float64]:
    """Return the area of each box.

    Args:
        boxes: (N, 4) xyxy, any frame.

    Returns:
        (N,) areas >= 0, in squared units of the frame.
    """
    x1, y1, x2, y2 = as_boxes(boxes).T
    return np.maximum(x2 - x1, 0.0) * np.maximum(y2 - y1, 0.0)


def box_intersection(a: BoxesLike, b: BoxesLike) -> NDArray[np.float64]:
    """Return the area that every box of ``a`` shares with every box of ``b``.

    Args:
        a: (N, 4) xyxy.
        b: (M, 4) xyxy, in the frame of ``a``.

    Returns:
        (N, M) areas >= 0.
    """
    ax1, ay1, ax2, ay2 = as_boxes(a).T[..., None]
    bx1, by1, bx2, by2 = np.ascontiguousarray(as_boxes(b).T)
    shared = _overlap(ax1, ax2, bx1, bx2)
    shared *= _overlap(ay1, ay2, by1, by2)
    return shared


def box_iou(a: BoxesLike, b: BoxesLike) -> NDArray[np.float64]:
    """Return intersection over union of every box of ``a`` with every box of ``b``.

    Args:
        a: (N, 4) xyxy.
        b: (M, 4) xyxy, in the frame of ``a``.

    Returns:
        (N, M) in [0, 1]; 0 where either box has no area.

    Example:
        >>> box_iou([[0, 0, 10, 10]], [[0, 0, 10, 5], [20, 20, 30, 30]])
        array([[0.5, 0. ]])
    """
    return shared_to_iou(box_intersection(a, b), box_area(a), box_area(b))


def shared_to_iou(
    shared: NDArray[np.float64], area_a: NDArray[np.float64], area_b: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Turn intersections that are already computed into intersection over union.

    Args:
        shared: (N, M) areas that boxes a and b share.
        area_a: (N,) areas of boxes a.
        area_b: (M,) areas of boxes b.

    Returns:
        (N, M) in [0, 1]; 0 where either box has no area.
    """
    union = area_a[:, None] + area_b
    union -= shared
    # Two boxes without area share none: 0 / tiny instead of 0 / 0.
    np.maximum(union, _TINY, out=union)
    return np.divide(shared, union, out=union)


def clip_boxes(boxes: BoxesLike, size: tuple[float, float]) -> Boxes:
    """Return the part of each box inside an image.

    Args:
        boxes: (N, 4) xyxy in the frame of the image.
        size: (width, height) of the image.

    Returns:
        (N, 4) with every coordinate inside the image; a box outside has no area.
    """
    width, height = size
    # Two ufuncs take half the time of np.clip on arrays as small as these.
    return np.minimum(np.maximum(as_boxes(boxes), 0.0), (width, height, width, height))


@dataclass(frozen=True, eq=False)
class Union:
    """The union of regions: a grid of cells between all borders, and which of them are covered.

    Args:
        xs: (X,) borders in x, ascending.
        ys: (Y,) borders in y, ascending.
        inside: (X - 1, Y - 1), 1.0 for each cell that some region covers, else 0.0.
    """

    xs: NDArray[np.float64]
    ys: NDArray[np.float64]
    inside: NDArray[np.float64]

    @classmethod
    def of(cls, regions: BoxesLike) -> Union:
        """Return the union of regions (R, 4) xyxy."""
        x1, y1, x2, y2 = as_boxes(regions).T[..., None]
        xs, ys = np.concatenate([x1, x2]).ravel(), np.concatenate([y1, y2]).ravel()
        xs.sort()
        ys.sort()
        # A region covers the cells that start inside it; equal borders give cells without area.
        across = (x1 <= xs[:-1]) & (xs[:-1] < x2)
        down = (y1 <= ys[:-1]) & (ys[:-1] < y2)
        inside = across.T.astype(np.float64) @ down.astype(np.float64)
        return cls(xs, ys, np.minimum(inside, 1.0, out=inside))

    @property
    def area(self) -> float:
        """Area of the union; what several regions share counts once."""
        return float(((np.diff(self.xs) @ self.inside) * np.diff(self.ys)).sum())

    def covered_share(self, items: BoxesLike) -> NDArray[np.float64]:
        """Return the share (N,) of each item (N, 4) inside the union; 0 for one without area."""
        items = as_boxes(items)
        x1, y1, x2, y2 = items.T[..., None]
        covered = _overlap(x1, x2, self.xs[:-1], self.xs[1:]) @ self.inside
        covered *= _overlap(y1, y2, self.ys[:-1], self.ys[1:])
        area = box_area(items)
        return np.minimum(covered.sum(axis=1) / np.where(area > 0, area, 1.0), 1.0)


def union_area(regions: BoxesLike) -> float:
    """Return the area that regions cover together.

    Args:
        regions: (R, 4) xyxy, any frame.

    Returns:
        Area >= 0; what several regions share counts once.
    """
    return Union.of(regions).area


def covered_share(items: BoxesLike, regions: BoxesLike) -> NDArray[np.float64]:
    """Return the share of each item that lies inside the union of regions.

    Args:
        items: (N, 4) xyxy.
        regions: (R, 4) xyxy, in the frame of ``items``; they may overlap.

    Returns:
        (N,) in [0, 1]; 0 for an item without area.
    """
    return Union.of(regions).covered_share(items)


def _overlap(
    a1: NDArray[np.float64],
    a2: NDArray[np.float64],
    b1: NDArray[np.float64],
    b2: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return the length that the intervals [a1, a2] and [b1, b2] share, broadcast."""
    length = np.minimum(a2, b2)
    length -= np.maximum(a1, b1)
    return np.maximum(length, 0.0, out=length)
