import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dip_env.boxes import (
    as_boxes,
    box_area,
    box_intersection,
    box_iou,
    clip_boxes,
    covered_share,
    union_area,
)

settings.register_profile("boxes", deadline=None, max_examples=50)
law = settings(settings.get_profile("boxes"))

# Corners in any order: inverted boxes, and boxes without area, are part of the domain.
any_boxes = st.integers(0, 6).flatmap(
    lambda n: arrays(np.float64, (n, 4), elements=st.floats(-50, 150, width=32))
)
grid_boxes = st.integers(0, 6).flatmap(
    lambda n: arrays(np.float64, (n, 4), elements=st.integers(0, 12).map(float))
)


def covered_pixels(regions, size=12):
    """Which unit pixels lie in some region, the slow and obvious way."""
    mask = np.zeros((size, size), dtype=bool)
    for x1, y1, x2, y2 in regions.astype(int):
        mask[y1:y2, x1:x2] = True
    return mask


def test_an_empty_list_is_no_boxes():
    assert as_boxes([]).shape == (0, 4)
    assert as_boxes(np.zeros((0, 4), np.float32)).dtype == np.float64


@pytest.mark.parametrize("values", [[1, 2, 3, 4], [[1, 2, 3]], np.zeros((1, 1, 4))])
def test_a_wrong_shape_is_named(values):
    with pytest.raises(ValueError, match=r"expected shape \(N, 4\), got"):
        as_boxes(values)


@pytest.mark.parametrize(
    ("a", "b", "iou"),
    [
        ([0, 0, 10, 10], [0, 0, 10, 10], 1.0),
        ([0, 0, 10, 10], [0, 0, 10, 5], 0.5),
        ([0, 0, 10, 10], [5, 5, 15, 15], 25 / 175),
        ([0, 0, 10, 10], [10, 0, 20, 10], 0.0),
        ([0, 0, 10, 10], [2, 2, 4, 4], 0.04),
        ([10, 10, 0, 0], [0, 0, 10, 10], 0.0),
        ([3, 3, 3, 3], [3, 3, 3, 3], 0.0),
    ],
)
def test_iou_of_boxes_worked_by_hand(a, b, iou):
    assert box_iou([a], [b])[0, 0] == pytest.approx(iou, abs=1e-12)


@law
@given(any_boxes, any_boxes)
def test_iou_is_symmetric_and_a_share(a, b):
    iou = box_iou(a, b)
    assert iou.shape == (len(a), len(b))
    assert ((iou >= 0) & (iou <= 1)).all()
    np.testing.assert_array_equal(iou, box_iou(b, a).T)


@law
@given(any_boxes)
def test_a_box_with_area_equals_itself_exactly(boxes):
    own = np.diag(box_iou(boxes, boxes))
    np.testing.assert_array_equal(own, (box_area(boxes) > 0).astype(float))


@law
@given(any_boxes, any_boxes)
def test_intersection_never_exceeds_either_area(a, b):
    shared = box_intersection(a, b)
    assert (shared <= box_area(a)[:, None]).all()
    assert (shared <= box_area(b)).all()


@law
@given(any_boxes)
def test_clipping_is_intersection_with_the_image(boxes):
    clipped = clip_boxes(boxes, (100, 80))
    assert (clipped >= 0).all() and (clipped <= (100, 80, 100, 80)).all()
    np.testing.assert_allclose(
        box_area(clipped), box_intersection(boxes, [[0, 0, 100, 80]])[:, 0], atol=1e-9
    )


def test_two_overlapping_regions_count_their_shared_part_once():
    regions = [[0, 0, 10, 10], [5, 5, 15, 15]]
    assert union_area(regions) == 175
    share = covered_share([[0, 0, 20, 20], [5, 5, 10, 10], [30, 30, 40, 40]], regions)
    np.testing.assert_allclose(share, [175 / 400, 1, 0])


@law
@given(grid_boxes, grid_boxes)
def test_union_and_covered_share_count_pixels(items, regions):
    mask = covered_pixels(regions)
    assert union_area(regions) == mask.sum()
    for item, share in zip(items, covered_share(items, regions), strict=True):
        pixels = covered_pixels(item[None])
        expected = (pixels & mask).sum() / pixels.sum() if pixels.any() else 0.0
        assert share == pytest.approx(expected)


@law
@given(any_boxes, any_boxes)
def test_covered_share_is_a_share_and_grows_with_regions(items, regions):
    fewer, more = covered_share(items, regions[1:]), covered_share(items, regions)
    assert ((more >= 0) & (more <= 1)).all()
    assert (more >= fewer - 1e-9).all()
