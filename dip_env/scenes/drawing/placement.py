"""Where the camera stands and where people and things stand on the ground; draws nothing."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, hypot, log

from dip_env.scenes.drawing.camera import Camera
from dip_env.scenes.drawing.dice import Dice

BODY = 1.7
"""Stature in metres that stands for a person while places are chosen."""


@dataclass(frozen=True)
class Spot:
    """A place on the ground with the picture of whoever stands there.

    Args:
        x: metres to the right.
        z: metres away.
        box: expected picture (left, top, right, bottom) in pixels.
        radius: footprint in metres.
    """

    x: float
    z: float
    box: tuple[float, float, float, float]
    radius: float


def random_camera(dice: Dice, kind: str, size: tuple[int, int]) -> Camera:
    """Draw a camera by chance.

    Args:
        dice: source of chance.
        kind: portrait (near people), street (eye height), balcony (looking down) or drone.
        size: of the image, pixels.

    Returns:
        The camera.
    """
    unit = size[1] / 960
    middle = size[1] / 2
    if kind == "portrait":
        row = dice.uniform(0.32, 0.46) * size[1]
        return Camera(size, dice.uniform(950, 1300) * unit, dice.uniform(1.2, 1.75), 0.0, row)
    if kind == "street":
        row = dice.uniform(0.26, 0.42) * size[1]
        return Camera(size, dice.uniform(680, 980) * unit, dice.uniform(1.6, 4.2), 0.0, row)
    if kind == "balcony":
        return Camera(
            size, dice.uniform(800, 1150) * unit, dice.uniform(6.0, 11.0),
            dice.uniform(0.32, 0.6), middle,
        )  # fmt: skip
    return Camera(
        size, dice.uniform(800, 1100) * unit, dice.uniform(14.0, 28.0), dice.uniform(0.75, 1.25),
        middle,
    )  # fmt: skip


def spot_at(camera: Camera, x: float, z: float, high: float, wide: float, radius: float) -> Spot:
    """Return the spot at a ground point for something ``high`` and ``wide`` in metres."""
    u, v = camera.project((x, 0.0, z))
    top_u, top_v = camera.project((x, high, z))
    half = camera.scale((x, high / 2, z)) * wide / 2
    box = (min(u, top_u) - half, min(v, top_v), max(u, top_u) + half, max(v, top_v) + half * 0.2)
    return Spot(x, z, box, radius)


def covered(box: tuple[float, ...], by: tuple[float, ...]) -> float:
    """Return the share of ``box`` that lies under ``by``."""
    wide = min(box[2], by[2]) - max(box[0], by[0])
    high = min(box[3], by[3]) - max(box[1], by[1])
    if wide <= 0 or high <= 0:
        return 0.0
    return wide * high / ((box[2] - box[0]) * (box[3] - box[1]))


def share_inside(spot: Spot, size: tuple[int, int]) -> float:
    """Return the share of the expected picture inside the image."""
    return covered(spot.box, (0.0, 0.0, float(size[0]), float(size[1])))


@dataclass(frozen=True)
class Crowding:
    """How places may be chosen.

    Args:
        low: smallest wanted picture height of a person, pixels.
        high: largest wanted picture height, pixels.
        far: nobody stands farther away than this, metres.
        occlusion: largest share of a person that one nearer person may hide.
        inside: smallest share of a person inside the image.
        company: chance to stand beside somebody who is there already.
        width: expected width of a person, metres.
    """

    low: float
    high: float
    far: float
    occlusion: float
    inside: float
    company: float
    width: float = 0.62


def find_spot(dice: Dice, camera: Camera, rule: Crowding, taken: list[Spot]) -> Spot | None:
    """Find room for one more person.

    Args:
        dice: source of chance.
        camera: the view.
        rule: what is allowed.
        taken: spots that are taken already.

    Returns:
        A spot, or None when none was found in 40 attempts.
    """
    width, height = camera.size
    for _ in range(40):
        if taken and dice.chance(rule.company):
            friend = dice.pick(taken)
            x = friend.x + dice.uniform(-1.0, 1.0)
            z = friend.z + dice.uniform(-0.8, 0.8)
        elif camera.pitch > 0.2:
            x, z = camera.ground(
                dice.uniform(0.02, 0.98) * width,
                dice.uniform(max(0.0, camera.horizon / height + 0.03), 1.05) * height,
            )
        else:
            tall = exp(dice.uniform(log(rule.low), log(rule.high)))
            z = camera.focal * BODY / tall
            x = dice.uniform(-0.52, 0.52) * width / camera.focal * z
        if not 0.3 < z <= rule.far:
            continue
        spot = spot_at(camera, x, z, BODY, rule.width, 0.26)
        if allowed(camera, spot, rule, taken):
            return spot
    return None


def allowed(camera: Camera, spot: Spot, rule: Crowding, taken: list[Spot]) -> bool:
    """Return whether a person may stand at a spot."""
    tall = spot.box[3] - spot.box[1]
    if not rule.low * 0.95 <= tall <= rule.high * 1.1 or share_inside(
        spot, camera.size
    ) < rule.inside:  # fmt: skip
        return False
    for other in taken:
        if hypot(spot.x - other.x, spot.z - other.z) < spot.radius + other.radius:
            return False
        far, near = (spot, other) if spot.z > other.z else (other, spot)
        if covered(far.box, near.box) > rule.occlusion:
            return False
    return True
