"""Integer arithmetic on whole pictures: what Pillow computes, bit for bit, several times faster.

numpy works on many bytes at once where Pillow takes them one by one. Pictures are handled a few
rows at a time, so that what is computed between two steps stays in the processor's cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

Pixels = NDArray[np.uint8]
"""A picture (h, w, channels)."""
Wide = NDArray[np.unsignedinteger[Any]]

_ROWS = 32


def _blocks(height: int) -> Iterator[tuple[int, int]]:
    """Yield the first and the end row of each block of a picture."""
    for top in range(0, height, _ROWS):
        yield top, min(top + _ROWS, height)


def blurred(pixels: Pixels, radius: float) -> Pixels:
    """Return what ``ImageFilter.BoxBlur(radius)`` makes of a picture.

    Args:
        pixels: (h, w, channels).
        radius: of the blur, pixels; only below 1 is this faster than Pillow.

    Source: ``src/libImaging/BoxBlur.c`` of Pillow. Below radius 1 a pixel is mixed with its two
    neighbours, first along the rows, then along the columns; edges are repeated.
    """
    if radius == 0:
        return pixels
    if radius >= 1:
        return np.asarray(Image.fromarray(pixels).filter(ImageFilter.BoxBlur(radius)))
    height, _, step = pixels.shape
    rows = pixels.reshape(height, -1)
    padded = np.empty((height + 2, rows.shape[1] + 2 * step), dtype=np.uint8)
    padded[1:-1, step:-step] = rows
    padded[1:-1, :step], padded[1:-1, -step:] = rows[:, :step], rows[:, -step:]
    padded[0], padded[-1] = padded[1], padded[-2]
    result = np.empty_like(rows)
    weights = _mixing_weights(radius)
    kind: type[np.unsignedinteger[Any]] = np.uint16 if weights[2] <= 8 else np.uint32
    for top, end in _blocks(height):
        wide = padded[top : end + 2].astype(kind)
        wide = _mixed(wide[:, : -2 * step], wide[:, step:-step], wide[:, 2 * step :], weights)
        result[top:end] = _mixed(wide[:-2], wide[1:-1], wide[2:], weights)
    return result.reshape(pixels.shape)


def _mixing_weights(radius: float) -> tuple[int, int, int]:
    """Return the weight of a pixel, that of each neighbour and the bits of their total.

    Pillow's weights have 24 bits; zero bits at their ends are left out, so that the half-pixel
    blur (2, 1, 2 bits) can be computed in 16 bits.
    """
    whole = np.float32(1 << 24)
    middle = int(whole / (np.float32(radius) * np.float32(2) + np.float32(1)))
    side = ((1 << 24) - middle) // 2
    bits = 24
    while bits > 1 and not (middle | side) & 1:
        middle, side, bits = middle >> 1, side >> 1, bits - 1
    return middle, side, bits


def _mixed(before: Wide, here: Wide, after: Wide, weights: tuple[int, int, int]) -> Wide:
    """Return the weighted mean, rounded, of pixels and their neighbours on two sides."""
    middle, side, bits = (here.dtype.type(weight) for weight in weights)
    total = before + after
    total *= side
    total += here * middle
    total += here.dtype.type(1 << (int(bits) - 1))
    total >>= bits
    return total


def grained(pixels: Pixels, noise: Pixels) -> Pixels:
    """Return ``pixels + noise - 128``, cut to 0..255 (``ImageChops.add(a, b, 1, -128)``)."""
    result = np.empty_like(pixels)
    for top, end in _blocks(len(pixels)):
        wide = pixels[top:end].astype(np.int16)
        wide += noise[top:end].astype(np.int16)
        np.clip(wide, 128, 383, out=wide)
        wide -= 128
        result[top:end] = wide
    return result


def multiplied(pixels: Pixels, factor: Pixels) -> Pixels:
    """Return ``pixels * factor // 255`` (``ImageChops.multiply``)."""
    result = np.empty_like(pixels)
    for top, end in _blocks(len(pixels)):
        wide = pixels[top:end].astype(np.uint16)
        wide *= factor[top:end].astype(np.uint16)
        wide += 1
        wide += wide >> 8  # with the shift below: a division by 255, exact up to 255 * 255
        wide >>= 8
        result[top:end] = wide
    return result


def enlarged(values: Pixels, size: tuple[int, int]) -> Pixels:
    """Return what a bilinear ``Image.resize`` to a size makes of a picture of one channel.

    Args:
        values: (h, w).
        size: (width, height) wanted; only sides of twice the length are faster than Pillow's.

    Source: ``src/libImaging/Resample.c`` of Pillow, which resizes rows first, then columns. A
    pixel of a doubled side is three quarters of the nearest and one quarter of the next.
    """
    for axis, length in ((1, size[0]), (0, size[1])):
        if length == 2 * values.shape[axis]:
            values = _doubled(values, axis)
        else:
            shape = (length, len(values)) if axis else (values.shape[1], length)
            values = np.asarray(Image.fromarray(values).resize(shape, Image.Resampling.BILINEAR))
    return values


def _doubled(values: Pixels, axis: int) -> Pixels:
    near = values.astype(np.uint16)
    if axis == 0:
        before, after = np.vstack([near[:1], near[:-1]]), np.vstack([near[1:], near[-1:]])
    else:
        before = np.hstack([near[:, :1], near[:, :-1]])
        after = np.hstack([near[:, 1:], near[:, -1:]])
    near *= 3
    near += 2
    before += near
    after += near
    pairs = np.stack([before >> 2, after >> 2], axis=axis + 1).astype(np.uint8)
    return pairs.reshape(values.shape[0] * (2 - axis), values.shape[1] * (1 + axis))
