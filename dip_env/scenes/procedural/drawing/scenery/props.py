"""Street furniture that hides people: benches, cars, bins, hedges, posts, trees."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from math import cos, pi, sin

from dip_env.scenes.procedural.drawing.render.camera import Camera, Vector
from dip_env.scenes.procedural.drawing.render.canvas import BEHIND, Sprite
from dip_env.scenes.procedural.drawing.render.colours import Colour, Tone, dimmed
from dip_env.scenes.procedural.drawing.render.light import Light
from dip_env.scenes.procedural.drawing.render.rng import SceneRandom
from dip_env.scenes.procedural.drawing.scenery.solids import Model

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
"""Footprint of every kind of furniture, metres: no person stands closer."""

FOOT = {
    "bench": 0.6, "bollard": 0.12, "bin": 0.32, "hedge": 1.0, "lamp_post": 0.15, "tree": 0.35,
    "planter": 0.6, "car": 2.0, "cone": 0.2, "barrier": 0.03, "kiosk": 1.1, "cafe_table": 0.3,
    "statue": 0.55, "poster": 0.5, "coat_pole": 0.3, "mannequin": 0.3,
}  # fmt: skip
"""How wide the dark ground right under a thing is to either side, metres."""


def draw_prop(
    kind: str,
    camera: Camera,
    position: Vector,
    heading: float,
    light: Light,
    tone: Tone,
    rng: SceneRandom,
) -> list[Sprite]:
    """Draw a piece of street furniture.

    Args:
        kind: a key of ``RADIUS``.
        camera: the view.
        position: world point it stands on, metres.
        heading: turn around the vertical, radians.
        light: of the scene.
        tone: colour of an object under the light at its position.
        rng: random source for colours and shapes.

    Returns:
        Its sprites, back to front.
    """
    model = Model(camera, position, heading, tone, light)
    _BUILDERS[kind](model, rng)
    return model.render(rng, rough=kind in ("planter", "kiosk"), leafy=kind in ("hedge", "tree"))


def _bench(m: Model, rng: SceneRandom) -> None:
    wood, metal = rng.jitter(rng.choice(WOODS), 12), rng.choice(PAINTS)
    for x in (-0.75, 0.7):
        m.box((x, 0, -0.2), (x + 0.06, 0.42, 0.2), metal, 0.02)
    for k in range(3):
        m.box((-0.85, 0.42, -0.22 + 0.15 * k), (0.85, 0.46, -0.1 + 0.15 * k), wood, -0.02)
    if rng.bernoulli(0.75):
        for y in (0.58, 0.76):
            m.box((-0.85, y, 0.2), (0.85, y + 0.12, 0.24), wood)


def _bollard(m: Model, rng: SceneRandom) -> None:
    paint = rng.jitter(rng.choice(PAINTS), 10)
    m.drum(0, 0.85, (0.095, 0.085), paint)
    if rng.bernoulli(0.6):
        m.drum(0.64, 0.72, (0.1, 0.1), (214, 208, 196))


def _bin(m: Model, rng: SceneRandom) -> None:
    paint = rng.jitter(rng.choice(PAINTS), 16)
    m.drum(0, rng.uniform(0.8, 1.05), (0.24, 0.29), paint)


def _hedge(m: Model, rng: SceneRandom) -> None:
    green, length = rng.jitter(rng.choice(GREENS), 10), rng.uniform(0.8, 1.8)
    height = rng.uniform(0.6, 1.2)
    m.box((-length, 0, -0.3), (length, height, 0.3), green)


def _lamp_post(m: Model, rng: SceneRandom) -> None:
    paint, height = rng.jitter(rng.choice(PAINTS), 8), rng.uniform(3.4, 6.5)
    m.post((0, 0, 0), (0, 0.5, 0), (0.12, 0.1), paint)
    m.post((0, 0.4, 0), (0, height, 0), (0.065, 0.045), paint)
    glass = (236, 228, 200)
    if rng.bernoulli(0.5) and not m.night:
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


def _tree(m: Model, rng: SceneRandom) -> None:
    bark, green = (92, 74, 58), rng.jitter(rng.choice(GREENS), 12)
    trunk = rng.uniform(2.2, 3.2)
    m.post((0, 0, 0), (0, trunk + 1.0, 0), (0.2, 0.13), bark)
    crown = rng.uniform(1.2, 2.0)
    m.blob((0, trunk + crown * 0.9, 0), crown, green)
    for _ in range(14):
        angle, reach = rng.uniform(0, 2 * pi), crown * rng.uniform(0.4, 0.9)
        high = crown * rng.uniform(0.35, 1.65)
        lit = 0.75 + 0.3 * high / crown
        p = (reach * cos(angle), trunk + high, reach * sin(angle) * 0.8)
        colour = rng.jitter(green, 8)
        m.blob(p, crown * rng.uniform(0.25, 0.5), dimmed(colour, lit))


def _planter(m: Model, rng: SceneRandom) -> None:
    stone = rng.jitter((150, 144, 134), 20)
    m.box((-0.5, 0, -0.3), (0.5, 0.5, 0.3), stone)
    blossom = rng.choice(((196, 70, 90), (222, 190, 80), (230, 226, 220), (150, 90, 160)))
    for _ in range(22):
        p = (rng.uniform(-0.46, 0.46), rng.uniform(0.5, 0.66), rng.uniform(-0.26, 0.26))
        m.blob(p, rng.uniform(0.06, 0.12), rng.jitter(rng.choice(GREENS), 10))
    for _ in range(rng.integer(0, 12)):
        p = (rng.uniform(-0.46, 0.46), rng.uniform(0.6, 0.74), rng.uniform(-0.3, 0.2))
        m.blob(p, rng.uniform(0.025, 0.045), blossom)


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


def _car(m: Model, rng: SceneRandom) -> None:
    kind = rng.integer(0, 2)
    paint, glass = rng.jitter(rng.choice(CARS), 10), (58, 70, 82)
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
        corners = [(*p, -half), (*q, -half), (*q, half), (*p, half)]
        m.face(corners, dimmed(colour, shade), 3.0)
    m.face([(*p, near) for p in outline], dimmed(paint, 0.9), 2.0)
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


def _cone(m: Model, rng: SceneRandom) -> None:
    orange = rng.jitter((226, 96, 40), 14)
    m.box((-0.19, 0, -0.19), (0.19, 0.04, 0.19), (50, 48, 48))
    m.drum(0.04, 0.72, (0.15, 0.03), orange)
    m.drum(0.34, 0.5, (0.098, 0.07), (236, 234, 228))


def _barrier(m: Model, rng: SceneRandom) -> None:
    steel = rng.jitter((168, 172, 176), 10)
    for x in (-1.0, 1.0):
        m.post((x, 0, 0), (x, 1.05, 0), (0.025, 0.025), steel)
    for y in (0.2, 1.05):
        m.post((-1.0, y, 0), (1.0, y, 0), (0.022, 0.022), steel)
    for k in range(1, 12):
        x = -1.0 + k / 6
        m.post((x, 0.2, 0), (x, 1.05, 0), (0.01, 0.01), steel)


def _kiosk(m: Model, rng: SceneRandom) -> None:
    paint, roof = rng.jitter(rng.choice(PAINTS), 20), rng.jitter((150, 46, 44), 30)
    m.box((-0.9, 0, -0.7), (0.9, 2.3, 0.7), paint)
    m.box((-0.75, 1.0, -0.72), (0.75, 1.9, -0.7), (222, 206, 168), -0.2)
    m.box((-1.1, 2.3, -0.95), (1.1, 2.5, 0.8), roof, -0.3)


def _cafe_table(m: Model, rng: SceneRandom) -> None:
    metal = (80, 80, 84)
    cloth = rng.jitter(
        rng.choice(((206, 202, 192), (150, 50, 48), (60, 96, 84), (222, 196, 120))), 12
    )
    m.post((0, 0, 0), (0, 0.72, 0), (0.04, 0.04), metal)
    m.drum(0.72, 0.75, (0.38, 0.38), (190, 184, 174))
    if rng.bernoulli(0.5):
        m.post((0, 0.75, 0), (0, 2.3, 0), (0.025, 0.025), metal)
        ring = [(1.25 * cos(pi * k / 4), 2.05, 1.25 * sin(pi * k / 4)) for k in range(8)]
        m.sketch.hull([m.at(p) for p in (*ring, (0, 2.55, 0))], m.tone(cloth),
                      m.camera.depth(m.position) - 0.5, BEHIND)  # fmt: skip


_BUILDERS: dict[str, Callable[[Model, SceneRandom], None]] = {
    "bench": _bench, "bollard": _bollard, "bin": _bin, "hedge": _hedge, "lamp_post": _lamp_post,
    "tree": _tree, "planter": _planter, "car": _car, "cone": _cone, "barrier": _barrier,
    "kiosk": _kiosk, "cafe_table": _cafe_table,
}  # fmt: skip
