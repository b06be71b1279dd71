"""Sprites drawn fast are those that a plain loop over shapes and points draws, bit for bit."""

from __future__ import annotations

from itertools import pairwise
from math import cos, hypot, pi, sin

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageChops, ImageDraw

from dip_env.scenes.procedural.drawing.render.canvas import BEHIND, BODY, FRONT, Sketch
from dip_env.scenes.procedural.drawing.render.filler import Filler
from dip_env.scenes.procedural.drawing.render.outlines import (
    capsule_outline,
    convex_hull,
    ellipse_outline,
    joined,
)

Point = tuple[float, float]

places = st.floats(-300, 1500)
points = st.tuples(places, places)
radii = st.floats(0.01, 60)


def plain_arc(count: int) -> list[Point]:
    steps = count - 1
    return [(cos(pi * k / steps - pi / 2), sin(pi * k / steps - pi / 2)) for k in range(count)]


def plain_ellipse(centre: Point, rx: float, ry: float) -> list[Point]:
    ring = [(cos(2 * pi * k / 20), sin(2 * pi * k / 20)) for k in range(20)]
    return [(centre[0] + rx * c, centre[1] + ry * s) for c, s in ring]


def plain_capsule(p: Point, q: Point, p_radius: float, q_radius: float) -> list[Point]:
    dx, dy = q[0] - p[0], q[1] - p[1]
    length = hypot(dx, dy)
    if length <= abs(p_radius - q_radius) + 1e-6:
        centre, r = (p, p_radius) if p_radius > q_radius else (q, q_radius)
        return plain_ellipse(centre, r, r)
    ca, sa = dx / length, dy / length
    arc = plain_arc(8 if max(p_radius, q_radius) > 3 else 4)
    ahead = [(q[0] + q_radius * (ca * c - sa * s), q[1] + q_radius * (sa * c + ca * s))
             for c, s in arc]  # fmt: skip
    return ahead + [
        (p[0] - p_radius * (ca * c - sa * s), p[1] - p_radius * (sa * c + ca * s)) for c, s in arc
    ]


def plain_hull(corners: list[Point]) -> list[Point]:
    ordered = sorted(set(corners))
    if len(ordered) < 3:
        return ordered
    chains: list[list[Point]] = []
    for run in (ordered, ordered[::-1]):
        chain: list[Point] = []
        for p in run:
            while (
                len(chain) > 1
                and (chain[-1][0] - chain[-2][0]) * (p[1] - chain[-2][1])
                - (chain[-1][1] - chain[-2][1]) * (p[0] - chain[-2][0])
                <= 0
            ):
                chain.pop()
            chain.append(p)
        chains.append(chain[:-1])
    return chains[0] + chains[1]


shapes = st.one_of(
    st.tuples(st.just("capsule"), points, points, radii, radii),
    st.tuples(st.just("capsule"), points, points, st.floats(0.01, 2), st.floats(0.01, 2)),
    st.tuples(st.just("ellipse"), points, radii, radii),
    st.tuples(st.just("corners"), st.lists(points, min_size=3, max_size=9)),
)
KINDS = {
    "capsule": (capsule_outline, plain_capsule),
    "ellipse": (ellipse_outline, plain_ellipse),
    "corners": (list, list),
}


@settings(deadline=None)
@given(st.lists(shapes, min_size=1, max_size=12))
def test_outlines_joined_have_the_points_of_each(chosen: list[tuple]) -> None:
    ours = [KINDS[kind][0](*values) for kind, *values in chosen]
    plain = [KINDS[kind][1](*values) for kind, *values in chosen]
    found, ends = joined(ours)
    parts = [found[:, start:end].T.tolist() for start, end in pairwise([0, *ends])]
    assert parts == [[list(p) for p in outline] for outline in plain]


@settings(deadline=None)
@given(st.one_of(
    st.lists(points, max_size=24),
    st.lists(st.tuples(st.integers(-4, 4), st.integers(-4, 4)), max_size=24),
))  # fmt: skip
def test_a_hull_is_that_of_the_textbook(corners: list[Point]) -> None:
    assert convex_hull(corners) == plain_hull(corners)


@pytest.mark.parametrize(("mode", "ink"), [("L", 77), ("RGB", (1, 2, 3)), ("RGBX", (4, 5, 6, 7))])
def test_a_filler_fills_what_pillow_fills(mode: str, ink: int | tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    ours, plain = Image.new(mode, (60, 40)), Image.new(mode, (60, 40))
    filler, brush = Filler(ours), ImageDraw.Draw(plain)
    for count in range(3, 12):
        corners = rng.integers(-20, 80, 2 * count).tolist()
        filler.polygon(corners, ink)
        brush.polygon(corners, ink)
        assert ours.tobytes() == plain.tobytes()


Flat = tuple[int, list[Point], tuple[int, int, int]]
"""Layer, corners and colour of a shape."""


def plain_sprite(
    chosen: list[Flat], origin: tuple[int, int], size: tuple[int, int], samples: int
) -> tuple[bytes, bytes, np.ndarray, np.ndarray]:
    """Return colours, alpha, body and what is seen of it, of shapes in painting order."""
    fine = (size[0] * samples, size[1] * samples)
    canvas, mask, filled = (Image.new(mode, fine) for mode in ("RGB", "L", "L"))
    half = (samples - 1) / 2 - 0.5
    body = None
    for layer, corners, colour in chosen:
        if layer == FRONT and body is None:
            body = mask.copy()
        moved = [(x - origin[0], y - origin[1]) for x, y in corners]
        subpixels = [(int(x * samples - half), int(y * samples - half)) for x, y in moved]
        ImageDraw.Draw(canvas).polygon(subpixels, colour)
        ImageDraw.Draw(mask).polygon(subpixels, 255 if layer == BODY else 128)
        ImageDraw.Draw(filled).polygon(subpixels, 255)

    def measured(cover: Image.Image) -> np.ndarray:
        return np.asarray(ImageChops.add(cover, cover, 1, -255).reduce(samples)) >= 128

    return (
        uncovered(canvas.reduce(samples), filled.reduce(samples)),
        filled.reduce(samples).tobytes(),
        measured(mask if body is None else body),
        measured(mask),
    )


def uncovered(colours: Image.Image, cover: Image.Image) -> bytes:
    """Return what is drawn without the black around it: colours over their coverage, or black."""
    share = np.asarray(cover, dtype=np.int64)[..., None]
    found = np.asarray(colours, dtype=np.int64) * 255 // np.maximum(share, 1)
    return (
        np.where(share > 0, np.minimum(found, 255), np.asarray(colours)).astype(np.uint8).tobytes()
    )


@settings(deadline=None, max_examples=60)
@given(st.data(), st.integers(2, 4), st.sampled_from([0.1, 1.0]))
def test_a_sprite_is_that_of_separate_colours_and_masks(data, samples: int, zoom: float) -> None:
    corner = st.tuples(st.floats(-200, 200), st.floats(-200, 200))
    flat = st.tuples(
        st.sampled_from((BEHIND, BODY, FRONT)),
        st.lists(corner, min_size=3, max_size=6),
        st.tuples(*[st.integers(0, 255)] * 3),
    )
    body: Flat = (BODY, [(-9.0, -90.0), (40.0, -80.0), (30.0, 95.0)], (90, 120, 40))
    drawn = [body, *data.draw(st.lists(flat, max_size=5))]
    sketch, ordered = Sketch(20.0), []
    for number, (layer, corners, colour) in enumerate(drawn):
        scaled = [(x * zoom, y * zoom) for x, y in corners]
        sketch.add(scaled, colour, -float(number), layer)
        ordered.append((layer, scaled, colour))
    ordered.sort(key=lambda shape: shape[0])
    sprite = sketch.render(samples)
    assert sprite is not None and sprite.body is not None and sprite.own is not None
    colours, alpha, whole, own = plain_sprite(ordered, sprite.origin, sprite.image.size, samples)
    assert sprite.image.tobytes() == colours
    assert sprite.alpha.tobytes() == alpha
    assert (sprite.body == whole).all() and (sprite.own == own).all()
