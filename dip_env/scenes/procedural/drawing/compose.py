"""Paints objects back to front and keeps, per pixel, whose body is visible there."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil, floor

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from dip_env.scenes.procedural.drawing.render.camera import Camera, Vector
from dip_env.scenes.procedural.drawing.render.canvas import Sprite
from dip_env.scenes.procedural.drawing.render.light import Light
from dip_env.scenes.procedural.drawing.render.stage import LAMP_COLOUR, add_glow

SHADOW_REDUCTION = 4
"""Scene pixels per pixel of the shadow layer, on each side."""


@dataclass(frozen=True, eq=False)
class Thing:
    """Something that stands in the scene.

    Args:
        position: world point under it, metres.
        depth: distance along the optical axis that orders the painting, metres.
        sprites: its drawings, back to front.
        person: whether it is a person, whose first sprite has the body masks.
        foot: radius in metres of the dark ground right under it, 0 for no shadow at all.
        glow: (column, row, reach) in pixels of a lit lamp's halo, if it has one.
        lookalike: whether it looks like a person but is not.
    """

    position: Vector
    depth: float
    sprites: tuple[Sprite, ...]
    person: bool = False
    foot: float = 0.26
    glow: tuple[int, int, int] | None = None
    lookalike: bool = False

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Where its sprites lie, xyxy in scene pixels; may run outside the image."""
        corners = [(*s.origin, s.origin[0] + s.alpha.width, s.origin[1] + s.alpha.height)
                   for s in self.sprites]  # fmt: skip
        lefts, tops, rights, bottoms = zip(*corners, strict=True)
        return min(lefts), min(tops), max(rights), max(bottoms)


@dataclass(eq=False)
class PaintedTruth:
    """Ground truth about the people, measured on the masks, in painting order (far to near).

    Args:
        boxes: amodal boxes of the whole drawn bodies, scene pixels.
        visible: boxes around the visible pixels; None for the fully hidden.
        shares: visible pixels over all pixels of the body, also those outside the image.
        inside: body pixels inside the image over all pixels of the body.
    """

    boxes: list[tuple[int, int, int, int]] = field(default_factory=list)
    visible: list[tuple[int, int, int, int] | None] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)
    inside: list[float] = field(default_factory=list)


def mask_box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int] | None:
    """Return the half-open pixel box around the True pixels, or None if there are none."""
    rows = np.flatnonzero(mask.any(axis=1))
    if not rows.size:
        return None
    columns = np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def cast_shadows(things: list[Thing], camera: Camera, light: Light) -> Image.Image:
    """Return the cover of all shadows on the ground, mode L, reduced by SHADOW_REDUCTION."""
    width, height = camera.size
    size = (-(-width // SHADOW_REDUCTION), -(-height // SHADOW_REDUCTION))
    layer = Image.new("L", size, 0)
    brush = ImageDraw.Draw(layer)
    for thing in things:
        if not thing.foot:
            continue
        foot = camera.project(thing.position)
        columns, rows, _ = camera.jacobian(thing.position)
        sx, sz = light.shadow
        shadow = (columns[0] * sx + columns[2] * sz, rows[0] * sx + rows[2] * sz)
        wide = thing.foot * columns[0] / SHADOW_REDUCTION
        flat = max(0.6, min(thing.foot, 0.3) * abs(rows[2]) / SHADOW_REDUCTION)
        x, y = foot[0] / SHADOW_REDUCTION, foot[1] / SHADOW_REDUCTION
        brush.ellipse((x - wide, y - flat, x + wide, y + flat), fill=200)
        for sprite in thing.sprites:
            if sprite.alpha.height >= 24:
                _cast(layer, sprite, foot, (columns[1], rows[1]), shadow)
    return layer.filter(ImageFilter.BoxBlur(1))


def _cast(
    layer: Image.Image,
    sprite: Sprite,
    foot: tuple[float, float],
    up: tuple[float, float],
    shadow: tuple[float, float],
) -> None:
    """Lay a sprite down on the ground: its upright direction becomes the shadow's direction."""
    k = SHADOW_REDUCTION
    small = sprite.alpha.reduce(k)
    fx, fy = foot[0] / k, foot[1] / k
    ox, oy = sprite.origin[0] / k, sprite.origin[1] / k
    ux, uy = up
    sx, sy = shadow
    if uy > -1e-6:
        return
    least = max(0.07 * -uy, abs(ux - sx) / 4)
    if abs(sy) < least:  # a shadow straight to the side would have no width
        sy = -least if sy < 0 else least
    corners = []
    for px, py in ((ox, oy), (ox + small.width, oy), (ox, oy + small.height),
                   (ox + small.width, oy + small.height)):  # fmt: skip
        b = (py - fy) / uy
        a = px - fx - b * ux
        corners.append((fx + a + b * sx, fy + b * sy))
    x0 = max(0, floor(min(c[0] for c in corners)))
    y0 = max(0, floor(min(c[1] for c in corners)))
    x1 = min(layer.width, ceil(max(c[0] for c in corners)))
    y1 = min(layer.height, ceil(max(c[1] for c in corners)))
    if x1 <= x0 or y1 <= y0:
        return
    skew, stretch = (ux - sx) / sy, uy / sy
    coefficients = (
        1.0, skew, x0 - ox + skew * (y0 - fy), 0.0, stretch, stretch * (y0 - fy) + fy - oy,
    )  # fmt: skip
    fallen = small.transform(
        (x1 - x0, y1 - y0), Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR
    )
    layer.paste(255, (x0, y0, x1, y1), fallen)


def paint(plate: Image.Image, things: list[Thing]) -> PaintedTruth:
    """Paint all things on the plate, far ones first, and measure the visible part of the people.

    Args:
        plate: RGB image, painted in place.
        things: in any order; at most 255 people among them.

    Returns:
        Ground truth about the people, ordered from far to near.
    """
    width, height = plate.size
    seen = np.zeros((height, width), dtype=np.uint8)
    truth = PaintedTruth()
    totals: list[int] = []
    number = 0
    for thing in sorted(things, key=lambda t: -t.depth):
        for sprite in thing.sprites:
            x, y = sprite.origin
            plate.paste(sprite.image, (x, y), sprite.alpha)
            x0, y0 = max(0, -x), max(0, -y)
            x1 = min(sprite.alpha.width, width - x)
            y1 = min(sprite.alpha.height, height - y)
            inside = x1 > x0 and y1 > y0
            if inside:
                window = seen[y + y0 : y + y1, x + x0 : x + x1]
                window *= (np.asarray(sprite.alpha)[y0:y1, x0:x1] < 128).view(np.uint8)
            if sprite.body is None or sprite.own is None:
                continue
            box = mask_box(sprite.body)
            if box is None:
                continue
            number += 1
            if inside:
                # What is seen of a body is covered by its sprite, hence 0 by now.
                window += sprite.own[y0:y1, x0:x1].view(np.uint8) * np.uint8(number)
            total = int(np.count_nonzero(sprite.body))
            kept = int(np.count_nonzero(sprite.body[y0:y1, x0:x1])) if inside else 0
            truth.boxes.append((box[0] + x, box[1] + y, box[2] + x, box[3] + y))
            truth.inside.append(kept / total)
            totals.append(total)
        if thing.glow is not None:
            column, row, reach = thing.glow
            add_glow(plate, (column, row), (reach, reach), 150, LAMP_COLOUR)
    for k, ((bx0, by0, bx1, by1), total) in enumerate(zip(truth.boxes, totals, strict=True)):
        x0, y0 = max(0, bx0), max(0, by0)
        part = seen[y0 : max(y0, by1), x0 : max(x0, bx1)] == k + 1
        box = mask_box(part)
        truth.visible.append(
            None if box is None else (box[0] + x0, box[1] + y0, box[2] + x0, box[3] + y0)
        )
        truth.shares.append(int(np.count_nonzero(part)) / total)
    return truth
