"""What stands behind the ground: buildings, trees, the sea or the walls of a hall."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image, ImageChops, ImageDraw

from dip_env.scenes.drawing.camera import Camera, Point, Vector
from dip_env.scenes.drawing.dice import Dice
from dip_env.scenes.drawing.light import Light
from dip_env.scenes.drawing.sketch import Colour
from dip_env.scenes.drawing.stage import Stage
from dip_env.scenes.drawing.textures import frayed, leaf_grain

WALLS: tuple[Colour, ...] = (
    (186, 160, 132), (168, 108, 84), (204, 192, 170), (150, 148, 146), (196, 172, 120),
    (128, 138, 148), (212, 206, 196), (158, 126, 104), (142, 96, 80), (176, 184, 180),
    (206, 170, 150), (120, 116, 112),
)  # fmt: skip
AWNINGS: tuple[Colour, ...] = (
    (150, 44, 42), (40, 84, 70), (44, 62, 102), (206, 176, 88), (88, 60, 44), (200, 198, 190),
)  # fmt: skip


@dataclass(frozen=True)
class Wall:
    """An upright rectangle of the world from ``start`` to ``end`` (x, z), ``height`` metres."""

    start: Point
    end: Point
    height: float

    def at(self, along: float, up: float) -> Vector:
        """Return the world point at ``along`` 0..1 and ``up`` metres."""
        (x0, z0), (x1, z1) = self.start, self.end
        return x0 + (x1 - x0) * along, up, z0 + (z1 - z0) * along


class Backdrop:
    """Draws walls, windows and trees on a plate under one camera and light."""

    def __init__(self, plate: Image.Image, camera: Camera, light: Light, dice: Dice) -> None:
        """Keep what every shape needs."""
        self.plate = plate
        self.draw = ImageDraw.Draw(plate)
        self.camera = camera
        self.light = light
        self.dice = dice

    def patch(
        self, wall: Wall, along: tuple[float, float], up: tuple[float, float], colour: Colour
    ) -> None:
        """Fill a rectangle of a wall."""
        corners = ((along[0], up[0]), (along[1], up[0]), (along[1], up[1]), (along[0], up[1]))
        points = [self.camera.project(wall.at(a, h)) for a, h in corners]
        self.draw.polygon(
            [(round(u), round(v)) for u, v in points],
            (int(colour[0]), int(colour[1]), int(colour[2])),
        )

    def facade(self, wall: Wall, facing: float = 1.0) -> None:
        """Draw a house front: wall, plinth, shop or doors below, windows above, a cornice.

        Args:
            wall: where it stands.
            facing: brightness of a wall turned that way.
        """
        dice = self.dice
        depth = max(1.0, (wall.start[1] + wall.end[1]) / 2)
        tone = self.light.tone(depth, facing)
        length = abs(wall.end[0] - wall.start[0]) + abs(wall.end[1] - wall.start[1])
        base = dice.jitter(dice.pick(WALLS), 16)
        self.patch(wall, (0, 1), (0, wall.height), tone(base))
        trim = (min(255, base[0] * 1.12), min(255, base[1] * 1.12), min(255, base[2] * 1.12))
        self.patch(wall, (0, 1), (wall.height - 0.5, wall.height), tone(trim))
        storey = dice.uniform(3.0, 3.8)
        bays = max(1, int(length / dice.uniform(2.4, 4.2)))
        ground_floor = dice.uniform(3.4, 4.2)
        night = self.light.kind == "night"
        glass = dice.jitter((70, 84, 96), 14)
        wide = dice.uniform(0.22, 0.36)
        level, rows = ground_floor, 0
        while level + storey < wall.height and rows < 6:
            self.patch(wall, (0, 1), (level - 0.12, level + 0.05), tone(trim))
            for bay in range(bays):
                centre = (bay + 0.5) / bays
                half = wide / bays
                lit = night and dice.chance(0.3)
                pane = (250, 214, 140) if lit else tone(dice.jitter(glass, 10))
                low, high = level + 0.9, level + storey - 0.55
                frame = 0.1 / length
                self.patch(
                    wall, (centre - half - frame, centre + half + frame), (low - 0.1, high + 0.1),
                    tone(trim),
                )  # fmt: skip
                self.patch(wall, (centre - half, centre + half), (low, high), pane)
            level += storey
            rows += 1
        self._ground_floor(wall, bays, ground_floor, glass, trim, depth, facing)

    def _ground_floor(
        self, wall: Wall, bays: int, top: float, glass: Colour, trim: Colour, depth: float,
        facing: float,
    ) -> None:  # fmt: skip
        dice, night = self.dice, self.light.kind == "night"
        tone = self.light.tone(depth, facing)
        shop = dice.chance(0.6)
        awning = dice.jitter(dice.pick(AWNINGS), 10)
        for bay in range(bays):
            centre, half = (bay + 0.5) / bays, 0.38 / bays
            if shop and bay % 3 != 2:
                pane: Colour = (255, 226, 168) if night else tone(dice.jitter(glass, 22))
                self.patch(wall, (centre - half, centre + half), (0.5, top - 0.9), pane)
                self.patch(
                    wall, (centre - half, centre - half * 0.2), (0.5, 1.1),
                    tone(dice.jitter((130, 110, 96), 50)),
                )  # fmt: skip
                self.patch(
                    wall, (centre - half * 1.1, centre + half * 1.1), (top - 0.95, top - 0.3),
                    tone(awning),
                )  # fmt: skip
            elif dice.chance(0.6):
                door = dice.jitter((84, 62, 48), 26)
                self.patch(wall, (centre - half * 0.55, centre + half * 0.55), (0, 2.6), tone(trim))
                self.patch(wall, (centre - half * 0.42, centre + half * 0.42), (0, 2.4), tone(door))
            else:
                self.patch(wall, (centre - half * 0.7, centre + half * 0.7), (1.0, 2.7), tone(trim))
                self.patch(
                    wall, (centre - half * 0.6, centre + half * 0.6), (1.1, 2.6),
                    (250, 214, 140) if night and dice.chance(0.4) else tone(glass),
                )  # fmt: skip
        self.patch(wall, (0, 1), (0, 0.35), tone((trim[0] * 0.6, trim[1] * 0.6, trim[2] * 0.6)))

    def tree_line(self, depth: float, low: float, high: float) -> None:
        """Draw a wall of foliage at a depth, its tops between two heights in metres."""
        dice, camera = self.dice, self.camera
        width, height = camera.size
        scale = camera.focal / depth
        reach = width / 2 / scale * 1.1
        base = camera.project((0, 0, depth))[1]
        top = max(0, int(camera.project((0, high * 1.1, depth))[1]))
        bottom = min(height, round(base) + 1)
        if bottom - top < 2:
            return
        tone = self.light.tone(depth)
        colours = Image.new("RGB", (width, bottom - top))
        mask = Image.new("L", colours.size, 0)
        leaf, brush = ImageDraw.Draw(colours), ImageDraw.Draw(mask)
        x = -reach
        while x < reach:
            crown = dice.uniform(low, high)
            radius = crown * dice.uniform(0.28, 0.42)
            green = dice.jitter((86, 108, 58), 20)
            for k in range(7):
                r = radius * (1.0 if k == 0 else dice.uniform(0.35, 0.65)) * scale
                shift = 0.0 if k == 0 else dice.uniform(-0.8, 0.8) * radius
                up = crown - radius if k == 0 else crown - radius * dice.uniform(0.5, 1.8)
                u, v = camera.project((x + shift, up, depth))
                v -= top
                lit = 0.7 + 0.4 * min(1.0, up / crown)
                seen = tone((green[0] * lit, green[1] * lit, green[2] * lit))
                oval = (u - r, v - r, u + r, v + r)
                leaf.ellipse(oval, (int(seen[0]), int(seen[1]), int(seen[2])))
                brush.ellipse(oval, 255)
                if k == 0:
                    trunk = (u - r, v, u + r, base)
                    dark = tone((green[0] * 0.55, green[1] * 0.55, green[2] * 0.55))
                    leaf.rectangle(trunk, (int(dark[0]), int(dark[1]), int(dark[2])))
                    brush.rectangle(trunk, 255)
            x += radius * dice.uniform(0.7, 1.5)
        grain = leaf_grain(
            colours.size, max(0.5, scale / 60), (dice.whole(0, 400), dice.whole(0, 400))
        )
        edge = frayed(mask, grain, max(2.0, scale * 0.12))
        leafy = ImageChops.multiply(colours, Image.merge("RGB", (grain,) * 3))
        self.plate.paste(leafy, (0, top), edge)


def draw_skyline(
    plate: Image.Image, camera: Camera, light: Light, stage: Stage, dice: Dice
) -> None:
    """Paint what stands behind the ground of a stage, over sky and ground.

    Args:
        plate: RGB image of the scene's size, painted in place.
        camera: the view.
        light: colours and haze.
        stage: setting and walls.
        dice: source of chance.
    """
    backdrop = Backdrop(plate, camera, light, dice)
    if stage.setting == "hall":
        _hall(backdrop, stage)
    elif stage.setting == "park":
        if dice.chance(0.4):
            _row(backdrop, stage.far + dice.uniform(25, 60), 14, 26)
        backdrop.tree_line(stage.far, 4.0, 9.0)
    elif stage.setting == "shore":
        _shore(backdrop, stage.far)
    elif stage.setting == "plaza":
        _row(backdrop, stage.far + 25, 16, 30)
        _row(backdrop, stage.far, 8, 20)
    else:
        _canyon(backdrop, stage)


def _row(backdrop: Backdrop, depth: float, low: float, high: float) -> None:
    """A row of houses across the view."""
    dice, camera = backdrop.dice, backdrop.camera
    reach = camera.size[0] / 2 / camera.focal * depth + 2
    x = -reach - dice.uniform(0, 8)
    while x < reach:
        width = dice.uniform(8, 18)
        wall = Wall((x, depth), (x + width, depth), dice.uniform(low, high))
        if dice.chance(0.9):
            backdrop.facade(wall, dice.uniform(0.85, 1.0))
        x += width


def _canyon(backdrop: Backdrop, stage: Stage) -> None:
    """Houses along both sides of a street that runs away from the camera."""
    dice, far = backdrop.dice, stage.far
    _row(backdrop, far + dice.uniform(5, 40), 10, 26)
    if dice.chance(0.5):
        backdrop.tree_line(far + 1.0, 4.0, 9.0)
    sides = ((stage.left, dice.uniform(0.7, 1.0)), (stage.right, dice.uniform(0.7, 1.0)))
    for x, facing in sides:
        z = far
        while z > 2.5:
            nearer = max(2.0, z - dice.uniform(8, 16) * (1.0 if z < 60 else 1.6))
            ends = ((x, nearer), (x, z)) if x < 0 else ((x, z), (x, nearer))
            if dice.chance(0.93):
                backdrop.facade(Wall(*ends, dice.uniform(8, 20)), facing)
            z = nearer


def _shore(backdrop: Backdrop, edge: float) -> None:
    """Sea up to the horizon with a strip of foam."""
    camera, light, dice = backdrop.camera, backdrop.light, backdrop.dice
    row = camera.project((0, 0, edge))[1]
    top = camera.horizon
    sea = dice.jitter((70, 120, 142), 18)
    steps = 14
    for k in range(steps):
        t = (k + 0.5) / steps
        colour = light.tone(90 * (1 - t))((sea[0] + 30 * t, sea[1] + 26 * t, sea[2] + 14 * t))
        low, high = top + (row - top) * k / steps, top + (row - top) * (k + 1) / steps
        backdrop.draw.rectangle(
            (0, round(low), camera.size[0], round(high)), tuple(int(c) for c in colour)
        )
    foam = light.tone(edge)((236, 238, 236))
    backdrop.draw.rectangle(
        (0, round(row), camera.size[0], round(row + max(1.0, camera.focal / edge * 0.06))),
        tuple(int(c) for c in foam),
    )


def _hall(backdrop: Backdrop, stage: Stage) -> None:
    """A station or mall: back wall with panels, side walls, a lit ceiling."""
    camera, light, dice = backdrop.camera, backdrop.light, backdrop.dice
    half, depth, height = stage.right, stage.far, dice.uniform(4.5, 7.5)
    wall = dice.jitter(dice.pick(((206, 200, 188), (176, 182, 186), (190, 172, 150))), 12)
    corners = [(-half, 1.0), (half, 1.0), (half, depth), (-half, depth)]
    ceiling = [camera.project((x, height, z)) for x, z in corners]
    backdrop.draw.polygon([(round(u), round(v)) for u, v in ceiling],
                          tuple(int(c) for c in light.tone(4)((226, 222, 212))))  # fmt: skip
    for k in range(int(depth // 4)):
        for x in (-half / 2, half / 2):
            lamp = [(x - 0.8, 2 + 4 * k), (x + 0.8, 2 + 4 * k), (x + 0.8, 3 + 4 * k),
                    (x - 0.8, 3 + 4 * k)]  # fmt: skip
            points = [camera.project((px, height - 0.02, pz)) for px, pz in lamp]
            backdrop.draw.polygon([(round(u), round(v)) for u, v in points], (255, 252, 240))
    sides = (
        Wall((-half, 1.0), (-half, depth), height),
        Wall((half, depth), (half, 1.0), height),
        Wall((-half, depth), (half, depth), height),
    )
    for k, side in enumerate(sides):
        shade = light.tone(depth * 0.7, 0.86 if k < 2 else 0.95)
        backdrop.patch(side, (0, 1), (0, height), shade(wall))
        backdrop.patch(side, (0, 1), (0, 0.2), shade((90, 86, 80)))
        panels = int(depth // 4) if k < 2 else int(half * 2 // 4)
        for panel in range(panels):
            middle, wide = (panel + 0.5) / panels, 0.36 / panels
            colour = dice.jitter(dice.pick(((66, 84, 104), (150, 60, 52), (214, 206, 190),
                                            (80, 110, 96), (58, 58, 64))), 20)  # fmt: skip
            high = min(3.2, height - 0.6)
            backdrop.patch(side, (middle - wide, middle + wide), (0.3, high), shade(colour))
            backdrop.patch(
                side, (middle - wide, middle + wide), (high - 0.5, high), shade((232, 228, 218))
            )
