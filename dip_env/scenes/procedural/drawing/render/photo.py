"""The imaging of a camera: sensor noise, blur and JPEG compression."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import Image

from dip_env.scenes.procedural.drawing.render.pixels import blurred, grained
from dip_env.scenes.procedural.drawing.render.textures import film_grain


@dataclass(frozen=True)
class Photo:
    """How a picture is taken.

    Args:
        noise: strength of the sensor noise in grey levels, 0 for none.
        grain: offset into the noise, pixels below 64.
        blur: radius in pixels, 0 for none.
        quality: JPEG quality, 0 for none.
    """

    noise: int = 0
    grain: tuple[int, int] = (0, 0)
    blur: float = 0.0
    quality: int = 0


def finish(image: Image.Image, photo: Photo) -> Image.Image:
    """Return the picture as the camera stores it.

    Args:
        image: RGB drawing.
        photo: how it is taken.

    Returns:
        RGB image of the same size.
    """
    pixels = np.asarray(image)
    if photo.blur >= 0.2:  # less would cost time and change next to nothing
        pixels = blurred(pixels, photo.blur)
    if photo.noise:
        (x, y), (height, width) = photo.grain, pixels.shape[:2]
        grain = film_grain(image.size, photo.noise)
        pixels = grained(pixels, grain[y : y + height, x : x + width])
    image = Image.fromarray(pixels)
    if photo.quality:
        stored = BytesIO()
        image.save(stored, "JPEG", quality=photo.quality, subsampling=2)
        image = Image.open(BytesIO(stored.getvalue()))
        image.load()
    return image
