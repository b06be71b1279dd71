"""The light of a scene: brightness and colour of objects, and direction of shadows."""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, exp, sin

from dip_env.scenes.procedural.drawing.render.camera import Point
from dip_env.scenes.procedural.drawing.render.colours import Colour, Tone
from dip_env.scenes.procedural.drawing.render.rng import SceneRandom


@dataclass(frozen=True)
class Light:
    """How a scene is lit (colours are RGB 0..255, gains multiply them).

    Args:
        kind: sun, overcast, dusk, night or indoor.
        gain: factors of the three channels.
        haze: colour of the air far away.
        haze_per_metre: how fast things fade into the haze.
        shadow: ground displacement (x, z) in metres of the shadow of a point one metre up.
        shadow_strength: how dark shadows are, 0..1.
        side: where the light comes from in the image (right, down).
    """

    kind: str
    gain: Colour
    haze: Colour
    haze_per_metre: float
    shadow: tuple[float, float]
    shadow_strength: float
    side: Point

    def tone(self, depth: float, brightness: float = 1.0) -> Tone:
        """Return the function from an object's colour to its colour seen at a depth in metres."""
        fade = 1.0 - exp(-max(depth, 0.0) * self.haze_per_metre)
        keep = (1.0 - fade) * brightness
        gr, gg, gb = (g * keep for g in self.gain)
        hr, hg, hb = (h * fade for h in self.haze)

        def seen(colour: Colour) -> Colour:
            red, green, blue = colour[0] * gr + hr, colour[1] * gg + hg, colour[2] * gb + hb
            # Too bright is dimmed as a whole: cut per channel, light skin turns to plaster.
            over = max(red, green, blue, 255.0) / 255.0
            return red / over, green / over, blue / over

        return seen


def random_light(rng: SceneRandom, kind: str) -> Light:
    """Draw a light at random.

    Args:
        rng: random source.
        kind: sun, overcast, dusk, night, indoor, or day (any of the first two).

    Returns:
        The light.
    """
    if kind == "day":
        kind = "sun" if rng.bernoulli(0.6) else "overcast"
    angle = rng.uniform(0, 6.283)
    warm = rng.uniform(-0.04, 0.06)
    level = rng.uniform(1.0, 1.22)
    left = -1.0 if rng.bernoulli(0.5) else 1.0
    if kind == "sun":
        length = rng.uniform(0.35, 1.5)
        shadow = (cos(angle) * length, sin(angle) * length * 0.8)
        left = -1.0 if shadow[0] > 0 else 1.0
        return Light(
            kind, (level * (1.06 + warm), level * 1.02, level * (0.96 - warm)), (198, 210, 222),
            rng.uniform(0.001, 0.005), shadow, rng.uniform(0.38, 0.58), (left * 0.85, -0.6),
        )  # fmt: skip
    if kind == "overcast":
        return Light(
            kind, (level * 0.97, level, level * 1.03), (204, 208, 212), rng.uniform(0.003, 0.012),
            (0.0, 0.06), rng.uniform(0.2, 0.32), (left * 0.35, -0.8),
        )  # fmt: skip
    if kind == "indoor":
        return Light(
            kind, (level * 1.04, level * 0.99, level * 0.92), (210, 204, 192), 0.001,
            (0.05 * left, 0.1), rng.uniform(0.18, 0.3), (left * 0.4, -0.8),
        )  # fmt: skip
    if kind == "dusk":
        length = rng.uniform(1.2, 2.2)
        return Light(
            kind, (level * 0.9, level * 0.74, level * 0.67), (198, 160, 142),
            rng.uniform(0.003, 0.01), (cos(angle) * length, sin(angle) * length * 0.5),
            rng.uniform(0.3, 0.45), (left * 0.9, -0.3),
        )  # fmt: skip
    return Light(
        "night", (level * 0.36, level * 0.36, level * 0.46), (22, 24, 38),
        rng.uniform(0.004, 0.012), (0.0, 0.08), rng.uniform(0.25, 0.4), (left * 0.5, -0.7),
    )  # fmt: skip
