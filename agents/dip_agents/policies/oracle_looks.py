"""Where a well-paid look goes: regions that cover much ambiguity on little area (source: ours).

Knows boxes and weights only; reads no image and plays no episode.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dip_env.boxes import box_area, box_intersection, clip_boxes
from dip_env.views import View


def grow(boxes: NDArray[np.float64], margin: float) -> NDArray[np.float64]:
    """Widen each box by a share of its own sides.

    Args:
        boxes: (N, 4) xyxy, any frame.
        margin: share of width and height added on every side.

    Returns:
        (N, 4) xyxy in the same frame.
    """
    pad = margin * (boxes[:, 2:] - boxes[:, :2])
    return np.concatenate([boxes[:, :2] - pad, boxes[:, 2:] + pad], axis=1)


def magnifying_side(view: View, crop_size: int, magnification: float = 2.0) -> float:
    """Return the longest side of a region that a crop still enlarges enough.

    Args:
        view: the episode's frames.
        crop_size: longest side of a crop in pixels.
        magnification: crop pixels per view pixel that are wanted.

    Returns:
        A length in scene pixels.
    """
    return crop_size / magnification * max(view.scene_size) / max(view.view_size)


def look_tiles(view: View, crop_size: int, multiple: int) -> NDArray[np.float64]:
    """Return the squares that a crop shows at 2x, on a grid a quarter of their side apart.

    Alike in size and on few places, they are easier to learn than regions of any form: what a
    pixel of a crop shows lies half as far from the crop's corner in the overview.

    Args:
        view: the episode's frames.
        crop_size: longest side of a crop in pixels.
        multiple: sides of crops are multiples of this.

    Returns:
        (T, 4) xyxy, scene frame; in the view their side is half of a crop's longest, or the view's
        where that is shorter. Where the view's axes differ in scale, magnifications do as much.
    """
    longest = crop_size // multiple * multiple
    starts, sides = [], []
    for length in view.view_size:
        side = min(longest // 2, length)
        step = max(side // 4, 1)
        starts.append(np.unique(np.append(np.arange(0, length - side + 1, step), length - side)))
        sides.append(side)
    corners = np.stack(np.meshgrid(*starts), axis=-1).reshape(-1, 2).astype(np.float64)
    return view.view_to_scene(np.concatenate([corners, corners + sides], axis=1))


def _covered(items: NDArray[np.float64], regions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the share of each item inside each region, (R, N)."""
    return box_intersection(regions, items) / np.maximum(box_area(items), 1e-12)


def ambiguous_regions(
    boxes: NDArray[np.float64],
    weights: NDArray[np.float64],
    size: tuple[float, float],
    max_regions: int,
    *,
    margin: float = 0.15,
    max_area_share: float = 0.12,
    max_side: float = np.inf,
    tiles: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Pick regions greedily: start at the best item, join neighbours while that pays.

    A region is worth the share of all ambiguity it covers minus the share of the image it takes,
    which is what the look term pays for. Items that one region covers are spent for the next.

    Args:
        boxes: (K, 4) xyxy, the ambiguous items, scene frame.
        weights: (K,) their ambiguity in [0, 1].
        size: (width, height) of the scene.
        max_regions: most regions to return.
        margin: share of its sides by which each item is widened before it is joined.
        max_area_share: largest share of the scene that one region takes, unless a single item
            is larger.
        max_side: longest side of a region in scene pixels, unless a single item is longer; a
            larger region would not be enlarged much.
        tiles: (T, 4) xyxy, scene frame; where given, regions are picked among these, and neither
            joined nor bounded in size.

    Returns:
        (R, 4) xyxy regions inside the scene, scene frame, R <= max_regions, best first; R = 0
        when nothing is ambiguous.
    """
    scene_area = float(size[0] * size[1])
    inside = clip_boxes(np.asarray(boxes, dtype=np.float64), size)
    seen = box_area(inside) > 0
    inside, left = inside[seen], np.array(weights, dtype=np.float64)[seen]
    total = left.sum()
    if total <= 0:
        return np.zeros((0, 4))
    seeds = clip_boxes(grow(inside, margin), size) if tiles is None else tiles
    regions: list[NDArray[np.float64]] = []
    for _ in range(max_regions):
        values = _covered(inside, seeds) @ left / total - box_area(seeds) / scene_area
        best = int(np.argmax(values))
        region, value = seeds[best], float(values[best])
        while tiles is None:
            joined = np.concatenate(
                [np.minimum(region[:2], seeds[:, :2]), np.maximum(region[2:], seeds[:, 2:])], axis=1
            )
            gains = _covered(inside, joined) @ left / total - box_area(joined) / scene_area
            too_long = (joined[:, 2:] - joined[:, :2]).max(axis=1) > max_side
            gains[too_long | (box_area(joined) > max_area_share * scene_area)] = -np.inf
            candidate = int(np.argmax(gains))
            if gains[candidate] <= value + 1e-12:
                break
            region, value = joined[candidate], float(gains[candidate])
        if value <= 0:
            break
        regions.append(region)
        left = left * (1 - _covered(inside, region[None])[0].clip(0, 1))
    return np.array(regions).reshape(-1, 4)
