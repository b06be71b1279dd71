"""Outlines of flat shapes: hulls of points, and curves whose points are computed all together."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, chain
from math import cos, hypot, pi, sin

import numpy as np
from numpy.typing import NDArray

from dip_env.scenes.procedural.drawing.render.camera import Point

RING, HALF, COARSE_HALF = 0, 1, 2
"""Kinds of arcs: an ellipse of 20 points, half a circle of 8 or of 4."""


Outline = list[Point] | tuple[float, ...]
"""A closed outline: its corners, or arcs joined by lines.

An arc is ``centre + radii * turned(unit arc)``, seven numbers: the centre's column and row, the
radii across and down (negative for the opposite half of a circle), cosine and sine of the angle
by which the unit arc is turned, and the kind of the unit arc.
"""

_ARC = 7
"""Numbers of an arc."""


def _half(points: int) -> list[Point]:
    steps = points - 1
    return [(cos(pi * k / steps - pi / 2), sin(pi * k / steps - pi / 2)) for k in range(points)]


_RING = [(cos(2 * pi * k / 20), sin(2 * pi * k / 20)) for k in range(20)]
_UNITS = (_RING, _half(8), _half(4))
_LENGTHS = tuple(len(unit) for unit in _UNITS)
_FILLED = np.array([[(*p, 1.0) for p in unit] + [(0.0, 0.0, 0.0)] * (20 - len(unit))
                    for unit in _UNITS])  # fmt: skip
_COSINES, _SINES, _USED = _FILLED[..., 0], _FILLED[..., 1], _FILLED[..., 2] > 0


def convex_hull(points: Sequence[Point]) -> list[Point]:
    """Return the corners of the convex hull in order (Andrew's monotone chain)."""
    ordered = sorted(set(points))
    if len(ordered) < 3:
        return ordered
    chains: list[list[Point]] = []
    for run in (ordered, ordered[::-1]):
        chain = run[:1]
        ax, ay = bx, by = run[0]  # the last corner but one and the last
        for p in run[1:]:
            x, y = p
            while len(chain) > 1 and (bx - ax) * (y - ay) - (by - ay) * (x - ax) <= 0:
                chain.pop()
                bx, by = ax, ay
                ax, ay = chain[-2] if len(chain) > 1 else chain[0]
            chain.append(p)
            ax, ay, bx, by = bx, by, x, y
        chains.append(chain[:-1])
    return chains[0] + chains[1]


def capsule_outline(p: Point, q: Point, p_radius: float, q_radius: float) -> tuple[float, ...]:
    """Return the outline of a tapered limb between two points."""
    px, py = p
    qx, qy = q
    dx, dy = qx - px, qy - py
    length = hypot(dx, dy)
    if length <= abs(p_radius - q_radius) + 1e-6:
        return (
            ellipse_outline(p, p_radius, p_radius)
            if p_radius > q_radius
            else ellipse_outline(q, q_radius, q_radius)
        )
    cosine, sine = dx / length, dy / length
    kind = HALF if p_radius > 3 or q_radius > 3 else COARSE_HALF
    return (
        qx, qy, q_radius, q_radius, cosine, sine, kind,
        px, py, -p_radius, -p_radius, cosine, sine, kind,
    )  # fmt: skip


def ellipse_outline(centre: Point, rx: float, ry: float) -> tuple[float, ...]:
    """Return the outline of an upright ellipse."""
    return centre[0], centre[1], rx, ry, 1.0, 0.0, RING


def joined(outlines: Sequence[Outline]) -> tuple[NDArray[np.float64], list[int]]:
    """Return the points of all outlines, (2, n), and for each outline the end of its points."""
    arcs: list[float] = []
    corners: list[Point] = []
    lengths, curved = [], []
    for outline in outlines:
        curved.append(isinstance(outline, tuple))
        if isinstance(outline, tuple):
            arcs += outline
            lengths.append(_LENGTHS[int(outline[-1])] * (len(outline) // _ARC))
        else:
            corners += outline
            lengths.append(len(outline))
    points = np.empty((2, sum(lengths)))
    ends = list(accumulate(lengths))
    on_arc = np.repeat(curved, lengths)
    if arcs:
        x, y, rx, ry, cosine, sine, kinds = np.array(arcs).reshape(-1, _ARC, 1).swapaxes(0, 1)
        kind = kinds[:, 0].astype(np.intp)
        c, s, used = _COSINES[kind], _SINES[kind], _USED[kind]
        points[0, on_arc] = (x + rx * (cosine * c - sine * s))[used]
        points[1, on_arc] = (y + ry * (sine * c + cosine * s))[used]
    if corners:
        flat = np.array(list(chain.from_iterable(corners)))
        points[:, ~on_arc] = flat.reshape(-1, 2).T
    return points, ends
