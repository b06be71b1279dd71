"""The grain of the ground with the shadows and lamp light on it, multiplied onto its colours."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dip_env.resampling import resized
from dip_env.scenes.procedural.drawing.render.camera import Camera
from dip_env.scenes.procedural.drawing.render.pixels import enlarged, multiplied
from dip_env.scenes.procedural.drawing.render.stage import LAMP_GAIN
from dip_env.scenes.procedural.drawing.render.textures import SIDE, ground_tile

METRES = {"asphalt": 6.0, "paving": 2.4, "cobbles": 2.4, "grass": 5.0, "sand": 7.0, "tiles": 2.6}
"""How many metres of ground one texture tile covers."""


def lay_surface(
    plate: Image.Image,
    camera: Camera,
    surface: str,
    offset: tuple[int, int],
    shadows: Image.Image,
    strength: float,
    pools: Image.Image | None,
) -> None:
    """Multiply the ground with texture, shadows and lamp light, computed at half resolution.

    Args:
        plate: RGB image of the scene's size, changed in place below the horizon.
        camera: the view.
        surface: texture, a key of ``METRES``.
        offset: position in the texture, texels.
        shadows: cover of shadows in 0..255, mode L, the scene at a reduced size.
        strength: how much light a full shadow takes, 0..1.
        pools: light of lamps in 0..255, mode L, reduced likewise, or None for daylight.
    """
    width, height = camera.size
    top = max(0, round(camera.horizon) + 1)
    grid = ((width + 1) // 2, len(range(top + 1, height, 2)))
    if grid[1] < 1:
        return
    values = _grain(camera, surface, offset, np.arange(top + 1, height, 2), grid[0])
    part = (0, top / height * shadows.height, shadows.width, shadows.height)
    cover = resized(shadows, grid, Image.Resampling.BILINEAR, box=part)
    values *= (256 - np.arange(256) * strength).astype(np.uint16)[np.asarray(cover)]
    values >>= 8
    if pools is not None:
        part = (0, top / height * pools.height, pools.width, pools.height)
        glow = resized(pools, grid, Image.Resampling.BILINEAR, box=part)
        ambient = 256 / LAMP_GAIN
        gain = (ambient + (256 - ambient) * np.arange(256) / 255).astype(np.uint16)
        values *= gain[np.asarray(glow)]
        values >>= 8
    shade = Image.fromarray(enlarged(values.astype(np.uint8), (width, height - top)))
    region = (0, top, width, height)
    ground = multiplied(
        np.asarray(plate.crop(region)), np.asarray(Image.merge("RGB", (shade,) * 3))
    )
    plate.paste(Image.fromarray(ground), region)


def _grain(
    camera: Camera, surface: str, offset: tuple[int, int], rows: NDArray[np.int64], width: int
) -> NDArray[np.uint16]:
    """Return the texture seen in some rows of the image, faded where it is too fine to show."""
    left, z = camera.ground_rows(rows)
    per_metre = SIDE / METRES[surface]
    step = -left * (2.0 / width) * per_metre  # texels per half-resolution pixel
    grow = np.abs(np.gradient(z)) * per_metre if len(z) > 1 else step
    keep = np.clip(3.0 / np.maximum(np.maximum(step, grow * 0.5), 1e-6), 0.0, 1.0)
    # Texel positions in 1/4096: whole numbers, so that every machine picks the same texels.
    first = ((left * per_metre) % SIDE * 4096).astype(np.int32) + (offset[0] << 12)
    stride = np.minimum(step * 4096, 1 << 20).astype(np.int32)
    columns = np.arange(width, dtype=np.int32)
    u = (first[:, None] + stride[:, None] * columns).astype(np.int32, copy=False)
    u >>= 12
    u &= SIDE - 1
    u += ((((z * per_metre) % SIDE).astype(np.int32) + offset[1]) % SIDE * SIDE)[:, None]
    tile = np.asarray(ground_tile(surface))
    values = tile.ravel()[u].astype(np.uint16)
    weights = (keep * 255).astype(np.uint16)[:, None]
    values *= weights
    values += (255 - weights) * np.uint16(round(float(tile.mean())))
    values >>= 8
    return values
