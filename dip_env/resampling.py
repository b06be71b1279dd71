"""Resizing of images, the same with every Pillow from 12 on."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image
from PIL.Image import Resampling

REACH = {Resampling.BOX: 0.5, Resampling.BILINEAR: 1.0, Resampling.BICUBIC: 2.0}
"""How far each filter looks to either side, in pixels of the smaller scale."""


def resized(
    image: Image.Image,
    size: tuple[int, int],
    resample: Resampling,
    box: tuple[float, float, float, float] | None = None,
) -> Image.Image:
    """Resize an image, along its rows first and then along its columns.

    Between the two passes values are rounded to bytes, so that their order shows in the result.
    ``Image.resize`` of Pillow 11 and 12 keeps this order too, that of Pillow 13 depends on the
    sizes; asked for one pass at a time, all of them do the same integer arithmetic.

    Args:
        image: of mode L or RGB.
        size: (width, height) of the result.
        resample: BOX, BILINEAR or BICUBIC.
        box: xyxy of the part to resize, in pixels of the image; the whole image by default.

    Returns:
        The resized image.
    """
    width, height = size
    # As Pillow reads it: what is taken off below then leaves nothing to round.
    x1, y1, x2, y2 = np.array(box or (0, 0, *image.size), dtype=np.float32).tolist()
    # Only these rows count for the second pass.
    reach = REACH[resample] * max((y2 - y1) / height, 1.0) + 1
    top, bottom = max(math.floor(y1 - reach), 0), min(math.ceil(y2 + reach), image.height)
    if (top, bottom) != (0, image.height):
        image = image.crop((0, top, image.width, bottom))
    rows = image.resize((width, bottom - top), resample, box=(x1, 0, x2, bottom - top))
    return rows.resize(size, resample, box=(0, y1 - top, width, y2 - top))
