"""The ground of a scene: surface, lanes, markings and their texture in perspective."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw

from dip_env.scenes.drawing.camera import Camera
from dip_env.scenes.drawing.dice import Dice
from dip_env.scenes.drawing.light import Light
from dip_env.scenes.drawing.sketch import Colour
from dip_env.scenes.drawing.textures import SIDE, ground_tile

SURFACES: dict[str, tuple[Colour, ...]] = {
    "asphalt": ((104, 104, 108), (88, 90, 94), (120, 118, 116)),
    "paving": ((176, 168, 156), (158, 154, 148), (186, 172, 150), (146, 140, 136)),
    "cobbles": ((134, 128, 122), (150, 138, 124), (116, 114, 114)),
    "grass": ((98, 128, 66), (112, 132, 74), (84, 116, 62)),
    "sand": ((206, 188, 152), (196, 180, 148)),
    "tiles": ((204, 200, 192), (184, 182, 180), (196, 182, 160), (150, 152, 156)),
}
METRES = {"asphalt": 6.0, "paving": 2.4, "cobbles": 2.4, "grass": 5.0, "sand": 7.0, "tiles": 2.6}
"""How many metres of ground one texture tile covers."""


@dataclass(frozen=True)
class Lane:
    """A strip of ground along the line of sight, from ``left`` to ``right`` metres."""

    left: float
    right: float
    colour: Colour


@dataclass(frozen=True)
class Ground:
    """What the ground is made of.

    Args:
        surface: a key of ``SURFACES``; gives the texture.
        colour: of the surface.
        lanes: strips of other colour, drawn in order.
        crossings: distances of zebra crossings over the lanes, metres.
        joints: spacing of drawn paving joints in metres, 0 for none.
        offset: place in the texture, texels.
    """

    surface: str
    colour: Colour
    lanes: tuple[Lane, ...] = ()
    crossings: tuple[float, ...] = ()
    joints: float = 0.0
    offset: tuple[int, int] = (0, 0)


def random_ground(dice: Dice, setting: str) -> Ground:
    """Draw a ground by chance that fits a setting (street, plaza, park, shore or hall)."""
    surface = {
        "street": dice.pick(("paving", "asphalt", "paving")),
        "plaza": dice.pick(("paving", "cobbles", "tiles")),
        "park": dice.pick(("grass", "grass", "sand")),
        "shore": dice.pick(("sand", "sand", "paving")),
        "hall": "tiles",
    }[setting]
    colour = dice.jitter(dice.pick(SURFACES[surface]), 14)
    lanes: list[Lane] = []
    crossings: list[float] = []
    joints = 0.0
    if setting == "street":
        left = dice.uniform(-7.0, -2.0) if dice.chance(0.5) else dice.uniform(1.5, 4.0)
        right = left + dice.uniform(5.0, 8.0)
        kerb = (colour[0] * 0.82, colour[1] * 0.82, colour[2] * 0.82)
        lanes = [
            Lane(left - 0.25, right + 0.25, kerb),
            Lane(left, right, dice.jitter(dice.pick(SURFACES["asphalt"]), 10)),
        ]
        if dice.chance(0.6):
            crossings = [dice.uniform(5.0, 22.0)]
    elif setting == "park":
        left = dice.uniform(-5.0, 0.5)
        lanes = [Lane(left, left + dice.uniform(2.5, 5.0), dice.jitter((190, 176, 150), 16))]
    elif setting in ("plaza", "hall") and dice.chance(0.6):
        joints = dice.pick((1.5, 2.0, 3.0))
    offset = (dice.whole(0, SIDE - 1), dice.whole(0, SIDE - 1))
    return Ground(surface, colour, tuple(lanes), tuple(crossings), joints, offset)


def draw_ground(
    plate: Image.Image, camera: Camera, ground: Ground, light: Light, shadows: Image.Image
) -> None:
    """Paint the ground below the horizon.

    Args:
        plate: RGB image of the scene's size, painted in place.
        camera: the view.
        ground: what to paint.
        light: colours and haze.
        shadows: cover of cast shadows in 0..255, mode L, the whole scene at any reduced size.
    """
    width, height = camera.size
    top = max(0, round(camera.horizon) + 1)
    if top >= height:
        return
    draw = ImageDraw.Draw(plate)
    _paint_bands(draw, camera, ground.colour, light, top)
    far = _distance(camera, top)
    near = _distance(camera, height) * 0.9
    for lane in ground.lanes:
        _lane(draw, camera, light, lane, near, far)
    if len(ground.lanes) > 1:
        _markings(draw, camera, light, ground, near, far)
    if ground.joints:
        _joints(draw, camera, light, ground, near)
    _texture(plate, camera, ground, top, shadows, light.shadow_strength)


def _distance(camera: Camera, row: float) -> float:
    return min(camera.ground(camera.size[0] / 2, row)[1], 160.0)


def _paint_bands(
    draw: ImageDraw.ImageDraw, camera: Camera, colour: Colour, light: Light, top: int
) -> None:
    """Fill the ground with its colour, row by row fading into the haze."""
    width, height = camera.size
    row = top
    while row < height:
        step = max(2, (row - top) // 6) if row - top < 200 else 40
        depth = _distance(camera, row + step / 2)
        r, g, b = light.tone(depth)(colour)
        draw.rectangle((0, row, width, row + step), (int(r), int(g), int(b)))
        row += step


def quad(
    draw: ImageDraw.ImageDraw, camera: Camera, x: tuple[float, float], z: tuple[float, float],
    colour: Colour, height: float = 0.0,
) -> None:  # fmt: skip
    """Fill a level rectangle of the world."""
    corners = ((x[0], z[0]), (x[1], z[0]), (x[1], z[1]), (x[0], z[1]))
    points = [camera.project((px, height, pz)) for px, pz in corners]
    draw.polygon([(round(u), round(v)) for u, v in points], _ints(colour))


def _ints(colour: Colour) -> tuple[int, int, int]:
    return int(colour[0]), int(colour[1]), int(colour[2])


def _lane(
    draw: ImageDraw.ImageDraw, camera: Camera, light: Light, lane: Lane, near: float, far: float
) -> None:
    z = near
    while z < far:
        ahead = min(far, z * 1.5 + 1.0)
        quad(draw, camera, (lane.left, lane.right), (z, ahead), light.tone(z * 1.2)(lane.colour))
        z = ahead


def _markings(
    draw: ImageDraw.ImageDraw, camera: Camera, light: Light, ground: Ground, near: float, far: float
) -> None:
    road = ground.lanes[-1]
    middle = (road.left + road.right) / 2
    white = (222, 220, 212)
    z = max(near - near % 4.0, 0.0)
    while z < min(far, 60.0):
        if z + 2.0 > near:
            quad(draw, camera, (middle - 0.07, middle + 0.07), (max(z, near), z + 2.0),
                 light.tone(z)(white))  # fmt: skip
        z += 4.0
    for side in (road.left + 0.2, road.right - 0.2):
        quad(draw, camera, (side - 0.05, side + 0.05), (near, far), light.tone(near * 2)(white))
    for start in ground.crossings:
        x = road.left + 0.3
        while x < road.right - 0.4 and start + 3.0 > near:
            quad(draw, camera, (x, x + 0.45), (max(start, near), start + 3.0),
                 light.tone(start)(white))  # fmt: skip
            x += 0.95


def _joints(
    draw: ImageDraw.ImageDraw, camera: Camera, light: Light, ground: Ground, near: float
) -> None:
    c = ground.colour
    colour = light.tone(near * 2)((c[0] * 0.84, c[1] * 0.84, c[2] * 0.84))
    far = min(26.0, _distance(camera, max(camera.horizon + 8, 0)))
    reach = camera.size[0] / 2 / camera.focal * far
    step = ground.joints
    lines = int(min(reach, 24.0) / step)
    for k in range(-lines, lines + 1):
        quad(draw, camera, (k * step - 0.02, k * step + 0.02), (near, far), colour)
    z = near - near % step + step
    while z < far:
        quad(draw, camera, (-reach * 1.2, reach * 1.2), (z, z + 0.03), colour)
        z += step


def _texture(
    plate: Image.Image, camera: Camera, ground: Ground, top: int, shadows: Image.Image,
    strength: float,
) -> None:  # fmt: skip
    """Multiply the ground with its texture and shadows, at half resolution, faded where fine."""
    width, height = camera.size
    rows = np.arange(top + 1, height, 2)
    left, z = camera.ground_rows(rows)
    per_metre = SIDE / METRES[ground.surface]
    step = -left * (4.0 / width) * per_metre  # texels per half-resolution pixel
    grow = np.abs(np.gradient(z)) * per_metre if len(z) > 1 else step
    keep = np.clip(3.0 / np.maximum(np.maximum(step, grow * 0.5), 1e-6), 0.0, 1.0)
    columns = np.arange((width + 1) // 2, dtype=np.int32)
    # Texel positions in 1/4096: whole numbers, so that every machine picks the same texels.
    first = ((left * per_metre) % SIDE * 4096).astype(np.int32) + (ground.offset[0] << 12)
    u = first[:, None] + np.minimum(step * 4096, 1 << 20).astype(np.int32)[:, None] * columns
    u >>= 12
    u &= SIDE - 1
    u += ((((z * per_metre) % SIDE).astype(np.int32) + ground.offset[1]) % SIDE * SIDE)[:, None]
    tile = ground_tile(ground.surface)
    values = np.asarray(tile).ravel()[u].astype(np.uint16)
    part = (0, top / height * shadows.height, shadows.width, shadows.height)
    cover = shadows.resize((len(columns), len(rows)), Image.Resampling.BILINEAR, box=part)
    dim = _shadow_gain(strength)[np.asarray(cover)]
    weights = (keep * 255).astype(np.uint16)[:, None]
    values *= weights
    values += (255 - weights) * np.uint16(round(float(np.asarray(tile).mean())))
    values >>= 8
    values *= dim
    values >>= 8
    shade = Image.fromarray(values.astype(np.uint8)).resize(
        (width, height - top), Image.Resampling.BILINEAR
    )
    region = (0, top, width, height)
    lit = ImageChops.multiply(plate.crop(region), Image.merge("RGB", (shade,) * 3))
    plate.paste(lit, region)


def _shadow_gain(strength: float) -> NDArray[np.uint16]:
    """Return what is left of the light, in 1/256, for every shadow cover 0..255."""
    return (256 - np.arange(256) * strength).astype(np.uint16)
