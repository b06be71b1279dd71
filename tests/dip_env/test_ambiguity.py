import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dip_env import ambiguity
from dip_env.ambiguity import (
    detectability,
    prior_ambiguity,
    sibling_ambiguity,
    sibling_table,
)

law = settings(deadline=None, max_examples=50)

ONE = [0.0, 0.0, 10.0, 10.0]
TWO = [20.0, 0.0, 30.0, 10.0]
GHOST = [50.0, 50.0, 60.0, 60.0]

corner = st.integers(0, 8).map(float)
box = st.tuples(corner, corner, st.integers(1, 5), st.integers(1, 5)).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)
box_lists = st.lists(box, max_size=6).map(lambda b: np.array(b, dtype=float).reshape(-1, 4))


def sorted_items(items):
    return sorted((*b, w) for b, w in zip(items.boxes.tolist(), items.weights, strict=True))


def test_a_person_half_of_the_siblings_find_is_fully_ambiguous():
    # Siblings of rollout 0 find person one with IoU 1, 1, 0, 0 and person two always.
    answers = [[], [ONE, TWO], [ONE, TWO], [TWO], [TWO]]
    items = sibling_ambiguity(answers, [ONE, TWO], [])[0]
    np.testing.assert_array_equal(items.boxes, [ONE, TWO])
    np.testing.assert_allclose(items.weights, [1.0, 0.0])


def test_the_weight_is_four_times_the_variance_of_what_accuracy_credits():
    # IoU 1, 0.8 and 0.5: found by all at .5; at .5 and .7 the last gets half of the credit, and the
    # variance of 1, 1 and 1/2 is 1/18.
    answers = [[], [ONE], [[0, 0, 10, 8]], [[0, 0, 10, 5]]]
    assert sibling_ambiguity(answers, [ONE], [])[0].weights.tolist() == [0.0]
    items = sibling_ambiguity(answers, [ONE], [], (0.5, 0.7))[0]
    np.testing.assert_allclose(items.weights, [4 / 18])


def test_only_people_are_items_unless_inventions_have_a_weight():
    answers = [[ONE], [ONE, GHOST], [ONE, GHOST], [ONE], [ONE]]
    for items in sibling_ambiguity(answers, [ONE], []):
        np.testing.assert_array_equal(items.boxes, [ONE])
    half = sibling_ambiguity(answers, [ONE], [], invented_weight=0.5)[0]
    np.testing.assert_allclose(half.weights, [0.0, 4 * 0.5 * 0.5 * 0.5])


def test_what_two_siblings_invent_is_an_item():
    # Two of four siblings see a ghost, one of them one pixel to the right of the other.
    shifted = [51.0, 50.0, 61.0, 60.0]
    answers = [[ONE], [ONE, GHOST], [ONE, shifted], [ONE], [ONE]]
    items = sibling_ambiguity(answers, [ONE], [], invented_weight=1)
    np.testing.assert_allclose(items[0].boxes, [ONE, [50.5, 50, 60.5, 60]])
    np.testing.assert_allclose(items[0].weights, [0.0, 4 * 0.5 * 0.5])
    # Seen from rollout 1, one sibling alone has the ghost.
    np.testing.assert_array_equal(items[1].boxes, [ONE])


def test_a_chain_of_overlaps_is_one_cluster_and_a_sibling_counts_once():
    # Each neighbour at IoU 8/12, the ends at 6/14: joined by the middle. Sibling 1 has both ends.
    left, middle, right = [0, 0, 10, 10], [2, 0, 12, 10], [4, 0, 14, 10]
    answers = [[], [left, right], [middle], [], []]
    items = sibling_ambiguity(answers, [], [], invented_weight=1)
    np.testing.assert_allclose(items[0].boxes, [middle])
    np.testing.assert_allclose(items[0].weights, [1.0])
    # Without the middle, one sibling alone has the two ends, and without them the middle.
    assert len(items[2].boxes) == len(items[1].boxes) == 0


def test_what_lies_in_an_ignore_region_is_no_item():
    answers = [[], [GHOST], [GHOST], []]
    assert len(sibling_ambiguity(answers, [], [], invented_weight=1)[0].boxes) == 1
    assert len(sibling_ambiguity(answers, [], [GHOST], invented_weight=1)[0].boxes) == 0


def test_neither_repeats_nor_boxes_without_area_are_items():
    answers = [[], [ONE, ONE, [5, 5, 5, 9]], [ONE]]
    items = sibling_ambiguity([*answers, *answers], [ONE], [], invented_weight=1)[0]
    np.testing.assert_array_equal(items.boxes, [ONE])
    assert items.weights[0] == pytest.approx(4 * 4 / 5 * 1 / 5)  # four of five siblings find her


@law
@given(box_lists, box_lists, box_lists, st.integers(3, 8))
def test_identical_rollouts_leave_nothing_ambiguous(answer, truth, ignore, group):
    for items in sibling_ambiguity([answer] * group, truth, ignore, invented_weight=1):
        np.testing.assert_array_equal(items.weights, 0.0)


@pytest.mark.parametrize("group", [4, 7, 8])
@pytest.mark.parametrize("height", [5.3, 6.1, 7.7, 8.9])
def test_agreement_on_a_crooked_number_leaves_no_trace_of_variance(group, height):
    # The mean of equal floats may differ from them in the last bit, and the look term would
    # divide that trace by itself.
    answers = [[[0, 0, 10, height]]] * group
    assert sibling_ambiguity(answers, [ONE], [])[0].weights.tolist() == [0.0]


def test_the_order_within_an_answer_changes_no_bit_of_a_cluster():
    rng = np.random.default_rng(0)
    cluster = np.array([0.0, 0.0, 10.0, 10.0]) + rng.random((50, 4)) * [0, 1, 1, 1]
    first = cluster[:1]
    one, other = (
        sibling_ambiguity([[], c, first], [], [], invented_weight=1)[0]
        for c in (cluster, cluster[::-1])
    )
    assert len(one.boxes) == 1
    np.testing.assert_array_equal(one.boxes, other.boxes)


@law
@given(st.lists(box_lists, min_size=3, max_size=5), box_lists, box_lists, box_lists)
def test_an_own_answer_never_moves_the_own_items(answers, truth, ignore, other):
    for g in range(len(answers)):
        changed = [*answers[:g], other, *answers[g + 1 :]]
        before = sibling_ambiguity(answers, truth, ignore, invented_weight=1)[g]
        after = sibling_ambiguity(changed, truth, ignore, invented_weight=1)[g]
        np.testing.assert_array_equal(before.boxes, after.boxes)
        np.testing.assert_array_equal(before.weights, after.weights)


@law
@given(
    st.lists(box_lists, min_size=3, max_size=5),
    box_lists,
    box_lists,
    st.randoms(use_true_random=False),
)
def test_neither_the_order_of_boxes_nor_of_siblings_matters(answers, truth, ignore, rng):
    shuffled = [np.array(rng.sample(a.tolist(), len(a))).reshape(-1, 4) for a in answers]
    siblings = shuffled[1:]
    rng.shuffle(siblings)
    before = sibling_ambiguity(answers, truth, ignore, invented_weight=1)[0]
    siblings = [shuffled[0], *siblings]
    after = sibling_ambiguity(siblings, truth[::-1], ignore[::-1], invented_weight=1)[0]
    np.testing.assert_allclose(sorted_items(before), sorted_items(after), atol=1e-9)


@law
@given(st.lists(box_lists, min_size=1, max_size=5), box_lists, box_lists)
def test_weights_are_shares_and_items_are_boxes_with_area(answers, truth, ignore):
    for items in sibling_ambiguity(answers, truth, ignore, invented_weight=1):
        assert items.boxes.shape == (len(items.weights), 4)
        assert ((items.weights >= 0) & (items.weights <= 1)).all()
        assert (items.boxes[:, 2:] > items.boxes[:, :2]).all()


def test_of_more_invented_boxes_than_are_compared_the_largest_count(monkeypatch):
    monkeypatch.setattr(ambiguity, "MAX_STRAYS", 6)
    small = [[float(k), 0.0, k + 0.5, 0.5] for k in range(0, 40, 2)]
    answers = [[], [*small, GHOST], [GHOST, *small], small]
    items = sibling_ambiguity(answers, [], [], invented_weight=1)[0]
    # Of four members each counts with one box: two share the ghost, the third has a small one.
    np.testing.assert_array_equal(items.boxes, [GHOST])
    np.testing.assert_allclose(items.weights, [4 * 2 / 3 * 1 / 3])


def test_a_group_that_fills_its_answers_with_boxes_is_scored_in_bounded_time():
    rng = np.random.default_rng(0)
    answers = [
        np.concatenate([100 + rng.random((1000, 2)), 140 + rng.random((1000, 2))], axis=1)
        for _ in range(32)
    ]
    start = time.process_time()
    assert len(sibling_ambiguity(answers, [], [], invented_weight=1)) == 32
    assert time.process_time() - start < 10  # without a limit: minutes


def test_thousands_of_piled_boxes_are_one_cluster_in_bounded_time():
    # More pairs than are held at once: five rollouts of 700 boxes, all on one spot.
    rng = np.random.default_rng(0)
    piles = [np.array(ONE) * 10 - rng.random((700, 4)) * 5 for _ in range(5)]
    far = [[[500.0, 500.0, 510.0, 510.0]]]
    start = time.process_time()
    items = sibling_ambiguity([[], *piles, *far], [], [], invented_weight=1)
    assert time.process_time() - start < 10
    # Five of six siblings share the pile; one alone has the far box.
    assert len(items[0].boxes) == 1
    np.testing.assert_allclose(items[0].boxes[0], np.concatenate(piles).mean(axis=0))
    np.testing.assert_allclose(items[0].weights, [4 * 5 / 6 / 6])
    np.testing.assert_allclose(items[1].weights[0], 4 * 4 / 6 * 2 / 6)


def test_half_of_those_16_pixels_tall_and_in_full_view_are_found():
    # s(0) * s(6.5) = 0.5 * 0.9985; s(2 * 1) * s(6.5); s(0) * s(0)
    assert detectability([16, 32, 16], [1, 1, 0.35]) == pytest.approx(
        [0.49925, 0.87948, 0.25], abs=1e-5
    )


def test_the_prior_worked_by_hand():
    # s(0) = 1/2 at a height of 16; s(2) at 32. A visible share of 0.35 halves, 1 hardly matters.
    items = prior_ambiguity([ONE] * 3, [1.0, 0.35, 1.0], [16.0, 1e9, 32.0])
    full, two = 1 / (1 + np.exp(-6.5)), 1 / (1 + np.exp(-2))
    p = np.array([0.5 * full, 0.5, two * full])
    np.testing.assert_allclose(items.weights, 4 * p * (1 - p), atol=1e-9)


@pytest.mark.parametrize(("share", "height"), [(1.0, 200.0), (1.0, 2.0), (0.0, 200.0), (1.0, 0.0)])
def test_the_prior_finds_the_plain_and_the_hopeless_hardly_ambiguous(share, height):
    assert prior_ambiguity([ONE], [share], [height]).weights[0] < 0.15
    assert prior_ambiguity([ONE], [0.9], [16.0]).weights[0] > 0.95


@law
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1e5)), max_size=5))
def test_the_prior_is_a_share(instances):
    shares, heights = zip(*instances, strict=True) if instances else ((), ())
    weights = prior_ambiguity([ONE] * len(instances), shares, heights).weights
    assert ((weights >= 0) & (weights <= 1)).all()


def other_branches(*branches):
    """Return a table in which the siblings of a rollout are those of other branches."""
    return np.array(branches)[:, None] != np.array(branches)


def test_only_the_siblings_given_are_asked():
    # Rollouts 0 and 1 are of one branch. Of the others one of two finds the person, of the two of
    # the first branch both.
    answers = [[ONE], [ONE], [ONE], []]
    items = sibling_ambiguity(answers, [ONE], [], siblings=other_branches(0, 0, 1, 1))
    assert [item.weights.tolist() for item in items] == [[1.0], [1.0], [0.0], [0.0]]


def test_an_invention_counts_among_the_siblings_given():
    answers = [[GHOST], [GHOST], [GHOST], [GHOST], [], []]
    table = other_branches(0, 0, 1, 1, 2, 2)
    items = sibling_ambiguity(answers, [], [], invented_weight=1, siblings=table)
    # Two of four siblings share it; seen from the last branch, four of four do.
    assert [item.weights.tolist() for item in items] == [[1.0]] * 4 + [[0.0]] * 2


@law
@given(st.lists(box_lists, min_size=3, max_size=5), box_lists, box_lists, st.floats(0, 1))
def test_without_a_table_all_others_are_siblings_bit_for_bit(answers, truth, ignore, weight):
    rules = {"thresholds": (0.5, 0.7), "invented_weight": weight}
    table = other_branches(*range(len(answers)))
    given_table = sibling_ambiguity(answers, truth, ignore, **rules, siblings=table)
    for one, other in zip(
        sibling_ambiguity(answers, truth, ignore, **rules), given_table, strict=True
    ):
        assert one.boxes.tobytes() == other.boxes.tobytes()
        assert one.weights.tobytes() == other.weights.tobytes()


@law
@given(
    st.lists(box_lists, min_size=6, max_size=6),
    box_lists,
    box_lists,
    st.lists(box_lists, min_size=2, max_size=2),
)
def test_no_answer_of_a_branch_moves_the_items_of_that_branch(answers, truth, ignore, others):
    table = other_branches(0, 0, 1, 1, 2, 2)

    def measured(answers):
        return sibling_ambiguity(
            answers, truth, ignore, (0.5, 0.7), invented_weight=1, siblings=table
        )

    for first in (0, 2, 4):
        changed = [*answers[:first], *others, *answers[first + 2 :]]
        before, after = measured(answers), measured(changed)
        for member in (first, first + 1):
            np.testing.assert_array_equal(before[member].boxes, after[member].boxes)
            np.testing.assert_array_equal(before[member].weights, after[member].weights)


def test_a_rollout_without_siblings_has_nothing_ambiguous():
    items = sibling_ambiguity([[ONE], []], [ONE], [], siblings=np.zeros((2, 2), bool))
    assert [item.weights.tolist() for item in items] == [[0.0], [0.0]]


def test_a_table_of_another_shape_or_with_oneself_is_named():
    with pytest.raises(ValueError, match=r"siblings: expected shape \(3, 3\), got \(2, 2\)"):
        sibling_table(3, other_branches(0, 1))
    with pytest.raises(ValueError, match=r"expected no rollout to be its own, got \[1\]"):
        sibling_table(2, np.array([[False, True], [True, True]]))
