"""An endless source of drawn crowds: what is in a scene, by chance and by preset."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from math import pi
from types import MappingProxyType
from typing import Any

import numpy as np
from PIL import Image

from dip_env.errors import ConfigError
from dip_env.scenes.base import Scene
from dip_env.scenes.drawing.camera import Camera
from dip_env.scenes.drawing.compose import Thing, Truth, cast_shadows, paint
from dip_env.scenes.drawing.dice import Dice
from dip_env.scenes.drawing.figures import draw_figure
from dip_env.scenes.drawing.ground import draw_ground, random_ground
from dip_env.scenes.drawing.light import Light, random_light
from dip_env.scenes.drawing.lookalikes import RADIUS as LOOKALIKE_RADIUS
from dip_env.scenes.drawing.lookalikes import draw_lookalike
from dip_env.scenes.drawing.people import random_person
from dip_env.scenes.drawing.photo import Photo, finish
from dip_env.scenes.drawing.placement import (
    BODY,
    Crowding,
    Spot,
    covered,
    find_spot,
    random_camera,
    share_inside,
    spot_at,
)
from dip_env.scenes.drawing.props import RADIUS as PROP_RADIUS
from dip_env.scenes.drawing.props import draw_prop
from dip_env.scenes.drawing.skyline import draw_sky, draw_skyline, random_depth

LENGTH = 2**31 - 1
SPLITS = ("train", "val", "test")
REFERENCE_HEIGHT = 960
"""Heights in pixels are stated for an image this high and scale with the image."""


@dataclass(frozen=True)
class CrowdParameters:
    """What the scenes of a procedural source are like."""

    people: tuple[int, int] = (8, 40)
    """Density: fewest and most people drawn."""
    heights: tuple[float, float] = (12.0, 350.0)
    """Scale range: smallest and largest person, pixels of an image 960 high."""
    small_extra: float = 0.0
    """Chance of one more, small person (10 to 15 % of the image height)."""
    occlusion: float = 0.75
    """Largest share of a person that one nearer person may hide when places are chosen, 0..1."""
    furniture: tuple[int, int] = (2, 8)
    """Fewest and most pieces of street furniture."""
    lookalikes: tuple[int, int] = (0, 3)
    """Fewest and most things that look like people and are none."""
    lookalike_kinds: tuple[str, ...] = ("statue", "poster", "coat_pole", "mannequin")
    """Which look-alikes may stand there."""
    far_crowd: float = 0.4
    """Chance of a dense far crowd, which is an ignore region."""
    lighting: tuple[str, ...] = ("day", "day", "day", "dusk")
    """Kinds of light to choose from: sun, overcast, day (either), dusk, night."""
    camera: str = "street"
    """Camera: portrait (near people), street (eye height), balcony (looking down) or drone."""
    settings: tuple[str, ...] = ("street", "plaza", "park", "shore", "hall")
    """Surroundings to choose from."""
    noise: tuple[int, int] = (2, 8)
    """Sensor noise, grey levels."""
    blur: float = 0.0
    """Largest radius of the softness, pixels."""
    jpeg: tuple[int, int] = (70, 95)
    """JPEG quality."""
    hidden_share: float = 0.05
    """People of whom a smaller share is seen are ignored."""
    size: tuple[int, int] = (1280, 960)
    """(width, height) of the image, pixels."""

    def __post_init__(self) -> None:
        """Check every value once.

        Raises:
            ConfigError: for a value that cannot work; the message names the field.
        """
        for name in ("people", "heights", "furniture", "lookalikes", "noise", "jpeg"):
            low, high = _pair(name, getattr(self, name))
            if not 0 <= low <= high:
                raise ConfigError(f"{name}: expected 0 <= low <= high, got {(low, high)!r}")
        if self.people[1] > 250:
            raise ConfigError(f"people: expected at most 250, got {self.people[1]!r}")
        if self.heights[0] < 6:
            raise ConfigError(f"heights: expected at least 6 pixels, got {self.heights[0]!r}")
        for name in ("small_extra", "occlusion", "far_crowd", "hidden_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name}: expected 0..1, got {getattr(self, name)!r}")
        width, height = _pair("size", self.size)
        if not (isinstance(width, int) and isinstance(height, int) and min(width, height) >= 64):
            raise ConfigError(f"size: expected two integers >= 64, got {self.size!r}")
        for name, choices in (
            ("lighting", ("sun", "overcast", "day", "dusk", "night")),
            ("settings", ("street", "plaza", "park", "shore", "hall")),
            ("lookalike_kinds", tuple(LOOKALIKE_RADIUS)),
        ):
            got = getattr(self, name)
            if not got or any(item not in choices for item in got):
                raise ConfigError(f"{name}: expected some of {choices}, got {got!r}")
        if self.camera not in ("portrait", "street", "balcony", "drone"):
            raise ConfigError(
                f"camera: expected portrait, street, balcony or drone, got {self.camera!r}"
            )


def _pair(name: str, value: Any) -> tuple[Any, Any]:
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise ConfigError(f"{name}: expected two numbers, got {value!r}")
    return value[0], value[1]


PRESETS: Mapping[str, CrowdParameters] = MappingProxyType(
    {
        "easy": CrowdParameters(
            people=(1, 5), heights=(240.0, 560.0), small_extra=0.3, occlusion=0.12,
            furniture=(0, 2), lookalikes=(0, 1), lookalike_kinds=("statue", "poster", "coat_pole"),
            far_crowd=0.0, lighting=("day",), camera="portrait", noise=(2, 5), jpeg=(80, 95),
        ),
        "crowd": CrowdParameters(),
        "night": CrowdParameters(
            lighting=("night",), noise=(9, 16), jpeg=(45, 75), settings=("street", "plaza"),
            people=(6, 30),
        ),
        "drone": CrowdParameters(
            camera="drone", heights=(14.0, 110.0), people=(10, 60), occlusion=0.5, far_crowd=0.0,
            settings=("street", "plaza", "park"), lookalikes=(0, 2),
        ),
        "dense": CrowdParameters(
            people=(70, 160), heights=(12.0, 260.0), occlusion=0.9, camera="balcony",
            furniture=(0, 4), far_crowd=0.8, settings=("street", "plaza", "park"),
        ),
    }
)  # fmt: skip
"""Named parameters: ``easy`` and ``crowd`` to train on, the others to test out of domain."""


class ProceduralCrowd:
    """An endless, deterministic source of drawn crowds; item i depends on (seed, split, i) only.

    Args:
        preset: a name from ``PRESETS``.
        seed: which of the many sources, a non-negative integer.
        split: train, val or test; splits share no scene.
        **overrides: fields of ``CrowdParameters`` that replace those of the preset.

    Raises:
        ConfigError: for an unknown preset, split or field, or a value that cannot work.
    """

    def __init__(
        self, preset: str = "crowd", seed: int = 0, split: str = "train", **overrides: Any
    ) -> None:
        """Check the choices."""
        if preset not in PRESETS:
            raise ConfigError(f"preset: expected one of {sorted(PRESETS)}, got {preset!r}")
        if split not in SPLITS:
            raise ConfigError(f"split: expected one of {list(SPLITS)}, got {split!r}")
        if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
            raise ConfigError(f"seed: expected an integer >= 0, got {seed!r}")
        known = [f.name for f in fields(CrowdParameters)]
        for name in overrides:
            if name not in known:
                raise ConfigError(f"unknown parameter {name!r}; expected one of {sorted(known)}")
        self.preset = preset
        self.seed = seed
        self.split = split
        self.parameters = replace(PRESETS[preset], **overrides)

    def __len__(self) -> int:
        """Return the number of scenes, 2**31 - 1."""
        return LENGTH

    def __getitem__(self, index: int) -> Scene:
        """Return scene ``index``, drawn now: the truth is measured on what is drawn.

        Raises:
            IndexError: outside ``range(len(self))``; negative indices have no meaning here.
        """
        if not 0 <= index < LENGTH:
            raise IndexError(f"scene index: expected 0 to {LENGTH - 1}, got {index}")
        dice = Dice(self.seed, SPLITS.index(self.split), int(index))
        image, truth, regions, counts = draw_scene(self.parameters, dice)
        name = f"{self.preset}-{self.seed}-{self.split}-{int(index)}"
        return _as_scene(name, image, truth, regions, counts, self.parameters)


def _as_scene(
    name: str, image: Image.Image, truth: Truth, regions: list[tuple[int, int, int, int]],
    counts: dict[str, Any], parameters: CrowdParameters,
) -> Scene:  # fmt: skip
    kept = [k for k, box in enumerate(truth.visible) if box is not None]
    boxes = [truth.boxes[k] for k in kept] + regions
    visible = [truth.visible[k] for k in kept] + regions
    shares = [truth.shares[k] for k in kept] + [1.0] * len(regions)
    ignore = [truth.shares[k] < parameters.hidden_share for k in kept] + [True] * len(regions)
    labels = ("person",) * len(kept) + ("crowd",) * len(regions)
    return Scene(
        scene_id=name,
        size=image.size,
        boxes=np.array(boxes, dtype=np.float32).reshape(-1, 4),
        visible_boxes=np.array(visible, dtype=np.float32).reshape(-1, 4),
        visible_share=np.array(shares, dtype=np.float32),
        ignore=np.array(ignore, dtype=np.bool_),
        labels=labels,
        load_image=lambda: image,
        notes={**counts, "hidden": len(truth.boxes) - len(kept)},
    )


def draw_scene(
    parameters: CrowdParameters, dice: Dice
) -> tuple[Image.Image, Truth, list[tuple[int, int, int, int]], dict[str, Any]]:
    """Choose and draw one scene.

    Args:
        parameters: what scenes are like.
        dice: source of chance of this scene.

    Returns:
        The image, the truth about its people, ignore regions, and counts for the notes.
    """
    setting = dice.pick(parameters.settings)
    kind = "indoor" if setting == "hall" else dice.pick(parameters.lighting)
    light = random_light(dice, kind)
    camera = random_camera(dice, parameters.camera, parameters.size)
    plate = Image.new("RGB", parameters.size)
    wanted = camera.focal * BODY / (parameters.heights[0] * camera.size[1] / REFERENCE_HEIGHT)
    far = random_depth(dice, setting, wanted)
    people = _place_people(parameters, camera, far, dice)
    things, names = _furnish(parameters, camera, light, far, people, setting, dice)
    things += _dress(camera, light, people, dice)
    ground = random_ground(dice, setting)
    draw_sky(plate, camera, light, dice)
    draw_ground(plate, camera, ground, light, cast_shadows(things, camera, light))
    draw_skyline(plate, camera, light, setting, far, dice)
    truth = paint(plate, things)
    photo = Photo(
        noise=dice.whole(*parameters.noise),
        grain=(dice.whole(0, 63), dice.whole(0, 63)),
        blur=dice.uniform(0, parameters.blur),
        quality=dice.whole(*parameters.jpeg),
    )
    counts = {
        "drawn": len(truth.boxes), "setting": setting, "light": light.kind, "things": tuple(names)
    }  # fmt: skip
    return finish(plate, photo), truth, [], counts


def _place_people(
    parameters: CrowdParameters, camera: Camera, far: float, dice: Dice
) -> list[Spot]:
    unit = camera.size[1] / REFERENCE_HEIGHT
    low, high = (h * unit for h in parameters.heights)
    close = parameters.camera == "portrait"
    rule = Crowding(
        low, high, far, parameters.occlusion, 0.995 if close else 0.7, 0.12 if close else 0.3,
        0.85 if close else 0.62,
    )  # fmt: skip
    spots: list[Spot] = []
    for _ in range(dice.whole(*parameters.people)):
        spot = find_spot(dice, camera, rule, spots)
        if spot is not None:
            spots.append(spot)
    if dice.chance(parameters.small_extra) and len(spots) < parameters.people[1]:
        height = camera.size[1]
        small = Crowding(0.1 * height, 0.15 * height, far, 0.0, 0.995, 0.0)
        spot = find_spot(dice, camera, small, spots)
        if spot is not None:
            spots.append(spot)
    return spots


def _dress(camera: Camera, light: Light, spots: list[Spot], dice: Dice) -> list[Thing]:
    things: list[Thing] = []
    warm = light.kind in ("sun", "dusk", "indoor")
    wet = 0.12 if light.kind == "overcast" else 0.02
    for spot in spots:
        place = (spot.x, 0.0, spot.z)
        depth = camera.depth(place)
        seated = camera.pitch < 0.2 and dice.chance(0.07)
        heading = dice.uniform(pi - 0.8, pi + 0.8) if seated else None
        person = random_person(dice, heading, "sit" if seated else None, umbrellas=wet, warm=warm)
        if seated:
            bench = draw_prop("bench", camera, place, person.heading - pi, light, dice)
            things.append(Thing(place, depth + 0.3, tuple(bench)))
        tone = light.tone(depth)
        sprite = draw_figure(person, camera, place, tone, light.side)
        if sprite is not None:
            things.append(Thing(place, depth, (sprite,), person=True))
    return things


_KINDS = {
    "street": ("bench", "bollard", "bin", "lamp_post", "car", "cone", "barrier", "tree", "planter"),
    "plaza": ("bench", "bollard", "bin", "lamp_post", "planter", "cafe_table", "kiosk", "barrier"),
    "park": ("bench", "bin", "hedge", "tree", "lamp_post", "hedge", "planter"),
    "shore": ("bench", "bin", "cafe_table", "barrier", "planter", "bollard"),
    "hall": ("bench", "bin", "planter", "barrier", "bollard", "kiosk"),
}
_HEIGHT = {
    "bench": 0.9, "bollard": 0.85, "bin": 1.0, "hedge": 1.2, "lamp_post": 6.0, "tree": 6.0,
    "planter": 0.9, "car": 1.7, "cone": 0.75, "barrier": 1.1, "kiosk": 2.5, "cafe_table": 2.5,
    "statue": 3.0, "poster": 2.4, "coat_pole": 1.9, "mannequin": 1.8,
}  # fmt: skip


def _furnish(
    parameters: CrowdParameters, camera: Camera, light: Light, far: float, people: list[Spot],
    setting: str, dice: Dice,
) -> tuple[list[Thing], list[str]]:  # fmt: skip
    """Place look-alikes and furniture between the people."""
    kinds = [
        dice.pick(parameters.lookalike_kinds) for _ in range(dice.whole(*parameters.lookalikes))
    ]
    kinds += [dice.pick(_KINDS[setting]) for _ in range(dice.whole(*parameters.furniture))]
    taken = list(people)
    things: list[Thing] = []
    names: list[str] = []
    for kind in kinds:
        spot = _find_room(parameters, camera, kind, far, taken, dice)
        if spot is None:
            continue
        taken.append(spot)
        place = (spot.x, 0.0, spot.z)
        if kind in LOOKALIKE_RADIUS:
            sprites = draw_lookalike(kind, camera, place, light, dice)
        else:
            turn = dice.pick((0.0, pi / 2, pi)) + dice.uniform(-0.2, 0.2)
            sprites = draw_prop(kind, camera, place, turn, light, dice)
        things.append(Thing(place, camera.depth(place), tuple(sprites)))
        names.append(kind)
    return things, names


def _find_room(
    parameters: CrowdParameters, camera: Camera, kind: str, far: float, taken: list[Spot],
    dice: Dice,
) -> Spot | None:  # fmt: skip
    radius = PROP_RADIUS.get(kind) or LOOKALIKE_RADIUS[kind]
    high = _HEIGHT[kind]
    width, height = camera.size
    for _ in range(20):
        row = dice.uniform(max(0.0, camera.horizon / height + 0.03), 1.0) * height
        x, z = camera.ground(dice.uniform(0.0, 1.0) * width, row)
        if not 2.5 < z < far:
            continue
        spot = spot_at(camera, x, z, high, radius * 1.8, radius)
        if share_inside(spot, camera.size) < 0.3:
            continue
        if all(
            (spot.x - other.x) ** 2 + (spot.z - other.z) ** 2 > (radius + other.radius + 0.1) ** 2
            and (other.z < z or covered(other.box, spot.box) <= parameters.occlusion * 0.8)
            for other in taken
        ):
            return spot
    return None
