"""Shapes of boxes, worked by hand on an image of 100 x 50 pixels."""

from dataclasses import asdict, astuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dip_agents.grpo.box_stats import BoxStats, box_statistics
from dip_agents.grpo.metrics import box_metrics
from dip_agents.grpo.records import RolloutStats
from dip_env.result import Ending

SIZE = (100, 50)
NONE = np.zeros((0, 4))


def boxes(*rows):
    return np.array(rows, dtype=np.float64).reshape(-1, 4)


def test_shapes_worked_by_hand():
    answer = boxes([0, 0, 10, 10], [0, 0, 10, 20], [50, 0, 200, 50], [0, 0, 10, 10])
    looks = boxes([0, 0, 40, 50], [10, 0, 50, 50], [60, 0, 100, 10])
    found = box_statistics(answer, looks, boxes([0, 0, 5, 10], [0, 0, 3, 50]), SIZE)
    assert asdict(found) == pytest.approx(
        {
            "box_area": 0.03,  # 100, 200, 2500 (cut at the border) and 100 of 5000 pixels
            "truth_area": 0.02,  # 50 and 150
            "huge_boxes": 0.25,  # 2500 is more than 4 * 150
            "duplicates": 1.0,
            "largest_look": 0.4,
            "look_overlap": 0.6,  # 30 of 50 columns
        }
    )


def test_without_boxes_everything_is_nought():
    assert set(astuple(box_statistics(NONE, NONE, NONE, SIZE))) == {0.0}


def test_a_box_around_everything_does_not_hide_thirty_good_ones():
    people = boxes(*([3 * i, 0, 3 * i + 2, 5] for i in range(30)))
    with_one = np.concatenate([people, boxes([0, 0, 100, 50])])
    one, two = (box_statistics(b, NONE, people, SIZE) for b in (people, with_one))
    assert one.box_area == two.box_area == pytest.approx(0.002)
    assert (one.huge_boxes, two.huge_boxes) == (0.0, pytest.approx(1 / 31))


def test_the_largest_person_alone_is_no_huge_box():
    people = boxes([0, 0, 2, 5], [4, 0, 6, 5], [10, 0, 30, 50])
    found = box_statistics(people[2:], NONE, people, SIZE)
    assert found.box_area > 50 * found.truth_area
    assert found.huge_boxes == 0.0


def test_where_nobody_is_no_box_is_too_large_for_somebody():
    assert box_statistics(boxes([0, 0, 100, 50]), NONE, NONE, SIZE).huge_boxes == 0.0


@given(st.integers(1, 6), st.integers(1, 5))
def test_k_copies_of_n_boxes_repeat_all_but_the_first(people, copies):
    distinct = boxes(*([10 * i, 0, 10 * i + 8, 9] for i in range(people)))
    found = box_statistics(np.tile(distinct, (copies, 1)), NONE, distinct, SIZE)
    assert found.duplicates == people * (copies - 1)


def stats(
    boxes=0, truth=2, ending="answer", area=0.0, duplicates=0, look=0.0, overlap=0.0, huge=0.0
):
    shapes = BoxStats(area, 0.01 * truth, huge, duplicates, look, overlap)
    return RolloutStats(1, 0, 0.0, boxes, truth, 0, Ending(ending), box_stats=shapes)


def test_metrics_of_four_rollouts_counted_by_hand():
    rollouts = [
        stats(boxes=6, area=0.1, duplicates=3, look=0.9),
        stats(boxes=2, area=0.3, huge=0.5, look=0.5, overlap=0.9),
        stats(truth=0),  # rightly nobody
        stats(ending="max_turns"),  # no answer is no empty answer
    ]
    assert box_metrics(rollouts) == pytest.approx(
        {
            "rollout/empty_answers": 0.25,
            "rollout/empty_scenes": 0.25,
            "rollout/duplicate_boxes": 3 / 8,
            "rollout/whole_looks": 0.25,
            "rollout/repeated_looks": 0.25,
            "rollout/huge_boxes": 0.25,
            "rollout/box_area": 0.2,
            "rollout/truth_area": 0.02,
        }
    )


def test_areas_of_boxes_that_nobody_gave_are_not_reported():
    assert "rollout/box_area" not in box_metrics([stats()])
    assert "rollout/truth_area" not in box_metrics([stats(boxes=1, truth=0)])
