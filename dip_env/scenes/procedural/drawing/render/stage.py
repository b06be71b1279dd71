"""The setting of a scene: how far one sees, the walls and the lamps."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import hypot

from PIL import Image, ImageChops

from dip_env.resampling import resized
from dip_env.scenes.procedural.drawing.render.camera import Camera
from dip_env.scenes.procedural.drawing.render.rng import SceneRandom

SETTINGS = ("street", "plaza", "park", "shore", "hall")


@dataclass(frozen=True)
class Stage:
    """Extent and lamps of a scene, in metres on the ground.

    Args:
        setting: street, plaza, park, shore or hall.
        far: distance of the nearest wall, wood or water across the view.
        left: x of the wall on the left.
        right: x of the wall on the right.
        lamps: (x, z) of the lamps that are lit.
    """

    setting: str
    far: float
    left: float
    right: float
    lamps: tuple[tuple[float, float], ...] = ()

    def brightness(self, x: float, z: float) -> float:
        """Return the brightness at a ground point relative to the ambient light, at least 1."""
        total = 1.0
        for lx, lz in self.lamps:
            near = hypot(x - lx, z - lz) / LAMP_REACH
            total += (LAMP_GAIN - 1.0) * max(0.0, 1.0 - near * near) ** 2
        return min(total, LAMP_GAIN)


LAMP_REACH = 8.5
"""Radius of a lamp's pool of light, metres."""
LAMP_HEIGHT = 4.6
"""Height of a lamp's light, metres."""
LAMP_COLOUR = (255, 214, 150)
LAMP_GAIN = 2.5
"""Brightness right under a lamp relative to the ambient light."""


def random_stage(
    rng: SceneRandom, settings: tuple[str, ...], wanted: float, pitched: bool
) -> Stage:
    """Draw a stage at random.

    Args:
        rng: random source.
        settings: to choose from.
        wanted: distance in metres at which the smallest wanted person would stand.
        pitched: whether the camera looks down so far that walls are out of view.

    Returns:
        The stage, its lamps unlit.
    """
    setting = rng.choice(settings)
    low, high = {
        "street": (45.0, 120.0),
        "plaza": (22.0, 130.0),
        "park": (36.0, 110.0),
        "shore": (28.0, 110.0),
        "hall": (16.0, 60.0),
    }[setting]
    far = min(high, max(low, wanted * rng.uniform(0.6, 1.2)))
    left, right = -500.0, 500.0
    if setting == "street":
        left, right = -rng.uniform(6.5, 12), rng.uniform(6.5, 12)
    elif setting == "hall":
        half = rng.uniform(7, 12)
        left, right = -half, half
    if pitched:
        far, left, right = 500.0, -500.0, 500.0
    return Stage(setting, far, left, right)


def random_lamps(rng: SceneRandom, stage: Stage) -> tuple[tuple[float, float], ...]:
    """Draw at random where lamps stand: in rows along a street, anywhere on a plaza."""
    if stage.setting == "street":
        gap, start = rng.uniform(11, 17), rng.uniform(4, 12)
        side = (stage.left * 0.6, stage.right * 0.6)
        return tuple((side[k % 2], start + gap * k) for k in range(6) if start + gap * k < 70)
    return tuple(
        (rng.uniform(-0.5, 0.5) * z, z) for z in (5 + 6 * k + rng.uniform(0, 4) for k in range(7))
    )


def lamp_pools(camera: Camera, stage: Stage, reduction: int) -> Image.Image:
    """Return the light of the lamps on the ground, mode L, reduced: 255 right under a lamp."""
    layer = Image.new("L", (camera.size[0] // reduction, camera.size[1] // reduction), 0)
    for x, z in stage.lamps:
        position = (x, 0.0, z)
        if camera.depth(position) < 1.5:
            continue
        u, v = camera.project(position)
        columns, rows, _ = camera.jacobian(position)
        rx = int(columns[0] * LAMP_REACH / reduction)
        ry = int(abs(rows[2]) * LAMP_REACH / reduction)
        add_glow(layer, (int(u / reduction), int(v / reduction)), (rx, ry), 230)
    return layer


def add_glow(
    image: Image.Image,
    centre: tuple[int, int],
    radii: tuple[int, int],
    level: int,
    colour: tuple[int, int, int] | None = None,
) -> None:
    """Add a round fading light to an image in place.

    Args:
        image: mode L, or RGB when a colour is given.
        centre: (column, row) of the light, pixels.
        radii: how far it reaches across and down, pixels.
        level: brightness at the centre, 0..255.
        colour: of the light, for RGB images.
    """
    rx, ry = radii
    x0, y0 = max(0, centre[0] - rx), max(0, centre[1] - ry)
    x1, y1 = min(image.width, centre[0] + rx), min(image.height, centre[1] + ry)
    if x1 <= x0 or y1 <= y0 or rx < 1 or ry < 1:
        return
    part = (
        (x0 - centre[0] + rx) * 128 / rx, (y0 - centre[1] + ry) * 128 / ry,
        (x1 - centre[0] + rx) * 128 / rx, (y1 - centre[1] + ry) * 128 / ry,
    )  # fmt: skip
    glow = resized(_disc(level), (x1 - x0, y1 - y0), Image.Resampling.BILINEAR, box=part)
    box = (x0, y0, x1, y1)
    if colour is not None:
        glow = Image.merge("RGB", [glow.point([v * c // 255 for v in range(256)]) for c in colour])
    image.paste(ImageChops.add(image.crop(box), glow), box)


@cache
def _disc(level: int) -> Image.Image:
    """Return a round light that fades from a level at its centre, mode L, 256 x 256 pixels."""
    fading = [int(level * max(0.0, 1 - v / 180) ** 2) for v in range(256)]
    return Image.radial_gradient("L").point(fading)
