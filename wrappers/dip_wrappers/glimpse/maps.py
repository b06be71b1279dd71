"""Small maps of an episode for agents with numeric action spaces; pure functions."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dip_env.boxes import Boxes


def looked_map(regions: Boxes, size: tuple[int, int], cells: int) -> NDArray[np.float32]:
    """Return the share of each cell of an image that has been looked at.

    Args:
        regions: (R, 4) xyxy, scene frame.
        size: (width, height) of the scene.
        cells: M, cells along each side.

    Returns:
        (M, M), rows from the top: the largest share of the cell in one region, in [0, 1].
    """
    edges = np.arange(cells + 1) / cells
    looked = np.zeros((cells, cells))
    for x1, y1, x2, y2 in regions / (*size, *size):
        across, down = (
            np.clip(np.minimum(edges[1:], high) - np.maximum(edges[:-1], low), 0, None) * cells
            for low, high in ((x1, x2), (y1, y2))
        )
        looked = np.maximum(looked, np.outer(down, across))
    return np.minimum(looked, 1.0).astype(np.float32)


def weight_inside(regions: Boxes, boxes: Boxes, weights: Any) -> NDArray[np.float64]:
    """Sum weights over the regions that the boxes' centres lie in; regions may overlap.

    Args:
        regions: (P, 4) xyxy.
        boxes: (N, 4) xyxy, in the frame of ``regions``.
        weights: (N,) >= 0.

    Returns:
        (P,) >= 0; a centre on a region's border lies in it.
    """
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    corners = regions[:, None]
    inside = ((centres >= corners[..., :2]) & (centres <= corners[..., 2:])).all(axis=2)
    return np.asarray(inside @ np.asarray(weights, dtype=np.float64))


def weight_map(
    boxes: Boxes, weights: Any, size: tuple[int, int], cells: int
) -> NDArray[np.float32]:
    """Sum weights over the cells that the boxes' centres lie in.

    Args:
        boxes: (N, 4) xyxy, scene frame; a centre outside counts for the nearest cell.
        weights: (N,) >= 0.
        size: (width, height) of the scene.
        cells: M, cells along each side.

    Returns:
        (M, M), rows from the top: x / (1 + x) of each sum x, in [0, 1).
    """
    x1, y1, x2, y2 = boxes.T
    centres = np.stack([(y1 + y2) / 2 / size[1], (x1 + x2) / 2 / size[0]])
    rows, columns = np.clip(np.floor(centres * cells).astype(int), 0, cells - 1)
    total = np.zeros((cells, cells))
    np.add.at(total, (rows, columns), weights)
    return (total / (1 + total)).astype(np.float32)


def padded(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Fit an image into a square.

    Args:
        image: RGB uint8 (h, w, 3).
        side: longest side of the result in pixels.

    Returns:
        RGB uint8 (side, side, 3), filled up with 0 at the right and bottom.
    """
    scale = side / max(image.shape[:2])
    size = [max(1, round(length * scale)) for length in image.shape[1::-1]]
    small = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
    square = np.zeros((side, side, 3), np.uint8)
    square[: size[1], : size[0]] = small
    return square
