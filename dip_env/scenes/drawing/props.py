"""Street furniture that hides people: benches, cars, bins, hedges, posts, trees."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import cos, pi, sin

from PIL import Image, ImageChops

from dip_env.scenes.drawing.camera import Camera, Point, Vector
from dip_env.scenes.drawing.dice import Dice
from dip_env.scenes.drawing.light import Light
from dip_env.scenes.drawing.sketch import BEHIND, Colour, Sketch, Sprite, ellipse_outline
from dip_env.scenes.drawing.textures import frayed, leaf_grain

CARS: tuple[Colour, ...] = (
    (196, 200, 204), (40, 42, 46), (120, 124, 130), (150, 34, 36), (44, 70, 120), (226, 226, 222),
    (70, 90, 76), (186, 160, 110), (92, 96, 104),
)  # fmt: skip
PAINTS: tuple[Colour, ...] = (
    (54, 60, 58), (66, 78, 70), (110, 112, 114), (44, 46, 52), (150, 120, 60), (120, 60, 48),
)  # fmt: skip
WOODS: tuple[Colour, ...] = ((132, 94, 62), (106, 76, 52), (150, 118, 84), (96, 86, 76))
GREENS: tuple[Colour, ...] = ((84, 112, 56), (70, 98, 52), (104, 122, 60), (62, 88, 56))

RADIUS = {
    "bench": 0.9, "bollard": 0.15, "bin": 0.35, "hedge": 1.2, "lamp_post": 0.2, "tree": 0.5,
    "planter": 0.7, "car": 2.2, "cone": 0.25, "barrier": 1.1, "kiosk": 1.3, "cafe_table": 0.8,
}  # fmt: skip
"""Footprint of every kind of furniture: nobody stands closer than this, metres."""

FOOT = {
    "bench": 0.6, "bollard": 0.12, "bin": 0.32, "hedge": 1.0, "lamp_post": 0.15, "tree": 0.35,
    "planter": 0.6, "car": 2.0, "cone": 0.2, "barrier": 0.1, "kiosk": 1.1, "cafe_table": 0.3,
    "statue": 0.55, "poster": 0.5, "coat_pole": 0.3, "mannequin": 0.3,
}  # fmt: skip
"""How wide the dark ground right under a thing is to either side, metres."""


class Model:
    """Builds a thing from boxes, posts and plates in its own metres and draws it shaded.

    Args:
        camera: the view.
        place: world point under the thing.
        heading: turn around the vertical, radians.
        tone: colour under the scene's light at that depth.
        light: for the brightness of faces.
    """

    def __init__(
        self, camera: Camera, place: Vector, heading: float,
        tone: Callable[[Colour], Colour], light: Light,
    ) -> None:  # fmt: skip
        """Start with nothing."""
        self.camera = camera
        self.place = place
        self.turn = (cos(heading), sin(heading))
        self.tone = tone
        self.side = light.side[0]
        self.night = light.kind == "night"
        self.sketch = Sketch(min(camera.scale(place), 400.0), light.side)

    def world(self, p: Vector) -> Vector:
        """Return the world point of a point of the thing."""
        c, s = self.turn
        x0, y0, z0 = self.place
        return x0 + p[0] * c + p[2] * s, y0 + p[1], z0 - p[0] * s + p[2] * c

    def to_local(self, p: Vector) -> Vector:
        """Return the thing's own coordinates of a world point."""
        c, s = self.turn
        x, z = p[0] - self.place[0], p[2] - self.place[2]
        return x * c - z * s, p[1] - self.place[1], x * s + z * c

    def at(self, p: Vector) -> Point:
        """Return the scene pixel of a point of the thing."""
        return self.camera.project(self.world(p))

    def face(self, corners: Sequence[Vector], colour: Colour, bias: float = 0.0) -> None:
        """Add a flat polygon."""
        depth = sum(self.camera.depth(self.world(p)) for p in corners) / len(corners)
        self.sketch.add(
            [self.at(p) for p in corners], self.tone(colour), depth + bias, BEHIND, shade=236
        )

    def box(self, low: Vector, high: Vector, colour: Colour, bias: float = 0.0) -> None:
        """Add a box: its top and the sides that face the camera, each with its brightness."""
        (x0, y0, z0), (x1, y1, z1) = low, high
        faces = (
            (((x0, y1, z0), (x1, y1, z0), (x1, y1, z1), (x0, y1, z1)), (0.0, 1.0, 0.0)),
            (((x0, y0, z0), (x1, y0, z0), (x1, y1, z0), (x0, y1, z0)), (0.0, 0.0, -1.0)),
            (((x0, y0, z1), (x1, y0, z1), (x1, y1, z1), (x0, y1, z1)), (0.0, 0.0, 1.0)),
            (((x0, y0, z0), (x0, y0, z1), (x0, y1, z1), (x0, y1, z0)), (-1.0, 0.0, 0.0)),
            (((x1, y0, z0), (x1, y0, z1), (x1, y1, z1), (x1, y1, z0)), (1.0, 0.0, 0.0)),
        )
        c, s = self.turn
        for corners, (nx, ny, nz) in faces:
            wx, wz = nx * c + nz * s, -nx * s + nz * c
            px, py, pz = self.world(corners[0])
            if wx * px + ny * (py - self.camera.height) + wz * pz >= 0:
                continue
            shade = 1.12 if ny else 0.86 + 0.14 * wx * self.side
            self.face(corners, (colour[0] * shade, colour[1] * shade, colour[2] * shade), bias)

    def post(self, p: Vector, q: Vector, radii: tuple[float, float], colour: Colour) -> None:
        """Add a round post between two points, radii in metres."""
        a, b = self.world(p), self.world(q)
        sa, sb = self.camera.scale(a), self.camera.scale(b)
        self.sketch.capsule(
            self.camera.project(a), self.camera.project(b), (radii[0] * sa, radii[1] * sb),
            self.tone(colour), (self.camera.depth(a) + self.camera.depth(b)) / 2, BEHIND,
        )  # fmt: skip

    def drum(self, low: float, high: float, radii: tuple[float, float], colour: Colour) -> None:
        """Add an upright round body with a lid, radii below and above in metres."""
        ring = [(cos(2 * pi * k / 14), sin(2 * pi * k / 14)) for k in range(14)]
        base = [self.at((radii[0] * c, low, radii[0] * s)) for c, s in ring]
        top = [self.at((radii[1] * c, high, radii[1] * s)) for c, s in ring]
        depth = self.camera.depth(self.place)
        self.sketch.hull(base + top, self.tone(colour), depth, BEHIND)
        lid = (colour[0] * 1.14, colour[1] * 1.14, colour[2] * 1.14)
        self.sketch.add(top, self.tone(lid), depth - 0.3, BEHIND, shade=240)

    def blob(self, p: Vector, radius: float, colour: Colour, flat: float = 0.9) -> None:
        """Add a round mass of leaves or stone."""
        world = self.world(p)
        r = radius * self.camera.scale(world)
        centre = self.camera.project(world)
        lit = ellipse_outline(
            (centre[0] + self.sketch.light[0] * r * 0.25, centre[1] - r * 0.2), r * 0.66, r * 0.6
        )
        self.sketch.add(
            ellipse_outline(centre, r, r * flat), self.tone(colour), self.camera.depth(world),
            BEHIND, lit, 176,
        )  # fmt: skip

    def render(self, dice: Dice, leafy: bool = False) -> list[Sprite]:
        """Return the sprite of the thing, or nothing when it has no size."""
        scale = self.sketch.scale
        sprite = self.sketch.render(3 if scale < 40 else 2, (dice.whole(0, 3000), 0))
        if sprite is None:
            return []
        if leafy:
            sprite = _leafy(sprite, dice, scale)
        return [sprite]


def _leafy(sprite: Sprite, dice: Dice, scale: float) -> Sprite:
    """Give a sprite the texture and the frayed edge of leaves."""
    grain = leaf_grain(sprite.image.size, scale / 90, (dice.whole(0, 500), dice.whole(0, 500)))
    image = ImageChops.multiply(sprite.image, Image.merge("RGB", (grain,) * 3))
    return Sprite(image, frayed(sprite.alpha, grain, scale * 0.09), None, None, sprite.origin)


def draw_prop(
    kind: str,
    camera: Camera,
    place: Vector,
    heading: float,
    light: Light,
    tone: Callable[[Colour], Colour],
    dice: Dice,
) -> list[Sprite]:
    """Draw a piece of street furniture.

    Args:
        kind: a key of ``RADIUS``.
        camera: the view.
        place: world point it stands on, metres.
        heading: turn around the vertical, radians.
        light: of the scene.
        tone: colour of an object under the light at its place.
        dice: source of chance for colours and shapes.

    Returns:
        Its sprites, back to front.
    """
    model = Model(camera, place, heading, tone, light)
    _BUILDERS[kind](model, dice)
    return model.render(dice, leafy=kind in ("hedge", "tree"))


def _bench(m: Model, dice: Dice) -> None:
    wood, metal = dice.jitter(dice.pick(WOODS), 12), dice.pick(PAINTS)
    for x in (-0.75, 0.7):
        m.box((x, 0, -0.2), (x + 0.06, 0.42, 0.2), metal, 0.02)
    for k in range(3):
        m.box((-0.85, 0.42, -0.22 + 0.15 * k), (0.85, 0.46, -0.1 + 0.15 * k), wood, -0.02)
    if dice.chance(0.75):
        for y in (0.58, 0.76):
            m.box((-0.85, y, 0.2), (0.85, y + 0.12, 0.24), wood)


def _bollard(m: Model, dice: Dice) -> None:
    paint = dice.jitter(dice.pick(PAINTS), 10)
    m.drum(0, 0.85, (0.095, 0.085), paint)
    if dice.chance(0.6):
        m.drum(0.64, 0.72, (0.1, 0.1), (214, 208, 196))


def _bin(m: Model, dice: Dice) -> None:
    paint = dice.jitter(dice.pick(PAINTS), 16)
    m.drum(0, dice.uniform(0.8, 1.05), (0.24, 0.29), paint)


def _hedge(m: Model, dice: Dice) -> None:
    green, length = dice.jitter(dice.pick(GREENS), 10), dice.uniform(0.8, 1.8)
    height = dice.uniform(0.6, 1.2)
    m.box((-length, 0, -0.3), (length, height, 0.3), green)


def _lamp_post(m: Model, dice: Dice) -> None:
    paint, height = dice.jitter(dice.pick(PAINTS), 8), dice.uniform(3.4, 6.5)
    m.post((0, 0, 0), (0, 0.5, 0), (0.12, 0.1), paint)
    m.post((0, 0.4, 0), (0, height, 0), (0.065, 0.045), paint)
    glass = (236, 228, 200)
    if dice.chance(0.5) and not m.night:
        m.post((0, height, 0), (0.8, height + 0.1, 0), (0.04, 0.04), paint)
        m.post((0.6, height + 0.02, 0), (1.0, height + 0.04, 0), (0.1, 0.1), glass)
        return
    if m.night:
        height = 4.4
        m.tone = _shining
    m.post((0, height, 0), (0, height + 0.35, 0), (0.16, 0.2), glass)
    m.post((0, height + 0.5, 0), (0, height + 0.55, 0), (0.24, 0.08), paint)


def _shining(colour: Colour) -> Colour:
    """Return the colour as it is: a lit lamp does not depend on the light around it."""
    return colour


def _tree(m: Model, dice: Dice) -> None:
    bark, green = (92, 74, 58), dice.jitter(dice.pick(GREENS), 12)
    trunk = dice.uniform(2.2, 3.2)
    m.post((0, 0, 0), (0, trunk + 1.0, 0), (0.2, 0.13), bark)
    crown = dice.uniform(1.2, 2.0)
    m.blob((0, trunk + crown * 0.9, 0), crown, green)
    for _ in range(14):
        angle, reach = dice.uniform(0, 2 * pi), crown * dice.uniform(0.4, 0.9)
        high = crown * dice.uniform(0.35, 1.65)
        lit = 0.75 + 0.3 * high / crown
        p = (reach * cos(angle), trunk + high, reach * sin(angle) * 0.8)
        colour = dice.jitter(green, 8)
        m.blob(p, crown * dice.uniform(0.25, 0.5), (colour[0] * lit, colour[1] * lit, colour[2] * lit))


def _planter(m: Model, dice: Dice) -> None:
    stone = dice.jitter((150, 144, 134), 20)
    m.box((-0.5, 0, -0.3), (0.5, 0.5, 0.3), stone)
    blossom = dice.pick(((196, 70, 90), (222, 190, 80), (230, 226, 220), (150, 90, 160)))
    for _ in range(22):
        p = (dice.uniform(-0.46, 0.46), dice.uniform(0.5, 0.66), dice.uniform(-0.26, 0.26))
        m.blob(p, dice.uniform(0.06, 0.12), dice.jitter(dice.pick(GREENS), 10))
    for _ in range(dice.whole(0, 12)):
        p = (dice.uniform(-0.46, 0.46), dice.uniform(0.6, 0.74), dice.uniform(-0.3, 0.2))
        m.blob(p, dice.uniform(0.025, 0.045), blossom)


_CAR_SIDES = (
    ((-2.1, 0.3), (-2.12, 0.82), (-1.75, 0.92), (-1.3, 1.0), (-0.75, 1.42), (0.35, 1.45),
     (1.05, 0.98), (1.95, 0.84), (2.12, 0.6), (2.1, 0.3)),
    ((-2.0, 0.32), (-2.08, 0.95), (-1.95, 1.05), (-1.7, 1.55), (-0.4, 1.66), (0.5, 1.6),
     (1.1, 1.05), (1.95, 0.9), (2.1, 0.62), (2.05, 0.32)),
    ((-2.3, 0.36), (-2.32, 1.9), (-2.2, 2.05), (-1.0, 2.1), (0.6, 2.1), (1.2, 1.98),
     (1.75, 1.2), (2.25, 1.0), (2.32, 0.66), (2.3, 0.36)),
)  # fmt: skip
"""Side views (x along the car, y up) of a saloon, a hatchback and a van, from rear to front."""

_CAR_WINDOWS = (
    (((-1.1, 1.0), (-0.68, 1.34), (-0.2, 1.37), (-0.2, 1.0)),
     ((-0.1, 1.0), (-0.1, 1.37), (0.3, 1.37), (0.85, 1.0))),
    (((-1.7, 1.08), (-1.55, 1.48), (-0.6, 1.56), (-0.6, 1.08)),
     ((-0.5, 1.08), (-0.5, 1.57), (0.45, 1.52), (0.9, 1.08))),
    (((0.35, 1.2), (0.35, 1.9), (1.1, 1.88), (1.5, 1.2)),),
)  # fmt: skip


def _car(m: Model, dice: Dice) -> None:
    kind = dice.whole(0, 2)
    paint, glass = dice.jitter(dice.pick(CARS), 10), (58, 70, 82)
    outline = _CAR_SIDES[kind]
    half = 0.86
    eye = m.to_local((0.0, m.camera.height, 0.0))
    near = -half if eye[2] < 0 else half
    for k, (p, q) in enumerate(pairwise(outline)):
        nx, ny = q[1] - p[1], p[0] - q[0]  # outward, as the outline runs over the roof
        if -nx * (eye[0] - p[0]) - ny * (eye[1] - p[1]) <= 0:
            continue
        tilted = abs(q[0] - p[0]) < 2.2 * abs(q[1] - p[1]) and min(p[1], q[1]) > 0.9
        colour = glass if tilted and k not in (0, len(outline) - 2) else paint
        shade = 1.15 if abs(q[0] - p[0]) > abs(q[1] - p[1]) else 0.92
        m.face([(*p, -half), (*q, -half), (*q, half), (*p, half)],
               (colour[0] * shade, colour[1] * shade, colour[2] * shade), 3.0)  # fmt: skip
    m.face([(*p, near) for p in outline], (paint[0] * 0.9, paint[1] * 0.9, paint[2] * 0.9), 2.0)
    out = near * 1.005
    for window in _CAR_WINDOWS[kind]:
        m.face([(*p, out) for p in window], glass, 1.5)
    m.face([(-2.0, 0.32, out), (2.0, 0.32, out), (2.0, 0.42, out), (-2.0, 0.42, out)],
           (46, 46, 48), 1.6)  # fmt: skip
    for x in (-1.35, 1.3):
        for radius, colour in ((0.38, (30, 30, 32)), (0.33, (24, 24, 26)), (0.2, (150, 152, 156))):
            ring = [(x + radius * cos(pi * k / 8), 0.34 + radius * sin(pi * k / 8), out)
                    for k in range(16)]  # fmt: skip
            m.face(ring, colour, 1.2 - radius)
    if eye[0] > 2.1:
        for z in (-0.62, 0.62):
            m.face([(2.13, 0.58, z - 0.17), (2.13, 0.58, z + 0.17), (2.1, 0.74, z + 0.17),
                    (2.1, 0.74, z - 0.17)], (244, 240, 222), 0.9)  # fmt: skip
    elif eye[0] < -2.1:
        for z in (-0.62, 0.62):
            m.face([(-2.33, 0.6, z - 0.16), (-2.33, 0.6, z + 0.16), (-2.33, 0.76, z + 0.16),
                    (-2.33, 0.76, z - 0.16)], (170, 30, 30), 0.9)  # fmt: skip


def _cone(m: Model, dice: Dice) -> None:
    orange = dice.jitter((226, 96, 40), 14)
    m.box((-0.19, 0, -0.19), (0.19, 0.04, 0.19), (50, 48, 48))
    m.drum(0.04, 0.72, (0.15, 0.03), orange)
    m.drum(0.34, 0.5, (0.098, 0.07), (236, 234, 228))


def _barrier(m: Model, dice: Dice) -> None:
    steel = dice.jitter((168, 172, 176), 10)
    for x in (-1.0, 1.0):
        m.post((x, 0, 0), (x, 1.05, 0), (0.025, 0.025), steel)
    for y in (0.2, 1.05):
        m.post((-1.0, y, 0), (1.0, y, 0), (0.022, 0.022), steel)
    for k in range(1, 12):
        x = -1.0 + k / 6
        m.post((x, 0.2, 0), (x, 1.05, 0), (0.01, 0.01), steel)


def _kiosk(m: Model, dice: Dice) -> None:
    paint, roof = dice.jitter(dice.pick(PAINTS), 20), dice.jitter((150, 46, 44), 30)
    m.box((-0.9, 0, -0.7), (0.9, 2.3, 0.7), paint)
    m.box((-0.75, 1.0, -0.72), (0.75, 1.9, -0.7), (222, 206, 168), -0.2)
    m.box((-1.1, 2.3, -0.95), (1.1, 2.5, 0.8), roof, -0.3)


def _cafe_table(m: Model, dice: Dice) -> None:
    metal, cloth = (80, 80, 84), dice.jitter(dice.pick(((206, 202, 192), (150, 50, 48),
                                                        (60, 96, 84), (222, 196, 120))), 12)  # fmt: skip
    m.post((0, 0, 0), (0, 0.72, 0), (0.04, 0.04), metal)
    m.drum(0.72, 0.75, (0.38, 0.38), (190, 184, 174))
    if dice.chance(0.5):
        m.post((0, 0.75, 0), (0, 2.3, 0), (0.025, 0.025), metal)
        ring = [(1.25 * cos(pi * k / 4), 2.05, 1.25 * sin(pi * k / 4)) for k in range(8)]
        m.sketch.hull([m.at(p) for p in (*ring, (0, 2.55, 0))], m.tone(cloth),
                      m.camera.depth(m.place) - 0.5, BEHIND)  # fmt: skip


_BUILDERS: dict[str, Callable[[Model, Dice], None]] = {
    "bench": _bench, "bollard": _bollard, "bin": _bin, "hedge": _hedge, "lamp_post": _lamp_post,
    "tree": _tree, "planter": _planter, "car": _car, "cone": _cone, "barrier": _barrier,
    "kiosk": _kiosk, "cafe_table": _cafe_table,
}  # fmt: skip
