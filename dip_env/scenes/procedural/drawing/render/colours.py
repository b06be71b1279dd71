"""Colours as RGB floats in 0..255."""

from __future__ import annotations

from collections.abc import Callable

Colour = tuple[float, float, float]
Tone = Callable[[Colour], Colour]
"""Turns the colour of an object into the colour seen under some light and haze."""


def dimmed(colour: Colour, factor: float) -> Colour:
    """Return the colour times a factor (above 1 is brighter), at most 255 per channel."""
    red, green, blue = colour
    return min(255.0, red * factor), min(255.0, green * factor), min(255.0, blue * factor)


def ink(colour: Colour) -> tuple[int, int, int]:
    """Return the colour as integers, for Pillow."""
    return int(colour[0]), int(colour[1]), int(colour[2])
