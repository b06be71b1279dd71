"""A pinhole camera over a flat ground."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import cos, sin

import numpy as np
from numpy.typing import NDArray

Point = tuple[float, float]
Vector = tuple[float, float, float]


@dataclass(frozen=True)
class Camera:
    """Projects world points (metres: x right, y up, z away) to scene pixels.

    Args:
        size: (width, height) of the image in pixels.
        focal: focal length in pixels.
        height: of the camera above the ground, metres.
        pitch: downward tilt in radians, 0 looks at the horizon.
        centre_y: row of the optical axis in pixels (a shifted lens keeps walls upright).
    """

    size: tuple[int, int]
    focal: float
    height: float
    pitch: float
    centre_y: float

    @cached_property
    def _turn(self) -> tuple[float, float]:
        return cos(self.pitch), sin(self.pitch)

    @cached_property
    def horizon(self) -> float:
        """Row of the horizon in pixels (may lie outside the image)."""
        cosine, sine = self._turn
        return self.centre_y - self.focal * sine / cosine

    def depth(self, point: Vector) -> float:
        """Return the distance of a world point along the optical axis, metres."""
        cosine, sine = self._turn
        return point[2] * cosine - (point[1] - self.height) * sine

    def scale(self, point: Vector) -> float:
        """Return pixels per metre at a world point."""
        return self.focal / max(self.depth(point), 0.05)

    def project(self, point: Vector) -> Point:
        """Return the (column, row) of a world point in pixels."""
        cosine, sine = self._turn
        up = point[1] - self.height
        scale = self.focal / max(point[2] * cosine - up * sine, 0.05)
        return (
            self.size[0] / 2 + scale * point[0],
            self.centre_y - scale * (up * cosine + point[2] * sine),
        )

    def ground(self, column: float, row: float) -> Point:
        """Return the ground point (x, z) in metres seen at a pixel under the horizon."""
        cosine, sine = self._turn
        down = (row - self.centre_y) / self.focal
        reach = self.height / max(sine + down * cosine, 1e-4)
        return (column - self.size[0] / 2) / self.focal * reach, reach * (cosine - down * sine)

    def jacobian(self, point: Vector) -> tuple[Vector, Vector, Vector]:
        """Return how column, row and depth change per metre of x, y and z at a point."""
        cosine, sine = self._turn
        depth = max(self.depth(point), 0.05)
        scale = self.focal / depth
        column, row = self.project(point)
        right = (column - self.size[0] / 2) / depth
        below = (row - self.centre_y) / depth
        return (
            (scale, right * sine, -right * cosine),
            (0.0, -scale * cosine + below * sine, -scale * sine - below * cosine),
            (0.0, -sine, cosine),
        )

    def ground_rows(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.float64], ...]:
        """Return for image rows the ground x seen at the left edge and the ground z, metres."""
        cosine, sine = self._turn
        down = (rows - self.centre_y) / self.focal
        reach = self.height / np.maximum(sine + down * cosine, 1e-4)
        return -self.size[0] / 2 / self.focal * reach, reach * (cosine - down * sine)
