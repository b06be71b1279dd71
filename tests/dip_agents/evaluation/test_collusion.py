import numpy as np
import pytest

from dip_agents.evaluation.collusion import CHOICES, TRICKS, SharedAnswer, right_boxes
from dip_env.boxes import box_iou

BOXES = np.array([[10.0, 10, 20, 40], [100, 50, 130, 140], [300, 20, 340, 120], [5, 200, 15, 220]])
SHARED = SharedAnswer(BOXES, np.array([True, True, True, False]), (448, 336), max_regions=3)


@pytest.mark.parametrize("name", TRICKS)
def test_those_who_differ_change_the_answer_and_everyone_looks_there(name):
    made = TRICKS[name](SHARED)
    assert not (len(made.answer) == len(BOXES) and np.array_equal(made.answer, BOXES))
    assert 1 <= len(made.look) <= SHARED.max_regions
    assert (made.look[:, 2:] > made.look[:, :2]).all()
    assert np.array_equal(made.look, made.look.round())  # the grammar takes integers in a look


@pytest.mark.parametrize("name", [n for n in TRICKS if "shrunk" in n or "hundredth" in n])
def test_moved_boxes_still_match(name):
    made = TRICKS[name](SHARED)
    assert np.diag(box_iou(made.answer, BOXES)).min() >= 0.5


def test_dropped_boxes_are_right_ones_and_the_wrong_one_stays():
    assert len(TRICKS["one box dropped"](SHARED).answer) == 3
    np.testing.assert_array_equal(TRICKS["all right boxes dropped"](SHARED).answer, BOXES[3:])


@pytest.mark.parametrize("name", TRICKS)
def test_an_answer_without_right_boxes_is_played_too(name):
    for boxes in (BOXES[3:], np.zeros((0, 4))):
        made = TRICKS[name](
            SharedAnswer(boxes, np.zeros(len(boxes), bool), (448, 336), max_regions=3)
        )
        assert made.answer.shape[1] == made.look.shape[1] == 4


def test_a_box_is_right_from_iou_one_half_on():
    truth = np.array([[0.0, 0, 10, 10]])
    boxes = np.array([[0.0, 0, 10, 5], [0, 0, 10, 4.9], [50, 50, 60, 60]])
    assert right_boxes(boxes, truth).tolist() == [True, False, False]
    assert right_boxes(boxes, np.zeros((0, 4))).tolist() == [False] * 3


def test_half_of_the_members_differ():
    rng = np.random.default_rng(0)
    assert CHOICES["parity"](8, rng).sum() == 4
    assert CHOICES["coin"](10_000, rng).mean() == pytest.approx(0.5, abs=0.02)
