"""The parts of a numeric observation, each with its space."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from dip_env.boxes import Boxes, as_boxes, covered_share
from dip_env.episode import Episode
from dip_env.errors import ConfigError
from dip_wrappers.glimpse.detections import Detections
from dip_wrappers.glimpse.looks import GridLooks, Looks
from dip_wrappers.glimpse.maps import looked_map, padded, weight_inside, weight_map


@dataclass(frozen=True)
class ObservationSizes:
    """The sizes of an observation's parts.

    Args:
        image: S, longest side of the overview in pixels.
        crop: C, longest side of the last crop in pixels.
        maps: M, cells of each map along each side.

    Raises:
        ConfigError: for a size under 1.
    """

    image: int = 64
    crop: int = 64
    maps: int = 8

    def __post_init__(self) -> None:
        """Check every size once."""
        for name in ("image", "crop", "maps"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ConfigError(f"sizes.{name}: expected an integer >= 1, got {value!r}")


class ObservationPart(Protocol):
    """One entry of the observation."""

    @property
    def space(self) -> spaces.Box:
        """The space of its values."""
        ...

    def observe(self, episode: Episode, found: Detections) -> NDArray[Any]:
        """Return its value.

        Args:
            episode: the running episode.
            found: the detections so far, scene frame.
        """
        ...


@dataclass(frozen=True)
class OverviewImage:
    """The overview, reduced and padded with 0: uint8 (S, S, 3)."""

    side: int

    @property
    def space(self) -> spaces.Box:
        """``Box(0, 255, (S, S, 3), uint8)``."""
        return spaces.Box(0, 255, (self.side, self.side, 3), np.uint8)

    def observe(self, episode: Episode, found: Detections) -> NDArray[np.uint8]:
        """Return the overview."""
        return padded(episode.opening.images[0], self.side)


@dataclass(frozen=True)
class LastCrop:
    """The crop shown last, reduced and padded with 0: uint8 (C, C, 3); 0 before the first."""

    side: int

    @property
    def space(self) -> spaces.Box:
        """``Box(0, 255, (C, C, 3), uint8)``."""
        return spaces.Box(0, 255, (self.side, self.side, 3), np.uint8)

    def observe(self, episode: Episode, found: Detections) -> NDArray[np.uint8]:
        """Return the last crop."""
        if episode.crops:
            return padded(episode.crops[-1].image, self.side)
        return np.zeros((self.side, self.side, 3), np.uint8)


@dataclass(frozen=True)
class LookedMap:
    """The share of each cell that has been looked at: float32 (M, M)."""

    cells: int

    @property
    def space(self) -> spaces.Box:
        """``Box(0, 1, (M, M), float32)``."""
        return spaces.Box(0.0, 1.0, (self.cells, self.cells), np.float32)

    def observe(self, episode: Episode, found: Detections) -> NDArray[np.float32]:
        """Return the map."""
        regions = as_boxes([crop.region for crop in episode.crops])
        return looked_map(regions, episode.scene.size, self.cells)


@dataclass(frozen=True)
class DetectionMap:
    """A weight of the detections, summed over each cell: float32 (M, M).

    Args:
        cells: M.
        weigh: from scores (N,) to weights (N,).
    """

    cells: int
    weigh: Callable[[NDArray[np.float64]], NDArray[np.float64]]

    @property
    def space(self) -> spaces.Box:
        """``Box(0, 1, (M, M), float32)``."""
        return spaces.Box(0.0, 1.0, (self.cells, self.cells), np.float32)

    def observe(self, episode: Episode, found: Detections) -> NDArray[np.float32]:
        """Return the map."""
        return weight_map(found.boxes, self.weigh(found.scores), episode.scene.size, self.cells)


def confidence(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the scores themselves, (N,)."""
    return scores


def uncertainty(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return 4 s (1 - s) of each score s, (N,) in [0, 1]: 1 for a detection that may be wrong."""
    return 4 * scores * (1 - scores)


class LooksLeft:
    """The share of the looks that are left: float32 (1,)."""

    @property
    def space(self) -> spaces.Box:
        """``Box(0, 1, (1,), float32)``."""
        return spaces.Box(0.0, 1.0, (1,), np.float32)

    def observe(self, episode: Episode, found: Detections) -> NDArray[np.float32]:
        """Return the share."""
        return np.array([episode.looks_left / episode.config.max_looks], np.float32)


@dataclass(frozen=True, eq=False)
class CellFeatures:
    """A row for each cell that an action can look at: float32 (P, 3).

    Args:
        cells: (P, 4) xyxy in shares of the image.
    """

    cells: Boxes

    @property
    def space(self) -> spaces.Box:
        """``Box(0, inf, (P, 3), float32)``."""
        return spaces.Box(0.0, np.inf, (len(self.cells), 3), np.float32)

    def observe(self, episode: Episode, found: Detections) -> NDArray[np.float32]:
        """Return the features: log(1 + x) of count and summed score, and the share looked at."""
        cells = self.cells * np.tile(episode.scene.size, 2)
        sums = [
            weight_inside(cells, found.boxes, weights)
            for weights in (np.ones(len(found)), found.scores)
        ]
        looked = covered_share(cells, [crop.region for crop in episode.crops])
        return np.stack([*np.log1p(sums), looked], axis=1).astype(np.float32)


Maker = Callable[[ObservationSizes, Looks], ObservationPart]
PARTS: dict[str, Maker] = {
    "image": lambda sizes, looks: OverviewImage(sizes.image),
    "crop": lambda sizes, looks: LastCrop(sizes.crop),
    "looked": lambda sizes, looks: LookedMap(sizes.maps),
    "found": lambda sizes, looks: DetectionMap(sizes.maps, confidence),
    "doubt": lambda sizes, looks: DetectionMap(sizes.maps, uncertainty),
    "budget": lambda sizes, looks: LooksLeft(),
    "cells": lambda sizes, looks: CellFeatures(_cells_of(looks)),
}
"""Every part by its key."""
GRID_KEYS = ("cells",)
"""Parts for looks at the cells of grids only."""
KEYS = tuple(key for key in PARTS if key not in GRID_KEYS)
"""The parts of an observation by default."""


def observation_parts(
    keys: Sequence[str], sizes: ObservationSizes, looks: Looks
) -> dict[str, ObservationPart]:
    """Return the parts of an observation by their keys.

    Args:
        keys: the parts that are observed, in this order.
        sizes: of the parts.
        looks: the action space.

    Returns:
        The parts, in the order of the keys.

    Raises:
        ConfigError: for no key, the same key twice or one that these looks do not have.
    """
    known = PARTS if isinstance(looks, GridLooks) else KEYS
    if not keys or len({*keys}) != len(keys) or not {*keys} <= {*known}:
        raise ConfigError(f"keys: expected some of {', '.join(known)}, got {tuple(keys)}")
    return {key: PARTS[key](sizes, looks) for key in keys}


def _cells_of(looks: Looks) -> Boxes:
    assert isinstance(looks, GridLooks)  # no other looks have this part
    return looks.cells
