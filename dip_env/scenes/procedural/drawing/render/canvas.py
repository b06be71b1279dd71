"""Flat shapes, drawn supersampled and shaded to a sprite with its masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageFilter

from dip_env.resampling import resized
from dip_env.scenes.procedural.drawing.render.camera import Point
from dip_env.scenes.procedural.drawing.render.colours import Colour, ink
from dip_env.scenes.procedural.drawing.render.filler import Filler
from dip_env.scenes.procedural.drawing.render.outlines import (
    Outline,
    capsule_outline,
    convex_hull,
    joined,
)
from dip_env.scenes.procedural.drawing.render.textures import cloth

Shape = tuple[int, float, Outline, Colour, Outline | None, int]
"""Layer, nearness, outline, colour, lit part, brightness of the rest."""

BEHIND, BODY, FRONT = 0, 1, 2
"""Layers of a sprite: carried things behind a body, the body, carried things before it."""

_CARRIED = 1
"""Coverage of carried things, of 255: next to nothing where the body is measured."""
_SHADED = 45.0
"""Pixels per metre from which shading is drawn; below it a limb is a few pixels wide."""


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
        outline: Outline,
        colour: Colour,
        depth: float,
        layer: int = BODY,
        lit: Outline | None = None,
        shade: int = 205,
    ) -> None:
        """Add a shape; ``lit`` is its brightest part, ``shade`` the brightness of the rest."""
        if isinstance(outline, tuple) or len(outline) > 2:
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
        shapes = sorted(self._shapes, key=itemgetter(0, 1))
        shaded = self.scale > _SHADED
        lit = [s[4] for s in shapes if s[4] is not None] if shaded else []
        points, ends = joined([s[2] for s in shapes] + lit)
        points, lit_points = np.split(points, [ends[len(shapes) - 1]], axis=1)
        x0, y0 = (floor(v) - 1 for v in points.min(axis=1).tolist())
        x1, y1 = (ceil(v) + 2 for v in points.max(axis=1).tolist())
        size = (x1 - x0, y1 - y0)
        points -= [[x0], [y0]]
        ends = [2 * end for end in ends]  # in lists of columns and rows in turns
        image, alpha, own, body = _paint(shapes, points, ends, size, samples)
        if shaded:
            step = 2 if self.scale > 110 else 1
            lit_points -= [[x0 - step / 2], [y0 - step / 2]]
            shading = self._shading(shapes, points, lit_points, ends, size, step)
            if texture is not None:
                shading = ImageChops.multiply(shading, cloth(size, self.scale, texture))
            image = ImageChops.multiply(image, Image.merge("RGB", (shading,) * 3))
        if all(s[0] != BODY for s in shapes):
            return Sprite(image, alpha, None, None, (x0, y0))
        seen = np.asarray(own) >= 128
        whole = seen if body is None else np.asarray(body) >= 128
        return Sprite(image, alpha, whole, seen, (x0, y0))

    def _shading(
        self,
        shapes: Sequence[Shape],
        points: NDArray[np.float64],
        lit_points: NDArray[np.float64],
        ends: Sequence[int],
        size: tuple[int, int],
        step: int,
    ) -> Image.Image:
        """Return the brightness of every pixel: lit parts and soft edges.

        Args:
            shapes: in painting order.
            points: of all outlines, pixels of the sprite.
            lit_points: of all lit parts, likewise.
            ends: of each outline in the flat list of points, then of each lit part.
            size: of the sprite.
            step: pixels per pixel of the shading while it is drawn.
        """
        layer = Image.new("L", (-(-size[0] // step), -(-size[1] // step)), 215)
        tint = Filler(layer)
        flat = _in_turns(points / step + 0.5)
        flat += _in_turns(lit_points / step)
        lit_ends = iter(ends[len(shapes) :])
        start, lit_start = 0, ends[len(shapes) - 1]
        for (_, _, _, _, lit, shade), end in zip(shapes, ends, strict=False):
            tint.polygon(flat[start:end], shade)
            start = end
            if lit is not None:
                lit_end = next(lit_ends)
                tint.polygon(flat[lit_start:lit_end], 255)
                lit_start = lit_end
        layer = layer.filter(ImageFilter.BoxBlur(max(1, int(self.scale * 0.022 / step))))
        return resized(layer, size, Image.Resampling.BILINEAR) if step > 1 else layer


def _paint(
    shapes: Sequence[Shape],
    points: NDArray[np.float64],
    ends: Sequence[int],
    size: tuple[int, int],
    samples: int,
) -> tuple[Image.Image, Image.Image, Image.Image, Image.Image | None]:
    """Fill the outlines of shapes.

    Args:
        shapes: in painting order.
        points: of all outlines, pixels of the sprite.
        ends: of each outline in the flat list of points.
        size: of the sprite.
        samples: subpixels per pixel side.

    Returns:
        The colours (RGB), the coverage, the coverage by what is seen of the body, and that by
        the whole body where something is carried before it (all L).
    """
    mixed = any(s[0] != BODY for s in shapes) and any(s[0] == BODY for s in shapes)
    # The coverage is the fourth channel of the colours, and filled along with them.
    canvas = Image.new("RGBX", (size[0] * samples, size[1] * samples), 0)
    paint = Filler(canvas)
    flat = _in_turns(points * samples - ((samples - 1) / 2 - 0.5))
    body: Image.Image | None = None
    start = 0
    for (layer, _, _, colour, _, _), end in zip(shapes, ends, strict=False):
        if mixed and layer == FRONT and body is None:
            body = canvas.getchannel("X").reduce(samples)
        level = _CARRIED if mixed and layer != BODY else 255
        paint.polygon(flat[start:end], (*ink(colour), level))
        start = end
    *colours, own = canvas.reduce(samples).split()
    alpha = own
    if mixed:
        all_of_it = canvas.getchannel("X")
        alpha = ImageChops.add(all_of_it, all_of_it, _CARRIED / 255).reduce(samples)
    # Subpixels outside are black with no coverage, so an edge holds its colour times its coverage.
    image = Image.merge("RGBa", (*colours, alpha)).convert("RGBA").convert("RGB")
    return image, alpha, own, body


def _in_turns(points: NDArray[np.float64]) -> list[int]:
    """Return column and row of each point (2, n) in turns, cut to whole numbers."""
    return points.T.astype(np.int32).ravel().tolist()
