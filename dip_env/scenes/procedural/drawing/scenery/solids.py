"""Objects built from boxes, posts, drums and plates in their own frame, and drawn shaded."""

from __future__ import annotations

from collections.abc import Sequence
from math import cos, pi, sin

from PIL import Image, ImageChops

from dip_env.scenes.procedural.drawing.render.camera import Camera, Point, Vector
from dip_env.scenes.procedural.drawing.render.canvas import BEHIND, Sketch, Sprite
from dip_env.scenes.procedural.drawing.render.colours import Colour, Tone, dimmed
from dip_env.scenes.procedural.drawing.render.light import Light
from dip_env.scenes.procedural.drawing.render.outlines import ellipse_outline
from dip_env.scenes.procedural.drawing.render.rng import SceneRandom
from dip_env.scenes.procedural.drawing.render.textures import frayed, leaf_grain


class Model:
    """Builds a thing from boxes, posts and plates in its own metres and draws it shaded.

    Args:
        camera: the view.
        position: world point under the thing.
        heading: turn around the vertical, radians.
        tone: colour under the scene's light at that depth.
        light: for the brightness of faces.
    """

    def __init__(
        self,
        camera: Camera,
        position: Vector,
        heading: float,
        tone: Tone,
        light: Light,
    ) -> None:
        """Start an empty sketch."""
        self.camera = camera
        self.position = position
        self.turn = (cos(heading), sin(heading))
        self.tone = tone
        self.side = light.side[0]
        self.night = light.kind == "night"
        self.sketch = Sketch(min(camera.scale(position), 400.0), light.side)

    def world(self, p: Vector) -> Vector:
        """Return the world point of a point of the thing."""
        c, s = self.turn
        x0, y0, z0 = self.position
        return x0 + p[0] * c + p[2] * s, y0 + p[1], z0 - p[0] * s + p[2] * c

    def to_local(self, p: Vector) -> Vector:
        """Return the thing's own coordinates of a world point."""
        c, s = self.turn
        x, z = p[0] - self.position[0], p[2] - self.position[2]
        return x * c - z * s, p[1] - self.position[1], x * s + z * c

    def at(self, p: Vector) -> Point:
        """Return the scene pixel of a point of the thing."""
        return self.camera.project(self.world(p))

    def face(self, corners: Sequence[Vector], colour: Colour, bias: float = 0.0) -> None:
        """Add a flat polygon."""
        depth = sum(self.camera.depth(self.world(p)) for p in corners) / len(corners)
        self.sketch.add(
            [self.at(p) for p in corners], self.tone(colour), depth + bias, BEHIND, shade=236
        )

    def box(self, low: Vector, high: Vector, colour: Colour, bias: float = 0.0) -> None:
        """Add a box: its top and the sides that face the camera, each with its brightness."""
        (x0, y0, z0), (x1, y1, z1) = low, high
        faces = (
            (((x0, y1, z0), (x1, y1, z0), (x1, y1, z1), (x0, y1, z1)), (0.0, 1.0, 0.0)),
            (((x0, y0, z0), (x1, y0, z0), (x1, y1, z0), (x0, y1, z0)), (0.0, 0.0, -1.0)),
            (((x0, y0, z1), (x1, y0, z1), (x1, y1, z1), (x0, y1, z1)), (0.0, 0.0, 1.0)),
            (((x0, y0, z0), (x0, y0, z1), (x0, y1, z1), (x0, y1, z0)), (-1.0, 0.0, 0.0)),
            (((x1, y0, z0), (x1, y0, z1), (x1, y1, z1), (x1, y1, z0)), (1.0, 0.0, 0.0)),
        )
        c, s = self.turn
        for corners, (nx, ny, nz) in faces:
            wx, wz = nx * c + nz * s, -nx * s + nz * c
            px, py, pz = self.world(corners[0])
            if wx * px + ny * (py - self.camera.height) + wz * pz >= 0:
                continue
            shade = 1.12 if ny else 0.86 + 0.14 * wx * self.side
            self.face(corners, dimmed(colour, shade), bias)

    def post(self, p: Vector, q: Vector, radii: tuple[float, float], colour: Colour) -> None:
        """Add a round post between two points, radii in metres."""
        a, b = self.world(p), self.world(q)
        sa, sb = self.camera.scale(a), self.camera.scale(b)
        self.sketch.capsule(
            self.camera.project(a), self.camera.project(b), (radii[0] * sa, radii[1] * sb),
            self.tone(colour), (self.camera.depth(a) + self.camera.depth(b)) / 2, BEHIND,
        )  # fmt: skip

    def drum(self, low: float, high: float, radii: tuple[float, float], colour: Colour) -> None:
        """Add an upright round body with a lid, radii below and above in metres."""
        ring = [(cos(2 * pi * k / 14), sin(2 * pi * k / 14)) for k in range(14)]
        base = [self.at((radii[0] * c, low, radii[0] * s)) for c, s in ring]
        top = [self.at((radii[1] * c, high, radii[1] * s)) for c, s in ring]
        depth = self.camera.depth(self.position)
        self.sketch.hull(base + top, self.tone(colour), depth, BEHIND)
        lid = dimmed(colour, 1.14)
        self.sketch.add(top, self.tone(lid), depth - 0.3, BEHIND, shade=240)

    def blob(self, p: Vector, radius: float, colour: Colour, flat: float = 0.9) -> None:
        """Add a round mass of leaves or stone."""
        world = self.world(p)
        r = radius * self.camera.scale(world)
        centre = self.camera.project(world)
        lit = ellipse_outline(
            (centre[0] + self.sketch.light[0] * r * 0.25, centre[1] - r * 0.2), r * 0.66, r * 0.6
        )
        self.sketch.add(
            ellipse_outline(centre, r, r * flat), self.tone(colour), self.camera.depth(world),
            BEHIND, lit, 176,
        )  # fmt: skip

    def render(self, rng: SceneRandom, rough: bool = False, leafy: bool = False) -> list[Sprite]:
        """Return the sprite of the thing, rough as stone or leafy, or nothing without a size."""
        scale = self.sketch.scale
        grain = (rng.integer(0, 3000), rng.integer(0, 3000)) if rough else None
        sprite = self.sketch.render(3 if scale < 40 else 2, grain)
        if sprite is None:
            return []
        if leafy:
            sprite = _leafy(sprite, rng, scale)
        return [sprite]


def _leafy(sprite: Sprite, rng: SceneRandom, scale: float) -> Sprite:
    """Give a sprite the texture and the frayed edge of leaves."""
    grain = leaf_grain(sprite.image.size, scale / 90, (rng.integer(0, 500), rng.integer(0, 500)))
    image = ImageChops.multiply(sprite.image, Image.merge("RGB", (grain,) * 3))
    return Sprite(image, frayed(sprite.alpha, grain, scale * 0.09), None, None, sprite.origin)
