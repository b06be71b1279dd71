from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dip_env.metrics import pairs as pairs_module
from dip_env.metrics.pairs import Pairs, best_free, shared_pairs

coordinates = st.integers(0, 20)
boxes = st.lists(
    st.tuples(coordinates, coordinates, st.integers(0, 9), st.integers(0, 9)).map(
        lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
    ),
    max_size=5,
)


def stacked(images):
    rows = [row for image in images for row in image]
    starts = np.cumsum([0, *(len(image) for image in images)])
    return np.array(rows, dtype=np.float64).reshape(-1, 4), starts


@given(st.lists(st.tuples(boxes, boxes), min_size=1, max_size=4), st.sampled_from([1, 3, 1 << 20]))
def test_exactly_the_pairs_of_an_image_that_share_area_are_found(images, chunk):
    a, a_starts = stacked([image[0] for image in images])
    b, b_starts = stacked([image[1] for image in images])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pairs_module, "_CHUNK", chunk)
        found = shared_pairs(a, a_starts, b, b_starts)
    expected = []
    for k in range(len(images)):
        for i in range(a_starts[k], a_starts[k + 1]):
            for j in range(b_starts[k], b_starts[k + 1]):
                wide = min(a[i, 2], b[j, 2]) - max(a[i, 0], b[j, 0])
                tall = min(a[i, 3], b[j, 3]) - max(a[i, 1], b[j, 1])
                if wide > 0 and tall > 0:
                    expected.append((i, j, wide * tall))
    assert list(zip(found.a, found.b, found.shared, strict=True)) == expected


def test_an_area_too_small_for_a_number_is_not_shared():
    # Both sides are 1e-200: they meet, and 1e-400 is 0.
    point = np.array([[0.0, 0.0, 1e-200, 1e-200]])
    one = np.array([0, 1])
    assert len(shared_pairs(point, one, point, one).a) == 0


def pairs_of(rows):
    a, b, overlap = (np.array(column) for column in zip(*rows, strict=True))
    return Pairs(a, b, overlap), overlap.astype(np.float64)


def test_the_best_detection_chooses_first_and_takes_what_it_overlaps_most():
    # Detection 1 ranks first: it takes person 0 (0.9). Detection 0 must go on to person 1.
    pairs, overlap = pairs_of([(0, 0, 0.8), (0, 1, 0.6), (1, 0, 0.9), (1, 1, 0.7)])
    taken = best_free(pairs, overlap, np.array([1, 0]), later_wins=False)
    assert taken.tolist() == [1, 0]


def test_a_detection_whose_partners_are_gone_gets_none():
    pairs, overlap = pairs_of([(0, 0, 0.9), (1, 0, 0.8)])
    assert best_free(pairs, overlap, np.array([0, 1]), later_wins=False).tolist() == [0, -1]


@pytest.mark.parametrize(("later_wins", "expected"), [(False, 0), (True, 1)])
def test_equal_overlaps_go_to_the_earlier_or_the_later_annotation(later_wins, expected):
    pairs, overlap = pairs_of([(0, 0, 0.75), (0, 1, 0.75)])
    assert best_free(pairs, overlap, np.array([0]), later_wins=later_wins).tolist() == [expected]
