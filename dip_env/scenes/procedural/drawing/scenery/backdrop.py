"""Draws house fronts and woods on upright rectangles of the world."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image, ImageChops, ImageDraw

from dip_env.scenes.procedural.drawing.render.camera import Camera, Point, Vector
from dip_env.scenes.procedural.drawing.render.colours import Colour, dimmed, ink
from dip_env.scenes.procedural.drawing.render.filler import Filler
from dip_env.scenes.procedural.drawing.render.light import Light
from dip_env.scenes.procedural.drawing.render.rng import SceneRandom
from dip_env.scenes.procedural.drawing.render.textures import frayed, leaf_grain

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

    def __init__(self, plate: Image.Image, camera: Camera, light: Light, rng: SceneRandom) -> None:
        """Store what every shape needs."""
        self.plate = plate
        self.draw = ImageDraw.Draw(plate)
        self.filler = Filler(plate)
        self.camera = camera
        self.light = light
        self.rng = rng

    def patch(
        self, wall: Wall, along: tuple[float, float], up: tuple[float, float], colour: Colour
    ) -> None:
        """Fill a rectangle of a wall."""
        project = self.camera.project
        (low, high), (x0, z0), (x1, z1) = up, wall.start, wall.end
        points: list[int] = []
        for a, bottom, top in ((along[0], high, low), (along[1], low, high)):
            x, z = x0 + (x1 - x0) * a, z0 + (z1 - z0) * a
            for h in (bottom, top):
                u, v = project((x, h, z))
                points += (round(u), round(v))
        self.filler.polygon(points, ink(colour))

    def facade(self, wall: Wall, facing: float = 1.0) -> None:
        """Draw a house front: wall, plinth, shop or doors below, windows above, a cornice.

        Args:
            wall: where it stands.
            facing: brightness of a wall turned that way.
        """
        rng = self.rng
        depth = max(1.0, (wall.start[1] + wall.end[1]) / 2)
        tone = self.light.tone(depth, facing)
        length = abs(wall.end[0] - wall.start[0]) + abs(wall.end[1] - wall.start[1])
        base = rng.jitter(rng.choice(WALLS), 16)
        self.patch(wall, (0, 1), (0, wall.height), tone(base))
        trim = dimmed(base, 1.12)
        self.patch(wall, (0, 1), (wall.height - 0.5, wall.height), tone(trim))
        storey = rng.uniform(3.0, 3.8)
        bays = max(1, int(length / rng.uniform(2.4, 4.2)))
        ground_floor = rng.uniform(3.4, 4.2)
        night = self.light.kind == "night"
        glass = rng.jitter((70, 84, 96), 14)
        wide = rng.uniform(0.22, 0.36)
        level, rows = ground_floor, 0
        near = self.camera.scale(wall.at(0.5, 0.0))
        while level + storey < wall.height and rows < 6:
            self.patch(wall, (0, 1), (level - 0.12, level + 0.05), tone(trim))
            for bay in range(bays):
                centre = (bay + 0.5) / bays
                half = wide / bays
                lit = night and rng.bernoulli(0.3)
                pane = (250, 214, 140) if lit else tone(rng.jitter(glass, 10))
                low, high = level + 0.9, level + storey - 0.55
                frame = 0.1 / length
                self.patch(
                    wall, (centre - half - frame, centre + half + frame), (low - 0.1, high + 0.1),
                    tone(trim),
                )  # fmt: skip
                self.patch(wall, (centre - half, centre + half), (low, high), pane)
                if near > 26:
                    self._window_details(wall, (centre, half), (low, high), tone(trim), pane)
            level += storey
            rows += 1
        self._ground_floor(wall, bays, ground_floor, glass, trim, depth, facing)

    def _window_details(
        self, wall: Wall, along: Point, up: Point, frame: Colour, pane: Colour
    ) -> None:
        """Give a window that is seen close a reflection, bars and a sill."""
        (centre, half), (low, high) = along, up
        bright = (min(255, pane[0] * 1.25 + 8), min(255, pane[1] * 1.25 + 8),
                  min(255, pane[2] * 1.25 + 10))  # fmt: skip
        self.patch(wall, (centre - half, centre), ((low + high) / 2, high), bright)
        bar = half * 0.06
        self.patch(wall, (centre - bar, centre + bar), (low, high), frame)
        middle = low + (high - low) * 0.6
        self.patch(wall, (centre - half, centre + half), (middle - 0.03, middle + 0.03), frame)
        sill = (centre - half * 1.15, centre + half * 1.15)
        self.patch(wall, sill, (low - 0.16, low - 0.06), dimmed(frame, 0.75))

    def _ground_floor(
        self,
        wall: Wall,
        bays: int,
        top: float,
        glass: Colour,
        trim: Colour,
        depth: float,
        facing: float,
    ) -> None:
        rng, night = self.rng, self.light.kind == "night"
        tone = self.light.tone(depth, facing)
        shop = rng.bernoulli(0.6)
        awning = rng.jitter(rng.choice(AWNINGS), 10)
        for bay in range(bays):
            centre, half = (bay + 0.5) / bays, 0.38 / bays
            if shop and bay % 3 != 2:
                pane: Colour = (255, 226, 168) if night else tone(rng.jitter(glass, 22))
                self.patch(wall, (centre - half, centre + half), (0.5, top - 0.9), pane)
                self.patch(
                    wall, (centre - half, centre - half * 0.2), (0.5, 1.1),
                    tone(rng.jitter((130, 110, 96), 50)),
                )  # fmt: skip
                self.patch(
                    wall, (centre - half * 1.1, centre + half * 1.1), (top - 0.95, top - 0.3),
                    tone(awning),
                )  # fmt: skip
            elif rng.bernoulli(0.6):
                door = rng.jitter((84, 62, 48), 26)
                self.patch(wall, (centre - half * 0.55, centre + half * 0.55), (0, 2.6), tone(trim))
                self.patch(wall, (centre - half * 0.42, centre + half * 0.42), (0, 2.4), tone(door))
            else:
                self.patch(wall, (centre - half * 0.7, centre + half * 0.7), (1.0, 2.7), tone(trim))
                self.patch(
                    wall, (centre - half * 0.6, centre + half * 0.6), (1.1, 2.6),
                    (250, 214, 140) if night and rng.bernoulli(0.4) else tone(glass),
                )  # fmt: skip
        self.patch(wall, (0, 1), (0, 0.35), tone(dimmed(trim, 0.6)))

    def tree_line(self, depth: float, low: float, high: float) -> None:
        """Draw a wall of foliage at a depth, its tops between two heights in metres."""
        rng, camera = self.rng, self.camera
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
            crown = rng.uniform(low, high)
            radius = crown * rng.uniform(0.28, 0.42)
            green = rng.jitter((86, 108, 58), 20)
            for k in range(7):
                r = radius * (1.0 if k == 0 else rng.uniform(0.35, 0.65)) * scale
                shift = 0.0 if k == 0 else rng.uniform(-0.8, 0.8) * radius
                up = crown - radius if k == 0 else crown - radius * rng.uniform(0.5, 1.8)
                u, v = camera.project((x + shift, up, depth))
                v -= top
                lit = 0.7 + 0.4 * min(1.0, up / crown)
                seen = tone(dimmed(green, lit))
                oval = (u - r, v - r, u + r, v + r)
                leaf.ellipse(oval, ink(seen))
                brush.ellipse(oval, 255)
                if k == 0:
                    trunk = (u - r, v, u + r, base)
                    dark = tone(dimmed(green, 0.55))
                    leaf.rectangle(trunk, ink(dark))
                    brush.rectangle(trunk, 255)
            x += radius * rng.uniform(0.7, 1.5)
        grain = leaf_grain(
            colours.size, max(0.5, scale / 60), (rng.integer(0, 400), rng.integer(0, 400))
        )
        edge = frayed(mask, grain, max(2.0, scale * 0.12))
        leafy = ImageChops.multiply(colours, Image.merge("RGB", (grain,) * 3))
        self.plate.paste(leafy, (0, top), edge)
