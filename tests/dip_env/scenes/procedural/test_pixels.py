"""Integer arithmetic on pictures gives Pillow's own results, bit for bit."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageChops, ImageFilter

from dip_env.scenes.procedural.drawing.render.pixels import (
    Pixels,
    blurred,
    enlarged,
    grained,
    multiplied,
)

sides = st.integers(1, 90)


def picture(width: int, height: int, seed: int) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@settings(deadline=None)
@given(sides, sides, st.floats(0.0, 3.0), st.integers(0, 99))
def test_a_blurred_picture_is_that_of_pillow(width: int, height: int, radius: float, seed) -> None:
    pixels = picture(width, height, seed)
    expected = Image.fromarray(pixels).filter(ImageFilter.BoxBlur(radius))
    assert (blurred(pixels, radius) == np.asarray(expected)).all()


@pytest.mark.parametrize("radius", [0.25, 0.4, 0.5, 0.75, 0.9, 0.999])
def test_every_mixture_of_three_pixels_is_rounded_as_pillow_does(radius: float) -> None:
    # All 256 values in the middle, and neighbours of every sum, along rows and columns.
    middle = np.repeat(np.arange(256, dtype=np.uint8), 511)
    total = np.tile(np.arange(511), 256)
    low, high = (total // 2).astype(np.uint8), (total - total // 2).astype(np.uint8)
    for axis in (0, 1):
        pixels = np.stack([low, middle, high], axis=axis)
        pixels = np.repeat(pixels[..., None], 3, axis=2)
        expected = Image.fromarray(pixels).filter(ImageFilter.BoxBlur(radius))
        assert (blurred(pixels, radius) == np.asarray(expected)).all()


@pytest.mark.parametrize(
    ("ours", "pillow"),
    [
        (grained, lambda a, b: ImageChops.add(a, b, 1, -128)),
        (multiplied, ImageChops.multiply),
    ],
)
def test_every_pair_of_values_is_combined_as_pillow_does(
    ours: Callable[[Pixels, Pixels], Pixels],
    pillow: Callable[[Image.Image, Image.Image], Image.Image],
) -> None:
    one, two = np.mgrid[0:256, 0:256].astype(np.uint8)
    first, second = (np.repeat(values[..., None], 3, axis=2) for values in (one, two))
    expected = pillow(Image.fromarray(first), Image.fromarray(second))
    assert (ours(first, second) == np.asarray(expected)).all()


@settings(deadline=None)
@given(sides, sides, st.integers(-1, 1), st.integers(-1, 1), st.integers(0, 99))
def test_an_enlarged_picture_is_that_of_pillow(width, height, wider, higher, seed) -> None:
    values = picture(width, height, seed)[..., 0]
    size = (2 * width + wider, 2 * height + higher)
    expected = Image.fromarray(values).resize(size, Image.Resampling.BILINEAR)
    assert (enlarged(values, size) == np.asarray(expected)).all()


def test_every_pair_of_values_is_doubled_as_pillow_does() -> None:
    one, two = np.mgrid[0:256, 0:256].astype(np.uint8)
    values = np.stack([one.ravel(), two.ravel()], axis=1)
    for pairs, size in ((values, (4, 65536)), (values.T, (65536, 4))):
        expected = Image.fromarray(pairs).resize(size, Image.Resampling.BILINEAR)
        assert (enlarged(pairs, size) == np.asarray(expected)).all()
