"""Fills polygons without the checks that take as long as filling a small one."""

from __future__ import annotations

from PIL import Image, ImageDraw


class Filler:
    """Fills polygons of an image.

    ``ImageDraw.polygon`` spends as much time on finding out what is to be drawn as on drawing a
    polygon of a few pixels; this calls what it calls in the end (Pillow 12 and 13).

    Args:
        image: painted in place.
    """

    def __init__(self, image: Image.Image) -> None:
        """Make the image writable."""
        self._core = ImageDraw.Draw(image).draw

    def polygon(self, points: list[int], ink: int | tuple[int, ...]) -> None:
        """Fill a polygon.

        Args:
            points: column and row of each corner in turns, pixels.
            ink: value of each channel of the image.
        """
        self._core.draw_polygon(points, self._core.draw_ink(ink), 1)
