"""Geometry of axis-aligned boxes; knows no image, no frame and no match.

A box is ``x1, y1, x2, y2`` (float, origin top left). Its width is ``max(0, x2 - x1)``, so an
inverted box has no area and meets nothing. Every function takes anything ``as_boxes`` takes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Boxes = NDArray[np.float64]


def as_boxes(values: Any) -> Boxes:
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


def box_area(boxes: Any) -> NDArray[np.float64]:
    """Return the area of each box.

    Args:
        boxes: (N, 4) xyxy, any frame.

    Returns:
        (N,) areas >= 0, in squared units of the frame.
    """
    x1, y1, x2, y2 = as_boxes(boxes).T
    return np.maximum(x2 - x1, 0.0) * np.maximum(y2 - y1, 0.0)


def box_intersection(a: Any, b: Any) -> NDArray[np.float64]:
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


def box_iou(a: Any, b: Any) -> NDArray[np.float64]:
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
    a, b = as_boxes(a), as_boxes(b)
    iou = box_intersection(a, b)
    union = box_area(a)[:, None] + box_area(b)
    union -= iou
    # Two boxes without area share none: 0 / 1 instead of 0 / 0.
    union[union == 0] = 1.0
    iou /= union
    return iou


def clip_boxes(boxes: Any, size: tuple[float, float]) -> Boxes:
    """Return the part of each box inside an image.

    Args:
        boxes: (N, 4) xyxy in the frame of the image.
        size: (width, height) of the image.

    Returns:
        (N, 4) with every coordinate inside the image; a box outside has no area.
    """
    width, height = size
    return np.clip(as_boxes(boxes), 0.0, (width, height, width, height))


def disjoint_regions(regions: Any) -> Boxes:
    """Cut the union of regions into boxes that do not overlap.

    Args:
        regions: (R, 4) xyxy, any frame.

    Returns:
        (K, 4) xyxy boxes with area but without common area, whose union is that of ``regions``.
    """
    xs, ys, inside = _grid(regions)
    wide, tall = np.diff(xs) > 0, np.diff(ys) > 0
    column, row = np.nonzero((inside > 0) & wide[:, None] & tall)
    return np.stack([xs[column], ys[row], xs[column + 1], ys[row + 1]], axis=1)


def union_area(regions: Any) -> float:
    """Return the area that regions cover together.

    Args:
        regions: (R, 4) xyxy, any frame.

    Returns:
        Area >= 0; what several regions share counts once.
    """
    xs, ys, inside = _grid(regions)
    return float(((np.diff(xs) @ inside) * np.diff(ys)).sum())


def covered_share(items: Any, regions: Any) -> NDArray[np.float64]:
    """Return the share of each item that lies inside the union of regions.

    Args:
        items: (N, 4) xyxy.
        regions: (R, 4) xyxy, in the frame of ``items``; they may overlap.

    Returns:
        (N,) in [0, 1]; 0 for an item without area.
    """
    items = as_boxes(items)
    xs, ys, inside = _grid(regions)
    x1, y1, x2, y2 = items.T[..., None]
    covered = _overlap(x1, x2, xs[:-1], xs[1:]) @ inside
    covered *= _overlap(y1, y2, ys[:-1], ys[1:])
    area = box_area(items)
    return np.minimum(covered.sum(axis=1) / np.where(area > 0, area, 1.0), 1.0)


def _overlap(
    a1: NDArray[np.float64],
    a2: NDArray[np.float64],
    b1: NDArray[np.float64],
    b2: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Length that the intervals [a1, a2] and [b1, b2] share, broadcast."""
    length = np.minimum(a2, b2)
    length -= np.maximum(a1, b1)
    return np.maximum(length, 0.0, out=length)


def _grid(
    regions: Any,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Cut the plane at every border: xs, ys ascending, and 1.0 per (x, y) cell that is covered."""
    x1, y1, x2, y2 = as_boxes(regions).T[..., None]
    xs, ys = np.sort(np.concatenate([x1, x2]).ravel()), np.sort(np.concatenate([y1, y2]).ravel())
    # A region covers the cells that start inside it; equal borders make cells without area.
    across = (x1 <= xs[:-1]) & (xs[:-1] < x2)
    down = (y1 <= ys[:-1]) & (ys[:-1] < y2)
    inside = across.T.astype(np.float64) @ down.astype(np.float64)
    return xs, ys, np.minimum(inside, 1.0, out=inside)
