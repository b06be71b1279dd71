from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dip_env import matching
from dip_env.boxes import box_iou
from dip_env.matching import Matches, overlaps

law = settings(deadline=None, max_examples=50)

# A small grid of corners makes overlaps, ties and exact repeats common.
corner = st.integers(0, 6).map(float)
box = st.tuples(corner, corner, corner, corner)
wide_box = st.tuples(corner, corner).flatmap(
    lambda low: st.tuples(
        st.just(low[0]),
        st.just(low[1]),
        st.integers(1, 6).map(lambda w: low[0] + w),
        st.integers(1, 6).map(lambda h: low[1] + h),
    )
)


def box_lists(max_size, of=wide_box):
    return st.lists(of, max_size=max_size).map(lambda b: np.array(b, dtype=float).reshape(-1, 4))


def match_boxes(pred, truth, ignore_boxes=(), iou_threshold=0.5) -> Matches:
    return overlaps([pred], truth, ignore_boxes)[0].match(iou_threshold)


def best_matching(iou, threshold):
    """Most pairs, then most IoU, by trying every assignment."""
    n, m = iou.shape
    if n > m:
        return best_matching(iou.T, threshold)
    best = (0, 0.0)
    for columns in permutations(range(m), n):
        pairs = [iou[i, j] for i, j in enumerate(columns) if iou[i, j] >= threshold]
        best = max(best, (len(pairs), sum(pairs)))
    return best


def test_a_match_worked_by_hand():
    truth = [[0, 0, 10, 10], [20, 0, 30, 10], [50, 0, 60, 10]]
    pred = [[21, 0, 31, 10], [0, 0, 10, 8], [100, 0, 110, 10], [202, 0, 206, 10]]
    match = match_boxes(pred, truth, ignore_boxes=[[200, 0, 300, 100]])
    assert match.pred.tolist() == [0, 1] and match.truth.tolist() == [1, 0]
    np.testing.assert_allclose(match.iou, [9 / 11, 0.8])
    assert match.unmatched_pred.tolist() == [2]
    assert match.dropped.tolist() == [3]
    assert match.unmatched_truth.tolist() == [2]


def test_three_pairs_win_over_two_better_ones():
    # Heights double along the chain, so neighbours have IoU 0.5 and equals 1: the two equal pairs
    # have IoU 2 in total, the three pairs of neighbours 1.5.
    truth = [[0, 0, 10, 10], [0, 0, 10, 20], [0, 0, 10, 40]]
    pred = [[0, 0, 10, 20], [0, 0, 10, 40], [0, 0, 10, 80]]
    match = match_boxes(pred, truth)
    assert match.truth.tolist() == [0, 1, 2]
    assert match.iou.tolist() == [0.5, 0.5, 0.5]


def test_a_tie_does_not_depend_on_the_order():
    # Both halves fit the person equally well, and the loser counts only outside the ignore region.
    truth, left, right = [[0, 0, 10, 10]], [0, 0, 6, 10], [4, 0, 10, 10]
    ignore = [[5, 0, 100, 100]]
    assert (
        len({len(match_boxes(p, truth, ignore).dropped) for p in permutations([left, right])}) == 1
    )
    # The same from the side of the ground truth: who of two is missed.
    missed = [
        truth_boxes[match_boxes([[0, 0, 10, 10]], truth_boxes).unmatched_truth[0]]
        for truth_boxes in permutations([left, right])
    ]
    assert missed[0] == missed[1]


def test_the_threshold_itself_is_a_match():
    assert len(match_boxes([[0, 0, 10, 5]], [[0, 0, 10, 10]]).pred) == 1
    assert len(match_boxes([[0, 0, 10, 4.999]], [[0, 0, 10, 10]]).pred) == 0


@law
@given(box_lists(5), box_lists(5), st.sampled_from([0.3, 0.5, 0.75]))
def test_no_assignment_has_more_pairs_or_as_many_with_more_iou(pred, truth, threshold):
    pred = np.unique(pred, axis=0)
    match = match_boxes(pred, truth, (), threshold)
    count, total = best_matching(box_iou(pred, truth), threshold)
    assert len(match.pred) == count
    assert match.iou.sum() == pytest.approx(total)


@law
@given(box_lists(6, box), box_lists(5), box_lists(3))
def test_every_box_is_accounted_for_once(pred, truth, ignore):
    match = match_boxes(pred, truth, ignore)
    used = np.concatenate([match.pred, match.unmatched_pred, match.dropped])
    assert sorted(used) == list(range(len(pred)))
    assert sorted(np.concatenate([match.truth, match.unmatched_truth])) == list(range(len(truth)))
    np.testing.assert_allclose(match.iou, box_iou(pred, truth)[match.pred, match.truth])
    assert (match.iou >= 0.5).all()


@law
@given(box_lists(6), box_lists(5), box_lists(3), st.randoms(use_true_random=False))
def test_the_order_of_boxes_never_matters(pred, truth, ignore, rng):
    pred = np.unique(pred, axis=0)
    truth = np.unique(truth, axis=0)
    p, t = (np.array(rng.sample(range(n), n), dtype=int) for n in (len(pred), len(truth)))
    before = match_boxes(pred, truth, ignore)
    after = match_boxes(pred[p], truth[t], ignore[::-1])
    pairs = set(zip(before.pred.tolist(), before.truth.tolist(), strict=True))
    assert pairs == set(zip(p[after.pred].tolist(), t[after.truth].tolist(), strict=True))
    assert set(before.dropped) == set(p[after.dropped])


def test_a_repeat_never_matches():
    # Two people almost on one spot: without this rule a box given twice would find both.
    truth = [[0, 0, 10, 10], [0, 0, 10, 9]]
    match = match_boxes([[0, 0, 10, 10]] * 3, truth)
    assert len(match.pred) == 1
    assert len(match.unmatched_pred) == 2
    assert set(match.repeated) == set(match.unmatched_pred)
    # Both are found by two boxes that differ.
    assert len(match_boxes([[0, 0, 10, 10], [0, 0, 10, 9.5]], truth).pred) == 2


@pytest.mark.parametrize("flat", [[5, 5, 5, 9], [5, 5, 5, 5], [9, 9, 2, 2]])
def test_a_box_without_area_never_matches_and_is_not_dropped(flat):
    match = match_boxes([flat], [[0, 0, 10, 10]], [[0, 0, 10, 10]])
    assert match.unmatched_pred.tolist() == [0]


def test_ignore_counts_the_share_of_the_prediction_in_one_region():
    half, more = [0, 0, 10, 5], [0, 0, 10, 5.1]
    assert len(match_boxes([[0, 0, 10, 10]], [], [half]).dropped) == 0
    assert len(match_boxes([[0, 0, 10, 10]], [], [more]).dropped) == 1
    # Two regions that hold it only together do not drop it.
    assert len(match_boxes([[0, 0, 10, 10]], [], [half, [0, 5, 10, 10]]).dropped) == 0


def test_a_match_is_kept_inside_an_ignore_region():
    match = match_boxes([[0, 0, 10, 10]], [[0, 0, 10, 10]], [[0, 0, 10, 10]])
    assert match.pred.tolist() == [0] and len(match.dropped) == 0


@pytest.mark.parametrize(("n", "m"), [(0, 0), (0, 3), (3, 0)])
def test_nothing_to_match_is_no_error(n, m):
    boxes = np.array([[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]], dtype=float)
    match = match_boxes(boxes[:n], boxes[:m])
    assert len(match.pred) == 0
    assert len(match.unmatched_pred) == n and len(match.unmatched_truth) == m


@law
@given(st.lists(box_lists(5, box), min_size=1, max_size=4), box_lists(5), box_lists(2))
def test_answers_compared_together_match_as_they_would_alone(answers, truth, ignore):
    for answer, together in zip(answers, overlaps(answers, truth, ignore), strict=True):
        alone, joint = match_boxes(answer, truth, ignore), together.match()
        for name in vars(alone):
            np.testing.assert_array_equal(getattr(alone, name), getattr(joint, name))


@pytest.mark.parametrize("at_once", [1, 20, 45, 1000])
def test_answers_compared_in_blocks_match_as_they_would_alone(monkeypatch, at_once):
    monkeypatch.setattr(matching, "_PAIRS_AT_ONCE", at_once)
    rng = np.random.default_rng(0)
    low = rng.integers(0, 6, (4, 2))
    truth = np.concatenate([low, low + 2], axis=1)
    answers = [truth[:count] + 0.25 for count in (0, 4, 2, 0, 3, 1)]
    together = overlaps(answers, truth, truth[:1])
    assert len(together) == len(answers)
    for answer, found in zip(answers, together, strict=True):
        alone = overlaps([answer], truth, truth[:1])[0]
        assert np.array_equal(found.iou, alone.iou)
        assert np.array_equal(found.in_ignore, alone.in_ignore)
