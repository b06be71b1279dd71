"""Textures made once per process from fixed seeds: cloth, ground, leaves, clouds, film grain."""

from __future__ import annotations

from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageFilter

from dip_env.resampling import resized

SIDE = 512


def _waves(seed: int, octaves: tuple[tuple[int, int, float], ...]) -> NDArray[np.float64]:
    """Return tileable value noise in [-1, 1]: octaves of (cells across, cells down, weight)."""
    rng = np.random.default_rng(seed)
    total = np.zeros((SIDE, SIDE))
    for across, down, weight in octaves:
        cells = rng.random((down, across)) * 2 - 1
        padded = np.pad(cells, ((2, 3), (2, 3)), mode="wrap")
        y = np.arange(SIDE) * down / SIDE
        x = np.arange(SIDE) * across / SIDE
        rows = _smooth(padded, y + 2, 0)
        total += weight * _smooth(rows, x + 2, 1)
    return total / sum(w for _, _, w in octaves)


def _smooth(values: NDArray[np.float64], at: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    low = np.floor(at).astype(int)
    t = at - low
    t = t * t * (3 - 2 * t)
    shape = (-1, 1) if axis == 0 else (1, -1)
    t = t.reshape(shape)
    return np.take(values, low, axis) * (1 - t) + np.take(values, low + 1, axis) * t


def _as_image(values: NDArray[np.float64]) -> Image.Image:
    return Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8))


def _doubled(image: Image.Image) -> Image.Image:
    """Return the tile repeated 2 x 2, so that any crop of one tile's size lies inside."""
    wide = Image.new(image.mode, (image.width * 2, image.height * 2))
    for corner in ((0, 0), (image.width, 0), (0, image.height), image.size):
        wide.paste(image, corner)
    return wide


@cache
def _cloth_tile() -> Image.Image:
    folds = _waves(11, ((10, 14, 1.0), (26, 40, 0.7), (120, 120, 0.35)))
    return _doubled(_as_image(232 + 60 * folds))


@lru_cache(maxsize=64)
def _cloth_scaled(step: int) -> Image.Image:
    side = SIDE * 2 * step // 8
    return resized(_cloth_tile(), (side, side), Image.Resampling.BILINEAR)


def cloth(size: tuple[int, int], scale: float, offset: tuple[int, int]) -> Image.Image:
    """Return cloth folds to multiply with, mode L.

    Args:
        size: (width, height) wanted, pixels.
        scale: pixels per metre; folds keep their size on the body.
        offset: position in the texture.
    """
    step = min(16, max(2, round(scale / 32)))
    tile = _cloth_scaled(step)
    if size[0] >= tile.width or size[1] >= tile.height:
        return resized(tile, size, Image.Resampling.BILINEAR)
    x = offset[0] % (tile.width - size[0])
    y = offset[1] % (tile.height - size[1])
    return tile.crop((x, y, x + size[0], y + size[1]))


@cache
def ground_tile(kind: str) -> Image.Image:
    """Return a tileable brightness texture, mode L around 225, of SIDE x SIDE pixels.

    Args:
        kind: asphalt, paving, cobbles, grass, sand or tiles; any other name gives asphalt.
    """
    fine = _waves(21, ((150, 150, 1.0), (256, 256, 0.6)))
    broad = _waves(22, ((5, 5, 1.0), (12, 12, 0.6), (40, 40, 0.3)))
    value = 226 + 14 * fine + 20 * broad
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    if kind in ("paving", "tiles", "cobbles"):
        across, down = {"paving": (4, 8), "tiles": (4, 4), "cobbles": (16, 16)}[kind]
        row = y * down // SIDE
        shift = 0 if kind == "tiles" else (row % 2) * (SIDE // across // 2)
        column = ((x + shift) % SIDE) * across // SIDE
        stones = np.random.default_rng(23).random((down, across))
        value = value + (stones[row, column] - 0.5) * (36 if kind != "tiles" else 16)
        joint = 3 if kind != "tiles" else 2
        gap = ((y % (SIDE // down)) < joint) | (((x + shift) % (SIDE // across)) < joint)
        value = np.where(gap, value - 48, value)
    elif kind == "grass":
        value = 205 + 42 * fine + 30 * broad
    elif kind == "sand":
        value = 230 + 10 * fine + 24 * broad
    return _as_image(value)


@cache
def leaves() -> Image.Image:
    """Return a foliage brightness texture, mode L, twice SIDE wide and high."""
    value = 190 + 75 * _waves(31, ((30, 30, 1.0), (70, 70, 1.0), (130, 130, 0.7)))
    return _doubled(_as_image(value))


def leaf_grain(size: tuple[int, int], zoom: float, offset: tuple[int, int]) -> Image.Image:
    """Return foliage brightness of a size, mode L.

    Args:
        size: (width, height) in pixels.
        zoom: pixels per texture pixel.
        offset: position in the texture, 0..500.
    """
    tile = leaves()
    room = tile.width - max(offset) - 1
    zoom = max(zoom, 0.25, size[0] / room, size[1] / room)
    x, y = offset
    box = (x, y, x + size[0] / zoom, y + size[1] / zoom)
    return resized(tile, size, Image.Resampling.BILINEAR, box=box)


def frayed(mask: Image.Image, grain: Image.Image, radius: float) -> Image.Image:
    """Return the mask with its edge broken up along the leaves of ``grain``."""
    soft = mask.filter(ImageFilter.BoxBlur(max(1, int(radius))))
    return ImageChops.add(soft, grain, 1, -190).point(_EDGE)


_EDGE = [max(0, min(255, (v - 96) * 6)) for v in range(256)]


@cache
def clouds() -> Image.Image:
    """Return cloud cover in 0..255, mode L, twice SIDE wide and high."""
    value = _waves(41, ((3, 5, 1.0), (7, 11, 0.7), (16, 24, 0.4), (40, 60, 0.2)))
    return _doubled(_as_image(128 + 260 * value))


@lru_cache(maxsize=8)
def film_grain(size: tuple[int, int], strength: int) -> NDArray[np.uint8]:
    """Return sensor noise around 128, (h, w, 3), larger than ``size`` so that crops of it differ.

    Args:
        size: (width, height) in pixels.
        strength: of the noise, grey levels.
    """
    rng = np.random.default_rng(51)
    shape = (size[1] + 64, size[0] + 64)

    def triangular() -> NDArray[np.float64]:
        values = rng.random(shape)
        values += rng.random(shape)
        values -= 1
        return values

    common = triangular()
    common *= 0.8
    grain = np.empty((*shape, 3), dtype=np.uint8)
    for channel in range(3):
        values = triangular()
        values *= 0.5
        values += common
        values *= strength
        values += 128
        grain[..., channel] = np.clip(np.rint(values, out=values), 0, 255, out=values)
    return grain
