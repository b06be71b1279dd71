"""Chooses people, look-alikes and furniture for a stage and draws them."""

from __future__ import annotations

from dataclasses import replace
from math import hypot, pi

import numpy as np

from dip_env.scenes.procedural.drawing.compose import Thing
from dip_env.scenes.procedural.drawing.people.figures import draw_figure
from dip_env.scenes.procedural.drawing.people.person import Person, random_person
from dip_env.scenes.procedural.drawing.placement import (
    BODY,
    Crowding,
    Spot,
    covered,
    find_spot,
    share_inside,
    spot_at,
    within,
)
from dip_env.scenes.procedural.drawing.render.camera import Camera
from dip_env.scenes.procedural.drawing.render.canvas import Sprite
from dip_env.scenes.procedural.drawing.render.light import Light
from dip_env.scenes.procedural.drawing.render.rng import SceneRandom
from dip_env.scenes.procedural.drawing.render.stage import LAMP_HEIGHT, Stage
from dip_env.scenes.procedural.drawing.scenery.lookalikes import RADIUS as LOOKALIKE_RADIUS
from dip_env.scenes.procedural.drawing.scenery.lookalikes import draw_lookalike
from dip_env.scenes.procedural.drawing.scenery.props import FOOT, draw_prop
from dip_env.scenes.procedural.drawing.scenery.props import RADIUS as PROP_RADIUS
from dip_env.scenes.procedural.parameters import LOOKALIKES, REFERENCE_HEIGHT, CrowdParameters

FURNITURE = {
    "street": ("bench", "bollard", "bin", "lamp_post", "car", "car", "cone", "barrier", "tree",
               "planter"),
    "plaza": ("bench", "bollard", "bin", "lamp_post", "planter", "cafe_table", "kiosk", "barrier"),
    "park": ("bench", "bin", "hedge", "tree", "lamp_post", "hedge", "planter"),
    "shore": ("bench", "bin", "cafe_table", "barrier", "planter", "bollard"),
    "hall": ("bench", "bin", "planter", "barrier", "bollard", "kiosk"),
}  # fmt: skip
"""Kinds of furniture in each setting."""

HEIGHTS = {
    "bench": 0.9, "bollard": 0.85, "bin": 1.0, "hedge": 1.2, "lamp_post": 6.0, "tree": 6.0,
    "planter": 0.9, "car": 1.7, "cone": 0.75, "barrier": 1.1, "kiosk": 2.5, "cafe_table": 2.5,
    "statue": 3.0, "poster": 2.4, "coat_pole": 1.9, "mannequin": 1.8,
}  # fmt: skip
"""Greatest height of each kind, metres."""

SMALL = (0.1, 0.15)
"""Height of the additional small person, as a share of the image."""

BULKY = ("tree", "car", "kiosk")
"""Kinds that would fill the image at close range."""


def place_people(
    parameters: CrowdParameters, camera: Camera, stage: Stage, rng: SceneRandom
) -> list[Spot]:
    """Choose how many people there are and where they stand.

    Args:
        parameters: density, scale range and occlusion.
        camera: the view.
        stage: walls.
        rng: random source.

    Returns:
        Between the fewest and the most people asked for, room permitting.
    """
    unit = camera.size[1] / REFERENCE_HEIGHT
    low, high = (h * unit for h in parameters.heights)
    near = parameters.camera == "portrait"
    rule = Crowding(
        low,
        high,
        parameters.occlusion,
        inside=0.995 if near else 0.7,
        company=parameters.company,
        width=0.85 if near else 0.62,
    )
    spots: list[Spot] = []
    for _ in range(rng.integer(*parameters.people)):
        spot = find_spot(rng, camera, stage, rule, spots)
        if spot is not None:
            spots.append(spot)
    relaxed = replace(rule, occlusion=1.0, company=0.0)
    for _ in range(3 * parameters.people[0]):
        if len(spots) >= parameters.people[0]:
            break
        spot = find_spot(rng, camera, stage, relaxed, spots)
        if spot is not None:
            spots.append(spot)
    if len(spots) < parameters.people[1] and rng.bernoulli(parameters.small_extra):
        height = camera.size[1]
        low, high = (share * height for share in SMALL)
        small = Crowding(low, high, parameters.occlusion, inside=0.995, company=0.0)
        spot = find_spot(rng, camera, stage, small, spots)
        if spot is not None:
            spots.append(spot)
    return spots


def draw_people(
    parameters: CrowdParameters,
    camera: Camera,
    stage: Stage,
    light: Light,
    spots: list[Spot],
    rng: SceneRandom,
) -> list[Thing]:
    """Draw a person at every spot, and a bench under those who sit.

    Args:
        parameters: smallest height.
        camera: the view.
        stage: lamps.
        light: of the scene.
        spots: where people stand.
        rng: random source.

    Returns:
        The things to paint.
    """
    things: list[Thing] = []
    warm = light.kind in ("sun", "dusk", "indoor")
    umbrellas = {"overcast": 0.1, "indoor": 0.0}.get(light.kind, 0.015)
    smallest = parameters.heights[0] * camera.size[1] / REFERENCE_HEIGHT
    for spot in spots:
        position = (spot.x, 0.0, spot.z)
        expected = camera.scale((spot.x, BODY / 2, spot.z)) * BODY
        least = smallest if expected > 0.95 * smallest else SMALL[0] * camera.size[1]
        depth = camera.depth(position)
        tone = light.tone(depth, stage.brightness(spot.x, spot.z))
        seated = camera.pitch < 0.2 and rng.bernoulli(0.07)
        heading = rng.uniform(pi - 0.8, pi + 0.8) if seated else spot.heading
        pose = "sit" if seated else None
        person = random_person(rng, heading, pose, umbrellas=umbrellas, warm=warm)
        sprite = draw_figure(person, camera, position, tone, light.side)
        if _too_small(sprite, least):
            person, seated = _grown(person), False
            sprite = draw_figure(person, camera, position, tone, light.side)
        if sprite is None or _too_small(sprite, least):
            continue
        if seated:
            bench = draw_prop("bench", camera, position, person.heading - pi, light, tone, rng)
            things.append(Thing(position, depth + 0.3, tuple(bench), foot=FOOT["bench"]))
        things.append(Thing(position, depth, (sprite,), person=True))
    return things


def _too_small(sprite: Sprite | None, least: float) -> bool:
    """Return whether the longer side of a drawn body is under the least height."""
    if sprite is None or sprite.body is None:
        return True
    return all(np.count_nonzero(sprite.body.any(axis=axis)) < least for axis in (1, 0))


def _grown(person: Person) -> Person:
    """Return the person as a tall upright adult: the smallest pictures are never of children."""
    pose = "stand" if person.pose == "sit" else person.pose
    arms = "down" if person.pose == "sit" else person.arms
    return replace(person, stature=1.85, child=False, pose=pose, arms=arms, stride=0.3)


def furnish(
    parameters: CrowdParameters,
    camera: Camera,
    stage: Stage,
    light: Light,
    people: list[Spot],
    rng: SceneRandom,
) -> tuple[list[Thing], list[str]]:
    """Place look-alikes and furniture between the people and draw them.

    Args:
        parameters: how many of which kind.
        camera: the view.
        stage: setting, walls and lamps.
        light: of the scene.
        people: spots that are taken.
        rng: random source.

    Returns:
        The things to paint, and their kinds.
    """
    kinds = [
        rng.choice(parameters.lookalike_kinds) for _ in range(rng.integer(*parameters.lookalikes))
    ]
    kinds += [
        rng.choice(FURNITURE[stage.setting]) for _ in range(rng.integer(*parameters.furniture))
    ]
    taken = list(people)
    things: list[Thing] = []
    names: list[str] = []
    for x, z in stage.lamps:
        if camera.depth((x, 0.0, z)) > 2.0:
            post = _draw("lamp_post", camera, stage, light, (x, z), 0.0, rng)
            head = (x, LAMP_HEIGHT, z)
            u, v = camera.project(head)
            halo = (int(u), int(v), int(camera.scale(head) * 1.3))
            things += [replace(thing, glow=halo) for thing in post]
    for kind in kinds:
        if kind == "lamp_post" and stage.lamps:
            continue  # at night every lamp is lit and among the stage's
        spot = _find_room(parameters, camera, stage, kind, taken, rng)
        if spot is None:
            continue
        taken.append(spot)
        turn = rng.choice((0.0, pi / 2, pi)) + rng.uniform(-0.2, 0.2)
        if kind == "car" and stage.setting == "street":
            turn = rng.choice((pi / 2, -pi / 2)) + rng.uniform(-0.1, 0.1)
        drawn = _draw(kind, camera, stage, light, (spot.x, spot.z), turn, rng)
        things += [replace(thing, lookalike=kind in LOOKALIKES) for thing in drawn]
        names.append(kind)
    return things, names


def _draw(
    kind: str,
    camera: Camera,
    stage: Stage,
    light: Light,
    at: tuple[float, float],
    turn: float,
    rng: SceneRandom,
) -> list[Thing]:
    position = (at[0], 0.0, at[1])
    depth = camera.depth(position)
    tone = light.tone(depth, stage.brightness(*at))
    if kind in LOOKALIKE_RADIUS:
        sprites = draw_lookalike(kind, camera, position, light, tone, rng)
    else:
        sprites = draw_prop(kind, camera, position, turn, light, tone, rng)
    return [Thing(position, depth, tuple(sprites), foot=FOOT[kind])]


def _find_room(
    parameters: CrowdParameters,
    camera: Camera,
    stage: Stage,
    kind: str,
    taken: list[Spot],
    rng: SceneRandom,
) -> Spot | None:
    radius = PROP_RADIUS.get(kind) or LOOKALIKE_RADIUS[kind]
    high = HEIGHTS[kind]
    width, height = camera.size
    closest = 9.0 if kind in BULKY else 4.0
    for _ in range(20):
        row = rng.uniform(max(0.0, camera.horizon / height + 0.03), 1.0) * height
        x, z = camera.ground(rng.uniform(0.0, 1.0) * width, row)
        if camera.depth((x, 0.0, z)) < closest or not within(stage, camera, x, z, radius):
            continue
        spot = spot_at(camera, x, z, high, radius * 1.8, radius)
        if share_inside(spot, camera.size) < 0.3:
            continue
        if all(
            hypot(x - other.x, z - other.z) > radius + other.radius + 0.1
            and (other.z < z or covered(other.box, spot.box) <= parameters.occlusion * 0.8)
            for other in taken
        ):
            return spot
    return None
