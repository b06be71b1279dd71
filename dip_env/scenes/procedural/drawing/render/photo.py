"""The imaging of a camera: sensor noise, blur and JPEG compression."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO

from PIL import Image, ImageChops, ImageFilter

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
    if photo.blur >= 0.2:  # less would cost time and change next to nothing
        image = image.filter(ImageFilter.BoxBlur(photo.blur))
    if photo.noise:
        x, y = photo.grain
        noise = film_grain(image.size, photo.noise).crop((x, y, x + image.width, y + image.height))
        image = ImageChops.add(image, noise, 1, -128)
    if photo.quality:
        stored = BytesIO()
        image.save(stored, "JPEG", quality=photo.quality, subsampling=2)
        image = Image.open(BytesIO(stored.getvalue()))
        image.load()
    return image
