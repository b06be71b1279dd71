"""Where the camera stands and where there is room on the ground; draws nothing."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, hypot, log, pi

from dip_env.scenes.procedural.drawing.render.camera import Camera
from dip_env.scenes.procedural.drawing.render.rng import SceneRandom
from dip_env.scenes.procedural.drawing.render.stage import Stage

BODY = 1.7
"""Stature in metres assumed while positions are chosen."""


@dataclass(frozen=True)
class Spot:
    """A position on the ground with the expected image box of a person there.

    Args:
        x: metres to the right.
        z: metres away.
        box: expected image box (left, top, right, bottom) in pixels.
        radius: footprint in metres.
        heading: direction of travel, radians.
    """

    x: float
    z: float
    box: tuple[float, float, float, float]
    radius: float
    heading: float = 0.0


@dataclass(frozen=True)
class Crowding:
    """Limits on the positions of people.

    Args:
        low: smallest wanted height of a person, pixels.
        high: largest wanted height, pixels.
        occlusion: largest share of a person that one nearer person may hide.
        inside: smallest share of a person inside the image.
        company: probability of standing beside somebody who is there already.
        width: expected width of a person, metres.
    """

    low: float
    high: float
    occlusion: float
    inside: float
    company: float
    width: float = 0.62


def random_camera(rng: SceneRandom, kind: str, size: tuple[int, int]) -> Camera:
    """Draw a camera at random.

    Args:
        rng: random source.
        kind: portrait (near people), street (eye height), balcony (looking down) or drone.
        size: of the image, pixels.

    Returns:
        The camera.
    """
    unit = size[1] / 960
    middle = size[1] / 2
    if kind == "portrait":
        row = rng.uniform(0.32, 0.46) * size[1]
        return Camera(size, rng.uniform(950, 1300) * unit, rng.uniform(1.2, 1.75), 0.0, row)
    if kind == "street":
        row = rng.uniform(0.24, 0.42) * size[1]
        return Camera(size, rng.uniform(680, 980) * unit, rng.uniform(1.6, 4.2), 0.0, row)
    if kind == "balcony":
        focal, height = rng.uniform(800, 1150) * unit, rng.uniform(6.0, 11.0)
        return Camera(size, focal, height, rng.uniform(0.32, 0.6), middle)
    focal, height = rng.uniform(800, 1100) * unit, rng.uniform(10.0, 23.0)
    return Camera(size, focal, height, rng.uniform(0.75, 1.25), middle)


def spot_at(
    camera: Camera,
    x: float,
    z: float,
    high: float,
    wide: float,
    radius: float,
    heading: float = 0.0,
) -> Spot:
    """Return the spot at a ground point for something ``high`` and ``wide`` in metres."""
    u, v = camera.project((x, 0.0, z))
    top_u, top_v = camera.project((x, high, z))
    half = camera.scale((x, high / 2, z)) * wide / 2
    box = (min(u, top_u) - half, min(v, top_v), max(u, top_u) + half, max(v, top_v) + half * 0.2)
    return Spot(x, z, box, radius, heading)


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


def within(stage: Stage, camera: Camera, x: float, z: float, margin: float) -> bool:
    """Return whether a ground point lies before the camera and between the walls."""
    return (
        camera.depth((x, 0.0, z)) > 1.0
        and z <= stage.far - margin
        and stage.left + margin < x < stage.right - margin
    )


def find_spot(
    rng: SceneRandom, camera: Camera, stage: Stage, rule: Crowding, taken: list[Spot]
) -> Spot | None:
    """Find room for one more person.

    Args:
        rng: random source.
        camera: the view.
        stage: walls.
        rule: what is allowed.
        taken: spots that are taken already.

    Returns:
        A spot, or None when none was found in 40 attempts.
    """
    width, height = camera.size
    for _ in range(40):
        heading = _heading(rng, stage)
        if taken and rng.bernoulli(rule.company):
            friend = rng.choice(taken)
            x = friend.x + rng.uniform(-1.0, 1.0)
            z = friend.z + rng.uniform(-0.8, 0.8)
            if rng.bernoulli(0.7):
                heading = friend.heading + rng.uniform(-0.25, 0.25)
        elif camera.pitch > 0.2:
            top = max(0.0, camera.horizon / height + 0.03)
            x, z = camera.ground(rng.uniform(0.02, 0.98) * width, rng.uniform(top, 1.05) * height)
        else:
            z = camera.focal * BODY / exp(rng.uniform(log(rule.low), log(rule.high)))
            x = rng.uniform(-0.52, 0.52) * width / camera.focal * z
        if not within(stage, camera, x, z, 0.5):
            continue
        spot = spot_at(camera, x, z, BODY, rule.width, 0.26, heading)
        if _allowed(camera, spot, rule, taken):
            return spot
    return None


def _heading(rng: SceneRandom, stage: Stage) -> float:
    """Return a direction of travel: mostly along a street, any on a plaza."""
    if stage.setting == "street" and rng.bernoulli(0.7):
        return rng.choice((0.0, pi)) + rng.bates(0.0, 0.5)
    return rng.uniform(0, 2 * pi)


def _allowed(camera: Camera, spot: Spot, rule: Crowding, taken: list[Spot]) -> bool:
    tall = camera.scale((spot.x, BODY / 2, spot.z)) * BODY
    if not rule.low * 0.99 <= tall <= rule.high * 1.05:
        return False
    if share_inside(spot, camera.size) < rule.inside:
        return False
    left, top, right, bottom = spot.box
    area = (right - left) * (bottom - top)
    for other in taken:
        if hypot(spot.x - other.x, spot.z - other.z) < spot.radius + other.radius:
            return False
        # The share of the farther box under the nearer one, as ``covered`` computes it: written
        # out, since every spot that is tried meets all that are taken.
        x0, y0, x1, y1 = other.box
        wide = (right if right < x1 else x1) - (left if left > x0 else x0)
        high = (bottom if bottom < y1 else y1) - (top if top > y0 else y0)
        if wide > 0 and high > 0:
            far = area if spot.z > other.z else (x1 - x0) * (y1 - y0)
            if wide * high / far > rule.occlusion:
                return False
    return True
