"""The ground of a scene: surface, lanes, beds and markings, painted in perspective."""

from __future__ import annotations

from dataclasses import dataclass, replace

from PIL import Image, ImageDraw

from dip_env.scenes.procedural.drawing.render.camera import Camera
from dip_env.scenes.procedural.drawing.render.colours import Colour, dimmed, ink
from dip_env.scenes.procedural.drawing.render.light import Light
from dip_env.scenes.procedural.drawing.render.rng import SceneRandom
from dip_env.scenes.procedural.drawing.render.stage import LAMP_GAIN, Stage
from dip_env.scenes.procedural.drawing.render.textures import SIDE
from dip_env.scenes.procedural.drawing.scenery.surface import lay_surface

SURFACES: dict[str, tuple[Colour, ...]] = {
    "asphalt": ((104, 104, 108), (88, 90, 94), (120, 118, 116)),
    "paving": ((176, 168, 156), (158, 154, 148), (186, 172, 150), (146, 140, 136)),
    "cobbles": ((134, 128, 122), (150, 138, 124), (116, 114, 114)),
    "grass": ((98, 128, 66), (112, 132, 74), (84, 116, 62)),
    "sand": ((206, 188, 152), (196, 180, 148)),
    "tiles": ((204, 200, 192), (184, 182, 180), (196, 182, 160), (150, 152, 156)),
}
SEEN = 160.0
"""Ground farther away than this is haze, metres."""


@dataclass(frozen=True)
class Patch:
    """A rectangle of ground of another colour; metres, endless where a bound is infinite."""

    left: float
    right: float
    near: float
    far: float
    colour: Colour


@dataclass(frozen=True)
class Ground:
    """What the ground is made of.

    Args:
        surface: a key of ``SURFACES``; gives the texture.
        colour: of the surface.
        patches: paths, roads with kerbs and beds, painted in order.
        road: (left, right) of a road with markings, metres, or None.
        crossings: distances of zebra crossings over the road, metres.
        joints: spacing of drawn paving joints in metres, 0 for none.
        offset: position in the texture, texels.
    """

    surface: str
    colour: Colour
    patches: tuple[Patch, ...] = ()
    road: tuple[float, float] | None = None
    crossings: tuple[float, ...] = ()
    joints: float = 0.0
    offset: tuple[int, int] = (0, 0)


ENDLESS = 1000.0


def random_ground(rng: SceneRandom, stage: Stage, from_above: bool = False) -> Ground:
    """Draw a ground at random that fits a stage.

    Args:
        rng: random source.
        stage: gives the setting and the width of a street.
        from_above: whether beds and paths far from the camera's axis are seen.

    Returns:
        The ground.
    """
    surface = {
        "street": rng.choice(("paving", "asphalt", "paving")),
        "plaza": rng.choice(("paving", "cobbles", "tiles")),
        "park": rng.choice(("grass", "grass", "sand")),
        "shore": rng.choice(("sand", "sand", "paving")),
        "hall": "tiles",
    }[stage.setting]
    colour = rng.jitter(rng.choice(SURFACES[surface]), 14)
    offset = (rng.integer(0, SIDE - 1), rng.integer(0, SIDE - 1))
    plain = Ground(surface, colour, offset=offset)
    if stage.setting == "street":
        return _street(rng, stage, plain)
    if stage.setting == "park":
        left = rng.uniform(-5.0, 0.5)
        gravel = rng.jitter((190, 176, 150), 16)
        patches = [Patch(left, left + rng.uniform(2.5, 5.0), -ENDLESS, ENDLESS, gravel)]
        if from_above or rng.bernoulli(0.3):
            start = rng.uniform(8, 24)
            wide = rng.uniform(2.5, 5.0)
            patches.append(Patch(-ENDLESS, ENDLESS, start, start + wide, gravel))
        return replace(plain, patches=tuple(patches))
    joints = rng.choice((1.5, 2.0, 3.0)) if rng.bernoulli(0.6) else 0.0
    beds: list[Patch] = []
    if from_above and stage.setting == "plaza":
        for _ in range(rng.integer(1, 4)):
            x, z = rng.uniform(-14, 10), rng.uniform(0, 26)
            wide, deep = rng.uniform(3, 8), rng.uniform(2, 6)
            beds.append(Patch(x - 0.3, x + wide + 0.3, z - 0.3, z + deep + 0.3, (196, 190, 180)))
            beds.append(Patch(x, x + wide, z, z + deep, rng.jitter((96, 124, 66), 14)))
    if stage.setting == "shore":
        joints = 0.0
    return replace(plain, joints=joints, patches=tuple(beds))


def _street(rng: SceneRandom, stage: Stage, plain: Ground) -> Ground:
    """Put a road with kerbs on one side of a street, or along its middle."""
    left = rng.uniform(-7.0, -2.0) if rng.bernoulli(0.5) else rng.uniform(0.5, 3.0)
    right = left + rng.uniform(5.0, 7.5)
    if stage.left > -100:  # keep a pavement before the houses
        left, right = max(left, stage.left + 1.5), min(right, stage.right - 1.5)
    kerb = dimmed(plain.colour, 1.1)
    asphalt = rng.jitter(rng.choice(SURFACES["asphalt"]), 10)
    patches = (
        Patch(left - 0.2, right + 0.2, -ENDLESS, ENDLESS, kerb),
        Patch(left, right, -ENDLESS, ENDLESS, asphalt),
    )
    crossings = (rng.uniform(5.0, 24.0),) if rng.bernoulli(0.6) else ()
    return replace(plain, patches=patches, road=(left, right), crossings=crossings)


def draw_ground(
    plate: Image.Image,
    camera: Camera,
    ground: Ground,
    light: Light,
    shadows: Image.Image,
    pools: Image.Image | None = None,
) -> None:
    """Paint the ground below the horizon.

    Args:
        plate: RGB image of the scene's size, painted in place.
        camera: the view.
        ground: what to paint.
        light: colours and haze.
        shadows: cover of cast shadows in 0..255, mode L, the whole scene at a reduced size.
        pools: light of lamps in 0..255, mode L, reduced likewise, or None for no lamps.
    """
    height = camera.size[1]
    top = max(0, round(camera.horizon) + 1)
    if top >= height:
        return
    if pools is not None:  # painted as lit all over; the dark between the pools comes after
        red, green, blue = light.gain
        light = replace(light, gain=(red * LAMP_GAIN, green * LAMP_GAIN, blue * LAMP_GAIN * 0.8))
    brush = Brush(plate, camera, light, top)
    brush.bands(ground.colour)
    for patch in ground.patches:
        brush.patch(patch)
    if ground.road is not None:
        _markings(brush, ground.road, ground.crossings)
    if ground.joints:
        _joints(brush, ground)
    lay_surface(plate, camera, ground.surface, ground.offset, shadows, light.shadow_strength, pools)


class Brush:
    """Paints level rectangles of the world, cut where the image ends and fading into haze."""

    def __init__(self, plate: Image.Image, camera: Camera, light: Light, top: int) -> None:
        """Measure which part of the ground is seen."""
        self.draw = ImageDraw.Draw(plate)
        self.camera = camera
        self.light = light
        self.top = top
        middle, bottom = camera.size[0] / 2, camera.size[1]
        self.near = camera.ground(middle, bottom)[1] - 0.5
        self.far = min(SEEN, camera.ground(middle, top)[1])
        if camera.pitch < 0.2:
            self.near = max(self.near * 0.9, 0.3)
        self.reach = abs(camera.ground(0.0, top)[0]) + 5.0

    def bands(self, colour: Colour) -> None:
        """Fill the ground with its colour, row by row fading into the haze."""
        width, height = self.camera.size
        row = self.top
        while row < height:
            step = max(2, (row - self.top) // 6) if row - self.top < 200 else 40
            z = min(SEEN, self.camera.ground(width / 2, row + step / 2)[1])
            seen = self.light.tone(self.camera.depth((0.0, 0.0, z)))(colour)
            self.draw.rectangle((0, row, width, row + step), ink(seen))
            row += step

    def patch(self, patch: Patch) -> None:
        """Fill a rectangle of ground, in pieces so that far ones fade."""
        near, far = max(patch.near, self.near), min(patch.far, self.far)
        left, right = max(patch.left, -self.reach), min(patch.right, self.reach)
        while near < far:
            depth = max(1.0, self.camera.depth((0.0, 0.0, near)))
            ahead = min(far, near + 1.0 + depth * 0.5)
            self.quad((left, right), (near, ahead), patch.colour, depth * 1.2)
            near = ahead

    def quad(
        self, x: tuple[float, float], z: tuple[float, float], colour: Colour, depth: float
    ) -> None:
        """Fill one level rectangle in the colour it has at a depth in metres."""
        seen = self.light.tone(depth)(colour)
        corners = ((x[0], z[0]), (x[1], z[0]), (x[1], z[1]), (x[0], z[1]))
        points = [self.camera.project((px, 0.0, pz)) for px, pz in corners]
        self.draw.polygon([(round(u), round(v)) for u, v in points], ink(seen))


def _markings(brush: Brush, road: tuple[float, float], crossings: tuple[float, ...]) -> None:
    left, right = road
    middle, white = (left + right) / 2, (222.0, 220.0, 212.0)
    for side in (left + 0.2, right - 0.2):
        brush.patch(Patch(side - 0.05, side + 0.05, -ENDLESS, ENDLESS, white))
    z = brush.near - brush.near % 4.0
    while z < min(brush.far, 70.0):
        if not any(start - 2.0 < z < start + 3.5 for start in crossings):
            brush.patch(Patch(middle - 0.07, middle + 0.07, z, z + 2.0, white))
        z += 4.0
    for start in crossings:
        x = left + 0.35
        while x < right - 0.5:
            brush.patch(Patch(x, x + 0.45, start, start + 3.0, white))
            x += 0.95


def _joints(brush: Brush, ground: Ground) -> None:
    dark, step = dimmed(ground.colour, 0.84), ground.joints
    camera, depth = brush.camera, 4.0
    z = brush.near - brush.near % step + step
    while z < brush.far:  # until the joints are too close together to be resolved
        gap = camera.project((0.0, 0.0, z))[1] - camera.project((0.0, 0.0, z + step))[1]
        depth = camera.depth((0.0, 0.0, z))
        if gap < 4:
            break
        reach = abs(camera.size[0] / 2 / camera.focal * depth) * 1.1
        brush.quad((-reach, reach), (z, z + 0.02 + 0.001 * depth), dark, depth)
        z += step
    lines = int(min(camera.size[0] / 2 / camera.focal * max(depth, 4.0), 40.0) / step) + 1
    for k in range(-lines, lines + 1):
        brush.patch(Patch(k * step - 0.02, k * step + 0.02, -ENDLESS, z, dark))
