"""Draws one whole scene: light, camera, stage, people and things, then the photograph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from dip_env.scenes.procedural.drawing.arrange import draw_people, furnish, place_people
from dip_env.scenes.procedural.drawing.compose import (
    SHADOW_REDUCTION,
    PaintedTruth,
    cast_shadows,
    paint,
)
from dip_env.scenes.procedural.drawing.people.far_crowd import RANK, RANKS, draw_far_crowd
from dip_env.scenes.procedural.drawing.placement import BODY, random_camera
from dip_env.scenes.procedural.drawing.render.camera import Camera
from dip_env.scenes.procedural.drawing.render.light import Light, random_light
from dip_env.scenes.procedural.drawing.render.photo import Photo, finish
from dip_env.scenes.procedural.drawing.render.pixels import blurred
from dip_env.scenes.procedural.drawing.render.rng import SceneRandom
from dip_env.scenes.procedural.drawing.render.stage import (
    Stage,
    lamp_pools,
    random_lamps,
    random_stage,
)
from dip_env.scenes.procedural.drawing.scenery.ground import draw_ground, random_ground
from dip_env.scenes.procedural.drawing.scenery.sky import draw_sky
from dip_env.scenes.procedural.drawing.scenery.skyline import draw_skyline
from dip_env.scenes.procedural.parameters import REFERENCE_HEIGHT, CrowdParameters

Box = tuple[int, int, int, int]


@dataclass(frozen=True, eq=False)
class Drawing:
    """One drawn scene.

    Args:
        image: RGB picture.
        truth: ground truth about the people, measured on the masks.
        regions: pixel boxes of crowds without distinguishable persons.
        notes: counts and names worth reporting.
    """

    image: Image.Image
    truth: PaintedTruth
    regions: tuple[Box, ...]
    notes: Mapping[str, Any]


def draw_scene(parameters: CrowdParameters, rng: SceneRandom) -> Drawing:
    """Choose and draw one scene.

    Args:
        parameters: of the scene.
        rng: random source of this scene alone.

    Returns:
        The image and its ground truth.
    """
    camera = random_camera(rng, parameters.camera, parameters.size)
    smallest = parameters.heights[0] * camera.size[1] / REFERENCE_HEIGHT
    from_above = parameters.camera == "drone"
    stage = random_stage(rng, parameters.settings, camera.focal * BODY / smallest, from_above)
    light = random_light(
        rng, "indoor" if stage.setting == "hall" else rng.choice(parameters.lighting)
    )
    if light.kind == "night":
        stage = replace(stage, lamps=random_lamps(rng, stage))
    crowded = rng.bernoulli(parameters.far_crowd) and stage.setting != "hall"
    room = replace(stage, far=stage.far - RANK * RANKS - 1.5) if crowded else stage
    spots = place_people(parameters, camera, room, rng)
    things, names = furnish(parameters, camera, room, light, spots, rng)
    things += draw_people(parameters, camera, stage, light, spots, rng)
    plate = Image.new("RGB", parameters.size)
    draw_sky(plate, camera, light, rng)
    pools = lamp_pools(camera, stage, SHADOW_REDUCTION) if stage.lamps else None
    ground = random_ground(rng, stage, from_above)
    draw_ground(plate, camera, ground, light, cast_shadows(things, camera, light), pools)
    if not from_above:
        draw_skyline(plate, camera, light, stage, rng)
    if parameters.background_blur:
        plate = Image.fromarray(blurred(np.asarray(plate), parameters.background_blur))
    regions: tuple[Box, ...] = ()
    if crowded:
        regions = _far_crowd(plate, camera, stage, room, light, rng)
    truth = paint(plate, things)
    notes = {
        "drawn": len(truth.boxes),
        "setting": stage.setting,
        "light": light.kind,
        "things": tuple(names),
        "lookalikes": tuple(thing.box for thing in things if thing.lookalike),
    }
    return Drawing(finish(plate, _random_photo(parameters, rng)), truth, regions, notes)


def _far_crowd(
    plate: Image.Image, camera: Camera, stage: Stage, room: Stage, light: Light, rng: SceneRandom
) -> tuple[Box, ...]:
    depth = room.far + 1.0
    reach = camera.size[0] / 2 / camera.scale((0.0, 0.0, depth))
    left, right = max(-reach, stage.left + 0.5), min(reach, stage.right - 0.5)
    length = (right - left) * rng.uniform(0.25, 0.9)
    start = left + (right - left - length) * rng.random()
    box = draw_far_crowd(plate, camera, light, (start, start + length), depth, rng)
    return () if box is None else (box,)


def _random_photo(parameters: CrowdParameters, rng: SceneRandom) -> Photo:
    return Photo(
        noise=rng.integer(*parameters.noise),
        grain=(rng.integer(0, 63), rng.integer(0, 63)),
        blur=rng.uniform(*parameters.blur),
        quality=rng.integer(*parameters.jpeg) if rng.bernoulli(parameters.compressed) else 0,
    )
