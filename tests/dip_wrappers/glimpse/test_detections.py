import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dip_env.boxes import box_iou
from dip_env.errors import ConfigError
from dip_wrappers.glimpse.detections import (
    NOTHING,
    Detections,
    Finding,
    joined,
    merged,
    suppressed,
    uncut,
)

corner = st.tuples(st.floats(0, 50), st.floats(0, 50), st.floats(1, 30), st.floats(1, 30))
found = st.lists(st.tuples(corner, st.floats(0, 1)), max_size=12).map(
    lambda rows: Detections(
        np.array([(x, y, x + w, y + h) for (x, y, w, h), _ in rows]).reshape(-1, 4),
        np.array([score for _, score in rows]),
    )
)


@pytest.mark.parametrize("score", [-0.1, 1.1, float("nan")])
def test_a_score_outside_0_to_1_is_refused(score):
    with pytest.raises(ConfigError, match=r"expected scores in \[0, 1\]"):
        Detections([[0, 0, 1, 1]], [score])


@pytest.mark.parametrize("boxes", [[0, 0, 1, 1], [[0, 0, 1, float("nan")]], [[0, 0, 1]]])
def test_what_are_no_boxes_is_refused(boxes):
    with pytest.raises(ConfigError, match=r"^detections: (boxes: )?expected .*, got"):
        Detections(boxes, [0.5])


def test_boxes_given_by_width_and_height_are_refused_with_the_likely_cause():
    with pytest.raises(ConfigError, match=r"got \[100.0, 100.0, 20.0, 40.0\]; is that x,y,width"):
        Detections([[0, 0, 1, 1], [100, 100, 20, 40]], [0.5, 0.5])


def test_each_box_needs_a_score():
    with pytest.raises(ConfigError, match="expected 2 scores, got 1"):
        Detections([[0, 0, 1, 1], [0, 0, 2, 2]], [0.5])


@given(found, st.floats(0.1, 0.9))
def test_of_overlapping_boxes_the_highest_scoring_is_kept(detections, threshold):
    kept = suppressed(detections, threshold)
    assert (np.diff(kept.scores) <= 0).all()
    overlap = box_iou(kept.boxes, kept.boxes) - np.eye(len(kept))
    assert (overlap <= threshold).all()
    # Whoever is missing overlaps somebody with at least its score who was kept.
    for box, score in zip(detections.boxes, detections.scores, strict=True):
        iou = box_iou([box], kept.boxes)[0]
        assert (
            any(np.array_equal(box, other) for other in kept.boxes)
            or ((iou > threshold) & (kept.scores >= score)).any()
        )


FAR = Finding(
    np.array([0, 0, 100, 100]), 0.25,
    Detections([[10, 10, 20, 20], [28, 10, 34, 20], [50, 50, 60, 60]], [0.9, 0.8, 0.7]),
)  # fmt: skip
NEAR = Finding(np.array([5, 5, 30, 30]), 0.5, Detections([[11, 10, 21, 20]], [0.6]))


@pytest.mark.parametrize("order", [[FAR, NEAR], [NEAR, FAR]])
def test_what_lies_in_a_region_is_for_the_closer_look_to_say_in_any_order(order):
    # The first is corrected, the second is cut off by the region, the third lies elsewhere.
    after = merged(order)
    assert after.boxes.tolist() == [[28, 10, 34, 20], [50, 50, 60, 60], [11, 10, 21, 20]]
    assert after.scores.tolist() == [0.8, 0.7, 0.6]


def test_of_pictures_equally_close_the_later_one_decides():
    # Enlarging shows nothing new: 2 and 3 pixels for one are equally close.
    one = Finding(np.array([0, 0, 50, 50]), 3.0, Detections([[10, 10, 20, 20]], [0.9]))
    two = Finding(np.array([5, 5, 60, 60]), 2.0, Detections([[30, 30, 40, 40]], [0.4]))
    assert merged([one, two]).scores.tolist() == [0.4]
    assert merged([two, one]).scores.tolist() == [0.9]


def test_boxes_at_a_border_where_the_scene_goes_on_are_cut_off():
    boxes = [[0, 5, 10, 15], [20, 0, 30, 9], [30, 20, 40, 30], [20, 20, 29, 32], [8, 8, 20, 20]]
    detections = Detections(boxes, [0.9, 0.8, 0.7, 0.6, 0.5])
    assert uncut(detections, (40, 32), (True, True, True, True)).scores.tolist() == [0.5]
    assert uncut(detections, (40, 32), (False, True, True, False)).scores.tolist() == [
        0.9, 0.6, 0.5
    ]  # fmt: skip
    assert len(uncut(detections, (40, 32), (False,) * 4)) == 5


def test_nothing_stays_nothing():
    assert (
        len(suppressed(NOTHING)) == len(joined()) == len(uncut(NOTHING, (9, 9), (True,) * 4)) == 0
    )
    assert len(merged([Finding(np.array([0, 0, 1, 1]), 1.0, NOTHING)])) == 0
    assert len(merged([])) == 0
