"""What stands behind the ground: houses, woods, the sea or the walls of a hall."""

from __future__ import annotations

from PIL import Image

from dip_env.scenes.procedural.drawing.render.camera import Camera
from dip_env.scenes.procedural.drawing.render.colours import ink
from dip_env.scenes.procedural.drawing.render.light import Light
from dip_env.scenes.procedural.drawing.render.rng import SceneRandom
from dip_env.scenes.procedural.drawing.render.stage import Stage
from dip_env.scenes.procedural.drawing.scenery.backdrop import Backdrop, Wall


def draw_skyline(
    plate: Image.Image, camera: Camera, light: Light, stage: Stage, rng: SceneRandom
) -> None:
    """Paint what stands behind the ground of a stage, over sky and ground.

    Args:
        plate: RGB image of the scene's size, painted in place.
        camera: the view.
        light: colours and haze.
        stage: setting and walls.
        rng: random source.
    """
    backdrop = Backdrop(plate, camera, light, rng)
    if stage.setting == "hall":
        _hall(backdrop, stage)
    elif stage.setting == "park":
        if rng.bernoulli(0.4):
            _row(backdrop, stage.far + rng.uniform(25, 60), 14, 26)
        raised = max(0.0, camera.height - 3.0)  # woods hide the horizon, also from a balcony
        backdrop.tree_line(stage.far, 4.0 + raised, 9.0 + raised)
    elif stage.setting == "shore":
        _shore(backdrop, stage.far)
    elif stage.setting == "plaza":
        _row(backdrop, stage.far + 25, 16, 30)
        _row(backdrop, stage.far, 8, 20)
    else:
        _canyon(backdrop, stage)


def _row(backdrop: Backdrop, depth: float, low: float, high: float) -> None:
    """A row of houses across the view."""
    rng, camera = backdrop.rng, backdrop.camera
    reach = camera.size[0] / 2 / camera.focal * depth + 2
    x = -reach - rng.uniform(0, 8)
    while x < reach:
        width = rng.uniform(8, 18)
        wall = Wall((x, depth), (x + width, depth), rng.uniform(low, high))
        if rng.bernoulli(0.9):
            backdrop.facade(wall, rng.uniform(0.85, 1.0))
        x += width


def _canyon(backdrop: Backdrop, stage: Stage) -> None:
    """Houses along both sides of a street that runs away from the camera."""
    rng, far = backdrop.rng, stage.far
    _row(backdrop, far + rng.uniform(5, 40), 10, 26)
    if rng.bernoulli(0.5):
        backdrop.tree_line(far + 1.0, 4.0, 9.0)
    sides = ((stage.left, rng.uniform(0.7, 1.0)), (stage.right, rng.uniform(0.7, 1.0)))
    for x, facing in sides:
        z = far
        while z > 2.5:
            nearer = max(2.0, z - rng.uniform(8, 16) * (1.0 if z < 60 else 1.6))
            ends = ((x, nearer), (x, z)) if x < 0 else ((x, z), (x, nearer))
            if rng.bernoulli(0.93):
                backdrop.facade(Wall(*ends, rng.uniform(8, 20)), facing)
            z = nearer


def _shore(backdrop: Backdrop, edge: float) -> None:
    """Sea up to the horizon with a strip of foam."""
    camera, light, rng = backdrop.camera, backdrop.light, backdrop.rng
    row = camera.project((0, 0, edge))[1]
    top = camera.horizon
    sea = rng.jitter((70, 120, 142), 18)
    steps = 14
    for k in range(steps):
        t = (k + 0.5) / steps
        colour = light.tone(90 * (1 - t))((sea[0] + 30 * t, sea[1] + 26 * t, sea[2] + 14 * t))
        low, high = top + (row - top) * k / steps, top + (row - top) * (k + 1) / steps
        backdrop.draw.rectangle((0, round(low), camera.size[0], round(high)), ink(colour))
    foam = light.tone(edge)((236, 238, 236))
    backdrop.draw.rectangle(
        (0, round(row), camera.size[0], round(row + max(1.0, camera.focal / edge * 0.06))),
        ink(foam),
    )


def _hall(backdrop: Backdrop, stage: Stage) -> None:
    """A station or mall: back wall with panels, side walls, a lit ceiling."""
    camera, light, rng = backdrop.camera, backdrop.light, backdrop.rng
    half, depth, height = stage.right, stage.far, rng.uniform(4.5, 7.5)
    wall = rng.jitter(rng.choice(((206, 200, 188), (176, 182, 186), (190, 172, 150))), 12)
    corners = [(-half, 1.0), (half, 1.0), (half, depth), (-half, depth)]
    ceiling = [camera.project((x, height, z)) for x, z in corners]
    backdrop.draw.polygon([(round(u), round(v)) for u, v in ceiling],
                          ink(light.tone(4)((200, 196, 186))))  # fmt: skip
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
            colour = rng.jitter(rng.choice(((66, 84, 104), (150, 60, 52), (214, 206, 190),
                                            (80, 110, 96), (58, 58, 64))), 20)  # fmt: skip
            high = min(3.2, height - 0.6)
            backdrop.patch(side, (middle - wide, middle + wide), (0.3, high), shade(colour))
            backdrop.patch(
                side, (middle - wide, middle + wide), (high - 0.5, high), shade((232, 228, 218))
            )
