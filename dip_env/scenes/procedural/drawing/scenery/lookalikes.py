"""Objects that look like people: statues, posters, coats on poles, mannequins."""

from __future__ import annotations

from dataclasses import replace
from math import cos, pi, sin

from dip_env.scenes.procedural.drawing.people.figures import draw_figure
from dip_env.scenes.procedural.drawing.people.person import (
    BRONZE,
    STONE,
    TOPS,
    Person,
    random_person,
)
from dip_env.scenes.procedural.drawing.render.camera import Camera, Vector
from dip_env.scenes.procedural.drawing.render.canvas import BEHIND, Sprite
from dip_env.scenes.procedural.drawing.render.colours import Colour, Tone, dimmed
from dip_env.scenes.procedural.drawing.render.light import Light
from dip_env.scenes.procedural.drawing.render.rng import SceneRandom
from dip_env.scenes.procedural.drawing.scenery.props import PAINTS
from dip_env.scenes.procedural.drawing.scenery.solids import Model

PLASTER = ((206, 220, 232), (150, 160, 170), (46, 48, 54))
"""Of mannequins: cool, unlike any skin or grey hair."""
RADIUS = {"statue": 0.7, "poster": 0.8, "coat_pole": 0.4, "mannequin": 0.4}
"""Footprint of every kind of look-alike, metres: no person stands closer."""


def draw_lookalike(
    kind: str, camera: Camera, position: Vector, light: Light, tone: Tone, rng: SceneRandom
) -> list[Sprite]:
    """Draw an object that can be mistaken for a person.

    Args:
        kind: a key of ``RADIUS``.
        camera: the view.
        position: world point it stands on, metres.
        light: of the scene.
        tone: colour of an object under the light at its position.
        rng: random source.

    Returns:
        Its sprites, back to front; none of them has a body mask.
    """
    builder = {
        "statue": _statue, "poster": _poster, "coat_pole": _coat_pole, "mannequin": _mannequin
    }[kind]  # fmt: skip
    return builder(camera, position, light, tone, rng)


def _lifeless(person: Person, rng: SceneRandom, colour: Colour) -> Person:
    """Return the person in one colour all over, with no features and nothing in the hands."""
    return replace(
        person, skin=colour, hair=dimmed(colour, 0.92), hat="none", top_colour=dimmed(colour, 0.96),
        under_colour=dimmed(colour, 1.05), bottom_colour=dimmed(colour, 0.9),
        shoes=dimmed(colour, 0.85), glasses=False, beard=False, carried=(), carried_colours=(),
        faceless=True, pattern="plain", child=False,
    )  # fmt: skip


def _body_less(sprite: Sprite | None) -> list[Sprite]:
    return [] if sprite is None else [replace(sprite, body=None, own=None)]


def _statue(
    camera: Camera, position: Vector, light: Light, tone: Tone, rng: SceneRandom
) -> list[Sprite]:
    stone = rng.jitter(rng.choice(STONE if rng.bernoulli(0.6) else BRONZE), 10)
    plinth = rng.jitter(rng.choice(STONE), 12)
    high = rng.uniform(0.4, 1.3)
    model = Model(camera, position, rng.uniform(-0.4, 0.4), tone, light)
    model.box((-0.48, 0, -0.48), (0.48, high * 0.18, 0.48), plinth, 0.2)
    model.box((-0.38, high * 0.18, -0.38), (0.38, high, 0.38), plinth)
    sprites = model.render(rng, rough=True)
    person = random_person(rng, rng.uniform(pi * 0.6, pi * 1.4), "stand", carry=0.0, umbrellas=0)
    person = replace(
        _lifeless(person, rng, stone), stature=rng.uniform(1.5, 2.0),
        arms=rng.choice(("point", "hip", "down", "wave", "crossed")),
        top=rng.choice(("robe", "coat", "suit")),
    )  # fmt: skip
    body = draw_figure(
        person, camera, (position[0], position[1] + high, position[2]), tone, light.side
    )
    return sprites + _body_less(body)


def _poster(
    camera: Camera, position: Vector, light: Light, tone: Tone, rng: SceneRandom
) -> list[Sprite]:
    wide, low, high = rng.uniform(0.5, 0.75), rng.uniform(0.1, 0.5), rng.uniform(1.9, 2.4)
    model = Model(camera, position, 0.0, tone, light)
    frame, back = rng.jitter(rng.choice(PAINTS), 10), rng.jitter(rng.choice(TOPS), 24)
    back = (min(255, back[0] * 0.5 + 110), min(255, back[1] * 0.5 + 110), back[2] * 0.5 + 110)
    for x in (-wide * 0.8, wide * 0.8):
        model.box((x - 0.05, 0, 0), (x + 0.05, low + 0.1, 0.08), frame, 0.1)
    model.box((-wide - 0.08, low, -0.02), (wide + 0.08, high, 0.12), frame)
    model.box((-wide, low + 0.08, -0.04), (wide, high - 0.08, -0.02), back, -0.3)
    for k in range(3):
        y = high - 0.2 - 0.09 * k
        reach = wide * (0.85 if k == 0 else rng.uniform(0.4, 0.8))
        model.box((-wide * 0.88, y - (0.05 if k == 0 else 0.025), -0.05), (reach, y, -0.04),
                  (240, 238, 230) if k == 0 else dimmed(back, 0.6), -0.5)  # fmt: skip
    sprites = model.render(rng)
    person = random_person(rng, rng.uniform(pi * 0.8, pi * 1.2), "stand", carry=0.2, umbrellas=0)
    close = rng.bernoulli(0.5)
    stature = (high - low - 0.62) * (1.75 if close else 0.98)
    drop = low + 0.1 - (stature * 0.42 if close else 0.0)
    person = replace(person, stature=stature, child=False)
    figure = draw_figure(
        person, camera, (position[0], position[1] + drop, position[2] - 0.06), tone, light.side
    )
    if figure is None:
        return sprites
    left, bottom = model.at((-wide, low + 0.08, -0.04))
    right, top = model.at((wide, high - 0.4, -0.04))
    x, y = figure.origin
    box = (
        max(0, round(left) - x), max(0, round(top) - y),
        min(figure.alpha.width, round(right) - x), min(figure.alpha.height, round(bottom) - y),
    )  # fmt: skip
    if box[2] <= box[0] or box[3] <= box[1]:
        return sprites
    flat = Sprite(
        figure.image.crop(box), figure.alpha.crop(box), None, None, (x + box[0], y + box[1])
    )
    return [*sprites, flat]


def _coat_pole(
    camera: Camera, position: Vector, light: Light, tone: Tone, rng: SceneRandom
) -> list[Sprite]:
    model = Model(camera, position, 0.0, tone, light)
    metal, cloth = (70, 66, 62), rng.jitter(rng.choice(TOPS), 20)
    top = rng.uniform(1.6, 1.85)
    model.post((0, 0, 0), (0, top, 0), (0.035, 0.03), metal)
    for k in range(3):
        foot = (0.3 * cos(2.1 * k + 0.4), 0.02, 0.3 * sin(2.1 * k + 0.4))
        model.post((0, 0.12, 0), foot, (0.03, 0.025), metal)
    depth = camera.depth(position)
    hem, shoulder = rng.uniform(0.55, 0.9), top - 0.22
    half = rng.uniform(0.18, 0.24)
    for x, y in ((-1, -0.45), (1, -0.45)):
        model.sketch.capsule(
            model.at((x * half, shoulder - 0.04, 0)),
            model.at((x * (half + 0.06), shoulder + y, 0)),
            (0.06 * model.sketch.scale, 0.05 * model.sketch.scale), tone(cloth), depth - 0.2,
            BEHIND,
        )  # fmt: skip
    model.sketch.hull(
        [model.at(p) for p in ((-half, shoulder - 0.02, 0), (half, shoulder - 0.02, 0),
                               (-0.06, shoulder + 0.07, 0), (0.06, shoulder + 0.07, 0),
                               (half + 0.07, hem, 0), (-half - 0.05, hem + 0.03, 0))],
        tone(cloth), depth - 0.3, BEHIND,
    )  # fmt: skip
    if rng.bernoulli(0.6):
        hat = tone(rng.jitter(rng.choice(TOPS), 16))
        model.sketch.hull([model.at((x, top + y, 0)) for x, y in ((-0.18, 0.0), (0.18, 0.0),
                          (-0.16, 0.03), (0.16, 0.03))], hat, depth - 0.4, BEHIND)  # fmt: skip
        model.sketch.hull([model.at((x, top + y, 0)) for x, y in ((-0.1, 0.02), (0.1, 0.02),
                          (-0.08, 0.14), (0.08, 0.14))], hat, depth - 0.41, BEHIND)  # fmt: skip
    return model.render(rng, rough=True)


def _mannequin(
    camera: Camera, position: Vector, light: Light, tone: Tone, rng: SceneRandom
) -> list[Sprite]:
    model = Model(camera, position, 0.0, tone, light)
    model.drum(0.0, 0.05, (0.28, 0.26), (60, 58, 58))
    model.post((0.0, 0.05, 0.05), (0.0, 0.9, 0.05), (0.02, 0.02), (150, 150, 154))
    plaster = rng.jitter(rng.choice(PLASTER), 6)
    person = random_person(rng, rng.uniform(pi * 0.7, pi * 1.3), "stand", carry=0.0, umbrellas=0)
    person = replace(
        person, skin=plaster, hair=plaster, hair_style="bald", hat="none", faceless=True,
        glasses=False, beard=False, child=False, shoes=plaster, headless=rng.bernoulli(0.6),
        arms=rng.choice(("hip", "down", "point")),
    )  # fmt: skip
    body = draw_figure(
        person, camera, (position[0], position[1] + 0.05, position[2]), tone, light.side
    )
    return model.render(rng) + _body_less(body)
