"""Flat shapes, drawn supersampled and shaded to a sprite with its masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, cos, floor, hypot, pi, sin

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from dip_env.scenes.procedural.drawing.render.camera import Point
from dip_env.scenes.procedural.drawing.render.colours import Colour, ink
from dip_env.scenes.procedural.drawing.render.textures import cloth

Shape = tuple[int, float, list[Point], Colour, list[Point] | None, int]
"""Layer, nearness, outline, colour, lit part, brightness of the rest."""

LARGE = 240
"""Sprites higher than this, in pixels, are coloured without subpixels."""

BEHIND, BODY, FRONT = 0, 1, 2
"""Layers of a sprite: carried things behind a body, the body, carried things before it."""

_SHADED = 45.0
"""Pixels per metre from which shading is drawn; below it a limb is a few pixels wide."""


def _arc(points: int) -> list[Point]:
    steps = points - 1
    return [(cos(pi * k / steps - pi / 2), sin(pi * k / steps - pi / 2)) for k in range(points)]


_ARC, _COARSE_ARC = _arc(8), _arc(4)
_RING = [(cos(2 * pi * k / 20), sin(2 * pi * k / 20)) for k in range(20)]


@dataclass(frozen=True, eq=False)
class Sprite:
    """A drawn thing: what it looks like, where it lies and which pixels are its body.

    Args:
        image: RGB.
        alpha: coverage, mode L, same size.
        body: amodal mask of the person, bool (h, w); None for things that are not people.
        own: the part of ``body`` that its own carried things leave visible.
        origin: scene pixel of the upper left corner.
    """

    image: Image.Image
    alpha: Image.Image
    body: NDArray[np.bool_] | None
    own: NDArray[np.bool_] | None
    origin: tuple[int, int]


def convex_hull(points: Sequence[Point]) -> list[Point]:
    """Return the corners of the convex hull in order (Andrew's monotone chain)."""
    ordered = sorted(set(points))
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


def capsule_outline(p: Point, q: Point, p_radius: float, q_radius: float) -> list[Point]:
    """Return the outline of a tapered limb between two points."""
    dx, dy = q[0] - p[0], q[1] - p[1]
    length = hypot(dx, dy)
    if length <= abs(p_radius - q_radius) + 1e-6:
        (x, y), r = (p, p_radius) if p_radius > q_radius else (q, q_radius)
        return [(x + r * c, y + r * s) for c, s in _RING]
    ca, sa = dx / length, dy / length
    arc = _ARC if max(p_radius, q_radius) > 3 else _COARSE_ARC
    return [
        (q[0] + q_radius * (ca * c - sa * s), q[1] + q_radius * (sa * c + ca * s)) for c, s in arc
    ] + [(p[0] - p_radius * (ca * c - sa * s), p[1] - p_radius * (sa * c + ca * s)) for c, s in arc]


def ellipse_outline(centre: Point, rx: float, ry: float) -> list[Point]:
    """Return the outline of an upright ellipse."""
    return [(centre[0] + rx * c, centre[1] + ry * s) for c, s in _RING]


class Sketch:
    """Shapes of one sprite, in scene pixels, sorted by layer and depth when rendered.

    Args:
        scale: pixels per metre, which sets detail and softness of the shading.
        light: where the light comes from in the image, (right, down), length about 1.
    """

    def __init__(self, scale: float, light: Point = (-0.5, -0.6)) -> None:
        """Start empty."""
        self.scale = scale
        self.light = light
        self._shapes: list[Shape] = []

    def add(
        self,
        outline: list[Point],
        colour: Colour,
        depth: float,
        layer: int = BODY,
        lit: list[Point] | None = None,
        shade: int = 205,
    ) -> None:
        """Add a shape; ``lit`` is its brightest part, ``shade`` the brightness of the rest."""
        if len(outline) > 2:
            self._shapes.append((layer, -depth, outline, colour, lit, shade))

    def capsule(
        self,
        p: Point,
        q: Point,
        radii: tuple[float, float],
        colour: Colour,
        depth: float,
        layer: int = BODY,
    ) -> None:
        """Add a shaded limb between two points with a radius at each."""
        a, b = radii
        lit = None
        if self.scale > _SHADED:
            dx, dy = self.light[0] * 0.34, self.light[1] * 0.34
            lit = capsule_outline(
                (p[0] + dx * a, p[1] + dy * a), (q[0] + dx * b, q[1] + dy * b), a * 0.6, b * 0.6
            )
        self.add(capsule_outline(p, q, a, b), colour, depth, layer, lit, 178)

    def hull(
        self, points: Sequence[Point], colour: Colour, depth: float, layer: int = BODY
    ) -> None:
        """Add the convex hull of the points, lit on the side of the light."""
        outline = convex_hull(points)
        lit = None
        if self.scale > _SHADED and len(outline) > 2:
            xs, ys = [x for x, _ in outline], [y for _, y in outline]
            cx, cy = (min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2
            sx = self.light[0] * (max(xs) - min(xs)) * 0.14
            lit = [(cx + (x - cx) * 0.62 + sx, cy + (y - cy) * 0.97) for x, y in outline]
        self.add(outline, colour, depth, layer, lit, 186)

    def render(self, samples: int = 2, texture: tuple[int, int] | None = None) -> Sprite | None:
        """Draw everything.

        Args:
            samples: subpixels per pixel side.
            texture: offset into the cloth texture, so that folds differ; None for a smooth skin.

        Returns:
            The sprite, or None if there is nothing to draw.
        """
        if not self._shapes:
            return None
        shapes = sorted(self._shapes, key=lambda s: (s[0], s[1]))
        points = np.array([p for s in shapes for p in s[2]])
        ends = np.cumsum([2 * len(s[2]) for s in shapes]).tolist()
        x0, y0 = (floor(v) - 1 for v in points.min(axis=0).tolist())
        x1, y1 = (ceil(v) + 2 for v in points.max(axis=0).tolist())
        size = (x1 - x0, y1 - y0)
        mixed = any(s[0] != BODY for s in shapes) and any(s[0] == BODY for s in shapes)
        mask = Image.new("L", (size[0] * samples, size[1] * samples), 0)
        # Inside a large sprite the shading softens every edge: colours need no subpixels there.
        coarse = size[1] > LARGE
        canvas = Image.new("RGB", size if coarse else mask.size, (60, 55, 52))
        paint, cover = ImageDraw.Draw(canvas), ImageDraw.Draw(mask)
        half = (samples - 1) / 2 - 0.5
        points -= (x0, y0)
        fine = (points * samples - half).astype(np.int32).ravel().tolist()
        flat = (points + 0.5).astype(np.int32).ravel().tolist() if coarse else fine
        body: Image.Image | None = None
        start = 0
        for (layer, _, _, colour, _, _), end in zip(shapes, ends, strict=True):
            if layer == FRONT and body is None:
                body = mask.copy()
            cover.polygon(fine[start:end], 128 if mixed and layer != BODY else 255)
            paint.polygon(flat[start:end], ink(colour))
            start = end
        image = canvas if coarse else canvas.reduce(samples)
        if self.scale > _SHADED:
            shading = self._shading(shapes, points, ends, (x0, y0), size, texture)
            image = ImageChops.multiply(image, Image.merge("RGB", (shading,) * 3))
        if mixed:
            own = _body_pixels(mask, samples)
            full = own if body is None else _body_pixels(body, samples)
            return Sprite(image, ImageChops.add(mask, mask).reduce(samples), full, own, (x0, y0))
        alpha = mask.reduce(samples)
        seen = np.asarray(alpha) >= 128 if shapes[0][0] == BODY else None
        return Sprite(image, alpha, seen, seen, (x0, y0))

    def _shading(
        self,
        shapes: Sequence[Shape],
        points: NDArray[np.float64],
        ends: Sequence[int],
        origin: tuple[int, int],
        size: tuple[int, int],
        texture: tuple[int, int] | None,
    ) -> Image.Image:
        """Return the brightness of every pixel: lit parts, soft edges and folds of cloth."""
        step = 2 if self.scale > 110 else 1
        layer = Image.new("L", (-(-size[0] // step), -(-size[1] // step)), 215)
        tint = ImageDraw.Draw(layer)
        flat = (points / step + 0.5).astype(np.int32).ravel().tolist()
        x0, y0 = origin[0] - step / 2, origin[1] - step / 2
        start = 0
        for (_, _, _, _, lit, shade), end in zip(shapes, ends, strict=True):
            tint.polygon(flat[start:end], shade)
            start = end
            if lit is not None:
                tint.polygon([(int((x - x0) / step), int((y - y0) / step)) for x, y in lit], 255)
        layer = layer.filter(ImageFilter.BoxBlur(max(1, int(self.scale * 0.022 / step))))
        if step > 1:
            layer = layer.resize(size, Image.Resampling.BILINEAR)
        if texture is None:
            return layer
        return ImageChops.multiply(layer, cloth(size, self.scale, texture))


def _body_pixels(mask: Image.Image, samples: int) -> NDArray[np.bool_]:
    """Return where at least half of the subpixels are body (255), not something carried (128)."""
    return np.asarray(ImageChops.add(mask, mask, 1, -255).reduce(samples)) >= 128
