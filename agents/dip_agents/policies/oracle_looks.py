"""Where the oracle looks: regions that cover much ambiguity on little area (source: ours).

A look strategy chooses the regions of one look. Independent of images and episodes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from dip_agents.policies.formatting import quantize_boxes, random_boxes
from dip_env.ambiguity import AmbiguousItems, prior_ambiguity
from dip_env.boxes import box_area, box_intersection, clip_boxes
from dip_env.config import EpisodeConfig
from dip_env.scenes.base import Scene
from dip_env.views import View

LookMode = Literal["ambiguous", "tiles", "random_tiles", "random", "whole", "none"]


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


def magnifying_side(view: View, crop_size: int, magnification: float) -> float:
    """Return the longest side of a region that a crop still enlarges enough.

    Args:
        view: the episode's frames.
        crop_size: longest side of a crop in pixels.
        magnification: crop pixels per view pixel that are wanted.

    Returns:
        A length in scene pixels.
    """
    return crop_size / magnification * max(view.scene_size) / max(view.view_size)


def look_tiles(view: View, rules: EpisodeConfig) -> NDArray[np.float64]:
    """Return the squares that a crop magnifies as the rules say, a quarter of their side apart.

    With one size and few positions they are easier to learn than arbitrary regions.

    Args:
        view: the episode's frames.
        rules: of the episode; their ``crop_size`` over their ``magnification`` is the side.

    Returns:
        (T, 4) xyxy, scene frame; in the view their side is a whole number of pixels, that of the
        view where it is shorter. Where the view's axes differ in scale, magnifications do as much.
    """
    longest = rules.crop_size // rules.size_multiple * rules.size_multiple
    wanted = max(1, int(longest / rules.magnification))
    starts, sides = [], []
    for length in view.view_size:
        side = min(wanted, length)
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
    """Pick regions greedily: start at the best item, join neighbours while the value rises.

    The value of a region is the share of all ambiguity it covers minus the share of the image it
    takes, as in the look term. Items that one region covers add nothing to the next.

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


def scene_ambiguity(scene: Scene, view: View) -> AmbiguousItems:
    """Measure how ambiguous each non-ignored instance is, by the annotation prior.

    Args:
        scene: the scene with its annotations.
        view: the frames of the episode; the height in the view decides.

    Returns:
        One item for each non-ignored instance, scene frame.
    """
    truth = clip_boxes(scene.truth, scene.size)
    in_view = view.scene_to_view(truth)
    return prior_ambiguity(truth, scene.visible_share[~scene.ignore], in_view[:, 3] - in_view[:, 1])


def oracle_regions(
    scene: Scene, view: View, rules: EpisodeConfig, *, tiles: bool = False
) -> NDArray[np.float64]:
    """Pick where the oracle looks.

    Args:
        scene: the scene with its annotations.
        view: the episode's frames.
        rules: of the episode; bound the number of regions and their size.
        tiles: pick among ``look_tiles`` instead of regions that fit what is ambiguous.

    Returns:
        (R, 4) xyxy, text frame, 1 <= R <= max_regions: around what is ambiguous, or the middle
        of the image where nothing is, since the format term expects a look.
    """
    items = scene_ambiguity(scene, view)
    candidates = look_tiles(view, rules) if tiles else None
    regions = ambiguous_regions(
        items.boxes,
        items.weights,
        scene.size,
        rules.max_regions,
        max_side=magnifying_side(view, rules.crop_size, rules.magnification),
        tiles=candidates,
    )
    if not len(regions):
        regions = np.array([[0.4, 0.4, 0.6, 0.6]]) * np.array(scene.size * 2)
        if candidates is not None:
            # The same middle for both: the sum of opposite edges.
            off = candidates[:, :2] + candidates[:, 2:] - np.array(scene.size)
            regions = candidates[np.abs(off).sum(axis=1).argmin(), None]
    # In pixels the edges of tiles are whole numbers, but for what conversions add.
    return quantize_boxes(regions, view, outward=not tiles)


@runtime_checkable
class LookStrategy(Protocol):
    """Chooses the regions of the oracle's look."""

    def regions(
        self, scene: Scene, view: View, rules: EpisodeConfig, rng: np.random.Generator
    ) -> NDArray[np.float64]:
        """Choose the regions of one look.

        Args:
            scene: the scene with its annotations.
            view: the episode's frames.
            rules: of the episode; bound the number of regions and their size.
            rng: source of randomness.

        Returns:
            (R, 4) xyxy, text frame, R <= max_regions; R = 0 means no look.
        """
        ...


@dataclass(frozen=True)
class AmbiguousRegions:
    """Look at the most ambiguous instances, in regions that fit them."""

    def regions(
        self, scene: Scene, view: View, rules: EpisodeConfig, rng: np.random.Generator
    ) -> NDArray[np.float64]:
        """Return ``oracle_regions``."""
        return oracle_regions(scene, view, rules)


@dataclass(frozen=True)
class AmbiguousTiles:
    """Look at the most ambiguous instances, in tiles of one size (see ``look_tiles``)."""

    def regions(
        self, scene: Scene, view: View, rules: EpisodeConfig, rng: np.random.Generator
    ) -> NDArray[np.float64]:
        """Return ``oracle_regions`` with tiles."""
        return oracle_regions(scene, view, rules, tiles=True)


@dataclass(frozen=True)
class RandomTiles:
    """Look at as many tiles (see ``look_tiles``) as the rules allow, wherever they lie."""

    def regions(
        self, scene: Scene, view: View, rules: EpisodeConfig, rng: np.random.Generator
    ) -> NDArray[np.float64]:
        """Draw the tiles, each at most once."""
        tiles = look_tiles(view, rules)
        drawn = rng.choice(len(tiles), size=min(rules.max_regions, len(tiles)), replace=False)
        return quantize_boxes(tiles[drawn], view)


@dataclass(frozen=True)
class RandomRegions:
    """Look at as many person-shaped regions as the rules allow, at random positions."""

    def regions(
        self, scene: Scene, view: View, rules: EpisodeConfig, rng: np.random.Generator
    ) -> NDArray[np.float64]:
        """Draw the regions."""
        boxes = random_boxes(rules.max_regions, view.scene_size, rng, (0.2, 0.4))
        return quantize_boxes(boxes, view, outward=True)


@dataclass(frozen=True)
class WholeImage:
    """Look at the whole image."""

    def regions(
        self, scene: Scene, view: View, rules: EpisodeConfig, rng: np.random.Generator
    ) -> NDArray[np.float64]:
        """Return one region."""
        return np.array([[0.0, 0.0, *view.text_size]])


@dataclass(frozen=True)
class NoLook:
    """Answer without a look."""

    def regions(
        self, scene: Scene, view: View, rules: EpisodeConfig, rng: np.random.Generator
    ) -> NDArray[np.float64]:
        """Return no region."""
        return np.zeros((0, 4))


LOOK_STRATEGIES: Mapping[LookMode, LookStrategy] = {
    "ambiguous": AmbiguousRegions(),
    "tiles": AmbiguousTiles(),
    "random_tiles": RandomTiles(),
    "random": RandomRegions(),
    "whole": WholeImage(),
    "none": NoLook(),
}
"""Look strategies by the name that settings give them."""
