"""Checks of annotated boxes: which have an area, and what becomes of the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dip_env.checks import short
from dip_env.errors import SceneError

BadBoxes = Literal["error", "drop"]
"""What to do with a box without area inside its image: raise, or drop and count it."""


def boxes_with_area(
    xywh: NDArray[np.float64], where: Callable[[int], str], bad_boxes: BadBoxes
) -> NDArray[np.bool_]:
    """Return which boxes have an area in float32, as scenes store them.

    Args:
        xywh: (N, 4) x, y, width, height.
        where: returns the file and field of a row, for the message.
        bad_boxes: raise for a box without area, or mark it.

    Returns:
        (N,) True where the width and height are above 0.

    Raises:
        SceneError: for the first box without area, unless such are to be dropped.
    """
    box = xywh_to_xyxy(xywh).astype(np.float32)
    good = (box[:, 2:] > box[:, :2]).all(axis=1)
    return check_boxes(good, xywh, "width and height above 0", where, bad_boxes)


def check_boxes(
    good: Any,
    xywh: NDArray[np.float64],
    expected: str,
    where: Callable[[int], str],
    bad_boxes: BadBoxes,
) -> NDArray[np.bool_]:
    """Raise for the first invalid box, unless such boxes are to be dropped.

    Args:
        good: (N,) True for valid boxes.
        xywh: (N, 4) the boxes as annotated.
        expected: property of a valid box, for the message.
        where: returns the file and field of a row, for the message.
        bad_boxes: raise, or let the caller drop and count.

    Returns:
        ``good`` as an array.

    Raises:
        SceneError: for the first invalid box, with ``bad_boxes="error"``.
    """
    good = np.asarray(good, bool)
    if bad_boxes == "error" and not good.all():
        first = int(np.argmin(good))
        raise SceneError(
            f"{where(first)}: expected {expected}, got {short(xywh[first].tolist())} "
            "(bad_boxes='drop' leaves such boxes out and counts them)"
        )
    return good


def xywh_to_xyxy(xywh: Any) -> NDArray[np.float64]:
    """Convert (N, 4) x, y, width, height to xyxy."""
    boxes = np.asarray(xywh, np.float64).reshape(-1, 4)
    return np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]])
