"""The sky above a scene, with clouds by day."""

from __future__ import annotations

from PIL import Image, ImageDraw

from dip_env.resampling import resized
from dip_env.scenes.procedural.drawing.render.camera import Camera
from dip_env.scenes.procedural.drawing.render.light import Light
from dip_env.scenes.procedural.drawing.render.rng import SceneRandom
from dip_env.scenes.procedural.drawing.render.textures import clouds


def draw_sky(plate: Image.Image, camera: Camera, light: Light, rng: SceneRandom) -> None:
    """Paint the sky above the horizon: a gradient, with clouds by day."""
    width = camera.size[0]
    bottom = min(camera.size[1], round(camera.horizon) + 2)
    if bottom <= 0:
        return
    top, low = {
        "sun": ((96, 146, 206), (196, 216, 232)),
        "overcast": ((182, 188, 196), (214, 216, 218)),
        "dusk": ((84, 88, 128), (238, 168, 112)),
        "night": ((8, 10, 22), (34, 34, 52)),
        "indoor": ((214, 210, 200), (226, 220, 208)),
    }[light.kind]
    zenith = rng.jitter(top, 14)
    draw = ImageDraw.Draw(plate)
    steps = 48
    for k in range(steps):
        t = (k + 0.5) / steps
        colour = tuple(int(a + (b - a) * t) for a, b in zip(zenith, low, strict=True))
        draw.rectangle((0, bottom * k // steps, width, bottom * (k + 1) // steps), colour)
    if light.kind in ("sun", "dusk") and rng.bernoulli(0.7) and bottom > 20:
        tile = clouds()
        x, y = rng.integer(0, 511), rng.integer(0, 511)
        cover = tile.crop((x, y, x + 400, y + 160)).point(_CLOUD)
        cover = resized(cover, (width, bottom), Image.Resampling.BILINEAR)
        white = (248, 248, 250) if light.kind == "sun" else (250, 190, 150)
        plate.paste(white, (0, 0), cover)


_CLOUD = [min(210, max(0, (v - 120) * 2)) for v in range(256)]
