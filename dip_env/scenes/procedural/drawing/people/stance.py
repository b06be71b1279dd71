"""The projection of a body's own coordinates to the image."""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, pi, sin

from dip_env.scenes.procedural.drawing.render.camera import Camera, Point, Vector

NOMINAL = 1.72
"""Height in metres of the body that ``pose_joints`` describes."""

EIGHT = [(cos(pi * k / 4), sin(pi * k / 4)) for k in range(8)]
"""Eight points around a circle."""


@dataclass(frozen=True)
class Stance:
    """Projects a body's own coordinates to scene pixels (affine around its middle).

    Args:
        column: scene column from (x, y, z, 1).
        row: scene row from (x, y, z, 1).
        away: metres away from the camera from (x, y, z).
        scale: pixels per metre of the nominal body.
    """

    column: tuple[float, float, float, float]
    row: tuple[float, float, float, float]
    away: Vector
    scale: float

    @classmethod
    def of(cls, camera: Camera, position: Vector, heading: float, stature: float) -> Stance:
        """Return the stance of a body of that stature and heading at a world position."""
        size = stature / NOMINAL
        middle = (position[0], position[1] + stature / 2, position[2])
        c, s = cos(heading), sin(heading)
        rows = []
        for ax, ay, az in camera.jacobian(middle):
            rows.append((size * (ax * c - az * s), size * ay, size * (ax * s + az * c)))
        u, v = camera.project(middle)
        half = NOMINAL / 2
        return cls(
            (*rows[0], u - rows[0][1] * half),
            (*rows[1], v - rows[1][1] * half),
            rows[2],
            camera.scale(middle) * size,
        )

    def at(self, p: Vector) -> Point:
        """Return the scene pixel of a body point."""
        a, b = self.column, self.row
        return (
            a[0] * p[0] + a[1] * p[1] + a[2] * p[2] + a[3],
            b[0] * p[0] + b[1] * p[1] + b[2] * p[2] + b[3],
        )

    def depth(self, p: Vector) -> float:
        """Return how far away a body point lies, relative to the body's origin."""
        d = self.away
        return d[0] * p[0] + d[1] * p[1] + d[2] * p[2]

    def ring(self, centre: Vector, rx: float, rz: float) -> list[Point]:
        """Return eight scene pixels around a level ellipse of a body."""
        x, y, z = centre
        (ax, ay, az, a), (bx, by, bz, b) = self.column, self.row
        ay, by = ay * y, by * y
        ring = [(x + rx * c, z + rz * s) for c, s in EIGHT]
        return [(ax * u + ay + az * v + a, bx * u + by + bz * v + b) for u, v in ring]


def mix(p: Vector, q: Vector, t: float) -> Vector:
    """Return the point that lies ``t`` of the way from ``p`` to ``q``."""
    return (p[0] + (q[0] - p[0]) * t, p[1] + (q[1] - p[1]) * t, p[2] + (q[2] - p[2]) * t)
