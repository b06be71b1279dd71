"""A far and dense crowd without distinguishable persons, drawn from a few cached figures."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from PIL import Image, ImageChops

from dip_env.resampling import resized
from dip_env.scenes.procedural.drawing.people.figures import draw_figure
from dip_env.scenes.procedural.drawing.people.person import random_person
from dip_env.scenes.procedural.drawing.render.camera import Camera
from dip_env.scenes.procedural.drawing.render.canvas import Sprite
from dip_env.scenes.procedural.drawing.render.light import Light
from dip_env.scenes.procedural.drawing.render.rng import SceneRandom

FIGURES = 40
RANK = 0.45
"""Metres between the ranks of the crowd."""
RANKS = 5


@cache
def _figure(number: int) -> Sprite:
    """Return one of the cached figures, about 90 pixels high, in neutral light."""
    rng = SceneRandom(77, number)
    person = replace(random_person(rng, None, "stand", 0.2, 0.0), child=False)
    camera = Camera((400, 400), 500.0, 1.6, 0.0, 200.0)
    sprite = draw_figure(person, camera, (0.0, 0.0, 9.5), lambda c: c, (-0.4, -0.7))
    if sprite is None:
        raise RuntimeError("a standing figure always has a size")
    return sprite


def draw_far_crowd(
    plate: Image.Image,
    camera: Camera,
    light: Light,
    span: tuple[float, float],
    depth: float,
    rng: SceneRandom,
) -> tuple[int, int, int, int] | None:
    """Paint a dense crowd across the view.

    Args:
        plate: RGB image, painted in place.
        camera: the view.
        light: colours and haze.
        span: x in metres where the crowd begins and ends.
        depth: z in metres of its front rank.
        rng: random source.

    Returns:
        The pixel box around the crowd inside the image, or None if it is out of view.
    """
    back = Image.new("RGB", plate.size)
    cover = Image.new("L", plate.size, 0)
    red, green, blue = light.tone(depth)((255.0, 255.0, 255.0))
    dark = light.tone(depth)((0.0, 0.0, 0.0))
    luts = [
        int(low + (high - low) * v / 255)
        for low, high in zip(dark, (red, green, blue), strict=True)
        for v in range(256)
    ]
    for rank in range(RANKS - 1, -1, -1):
        z = depth + RANK * rank
        scale = camera.scale((0.0, 0.85, z))
        tall = max(4, round(1.85 * scale))
        cut = []
        for _ in range(14):
            sprite = _figure(rng.integer(0, FIGURES - 1))
            wide = max(2, round(sprite.image.width * tall / sprite.image.height))
            cut.append(
                (
                    resized(sprite.image, (wide, tall), Image.Resampling.BOX).point(luts),
                    resized(sprite.alpha, (wide, tall), Image.Resampling.BOX),
                )
            )
        x = span[0]
        while x < span[1]:
            u, v = camera.project((x, 0.0, z))
            image, alpha = rng.choice(cut)
            corner = (round(u) - image.width // 2, round(v) - tall + rng.integer(0, 2))
            back.paste(image, corner, alpha)
            cover.paste(ImageChops.lighter(cover.crop((*corner, corner[0] + image.width,
                        corner[1] + tall)), alpha), corner)  # fmt: skip
            x += rng.uniform(0.3, 0.6)
    drawn = cover.getbbox()
    if drawn is None:
        return None
    cover = cover.crop(drawn)
    plate.paste(back.crop(drawn), drawn, cover)
    solid = cover.point(_SOLID).getbbox()
    if solid is None:
        return None
    left, top = drawn[:2]
    return left + solid[0], top + solid[1], left + solid[2], top + solid[3]


_SOLID = [0] * 128 + [255] * 128
