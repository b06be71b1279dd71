"""Resizing equals integer arithmetic written out here, whatever the installed Pillow does first."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.Image import Resampling

from dip_env.resampling import resized

FILTERS = {
    Resampling.BOX: (0.5, lambda x: 1.0 if -0.5 < x <= 0.5 else 0.0),
    Resampling.BILINEAR: (1.0, lambda x: max(1.0 - abs(x), 0.0)),
    Resampling.BICUBIC: (2.0, lambda x: cubic(abs(x))),
}
BITS = 22


def cubic(x):
    """Keys' kernel with a = -1/2."""
    if x < 1:
        return (1.5 * x - 2.5) * x * x + 1
    return (((x - 5) * x + 8) * x - 4) * -0.5 if x < 2 else 0.0


def along_rows(pixels, length, first, last, resample):
    """Resize the rows of (h, w) bytes: weights of 22 bits, sums rounded to bytes."""
    support, kernel = FILTERS[resample]
    scale = (last - first) / length
    grow = max(scale, 1.0)
    columns = []
    for place in range(length):
        centre = first + (place + 0.5) * scale
        low = max(int(centre - support * grow + 0.5), 0)
        high = min(int(centre + support * grow + 0.5), pixels.shape[1])
        weights = [kernel((x - centre + 0.5) / grow) for x in range(low, high)]
        total = sum(weights)
        whole = [int(math.copysign(0.5, w) + w / total * (1 << BITS)) for w in weights]
        sums = pixels[:, low:high].astype(np.int64) @ np.array(whole) + (1 << (BITS - 1))
        columns.append(np.clip(sums >> BITS, 0, 255))
    return np.stack(columns, axis=1).astype(np.uint8)


def reference(pixels, size, resample, box):
    """Resize rows, then columns."""
    x1, y1, x2, y2 = box
    rows = along_rows(pixels, size[0], x1, x2, resample)
    return along_rows(rows.T, size[1], y1, y2, resample).T


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6),
    st.tuples(st.integers(1, 60), st.integers(1, 60)),
    st.tuples(st.integers(1, 60), st.integers(1, 60)),
    st.tuples(*[st.integers(0, 64)] * 4),
    st.sampled_from(sorted(FILTERS)),
)
def test_rows_are_resized_before_columns_in_whole_numbers(seed, source, size, cut, resample):
    width, height = source
    # Corners on a grid that floats hold exactly, and no part thinner than a pixel.
    x1, y1 = (width - 1) * cut[0] / 64, (height - 1) * cut[1] / 64
    x2, y2 = x1 + 1 + (width - x1 - 1) * cut[2] / 64, y1 + 1 + (height - y1 - 1) * cut[3] / 64
    box = tuple(np.float32((x1, y1, min(x2, width), min(y2, height))).tolist())
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)
    got = np.asarray(resized(Image.fromarray(pixels), size, resample, box))
    expected = reference(pixels, size, resample, box)
    # A weight on the edge between two whole numbers may be rounded either way.
    assert np.abs(got.astype(int) - expected).max() <= 1
    assert (got != expected).mean() <= 0.02


@pytest.mark.parametrize(
    ("source", "size", "box", "resample"),
    [
        ((32, 101), (4, 14), None, Resampling.BOX),
        ((256, 256), (178, 32), (0.0, 0.0, 256.0, 256.0), Resampling.BILINEAR),
        ((256, 256), (231, 166), (121.5, 0.0, 256.0, 214.625), Resampling.BILINEAR),
        ((640, 480), (96, 72), None, Resampling.BICUBIC),
    ],
)
def test_sizes_that_pillow_13_resizes_by_columns_first(source, size, box, resample):
    """Values of such pictures differ by one between the orders; the first three are of scenes."""
    pixels = np.random.default_rng(1).integers(0, 256, source[::-1], dtype=np.uint8)
    got = np.asarray(resized(Image.fromarray(pixels), size, resample, box))
    rows_first = reference(pixels, size, resample, box or (0, 0, *source))
    assert np.array_equal(got, rows_first)
    columns_first = along_rows(pixels.T, size[1], *(box or (0, 0, *source))[1::2], resample).T
    columns_first = along_rows(columns_first, size[0], *(box or (0, 0, *source))[::2], resample)
    assert not np.array_equal(got, columns_first)


def test_bands_are_resized_alike():
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    box = (3.25, 5.5, 40.75, 31.0)
    whole = np.asarray(resized(Image.fromarray(pixels), (20, 30), Resampling.BICUBIC, box))
    for band in range(3):
        one = Image.fromarray(np.ascontiguousarray(pixels[..., band]))
        alone = np.asarray(resized(one, (20, 30), Resampling.BICUBIC, box))
        assert np.array_equal(whole[..., band], alone)
