from __future__ import annotations

import numpy as np
import pytest

from dip_env.metrics.protocols.crowdhuman import JI_THRESHOLDS, jaccard_index

pytestmark = pytest.mark.filterwarnings("error")

EPS = 1e-6
BOX = [100, 100, 50, 100]
FAR = [600, 600, 50, 100]


def unscored(boxes):
    return [[*box, 1.0] for box in boxes]


def test_ratio_is_pairs_over_the_union_of_both_sets(make_sets):
    # Two persons, three detections, one pair: 1 / (2 + 3 - 1).
    found = unscored([BOX, [300, 100, 50, 50], [400, 100, 50, 50]])
    jaccard = jaccard_index(*make_sets([[BOX, FAR]], [found]), [0.0])
    assert jaccard.ratio.tolist() == [[1 / (4 + EPS)]]
    assert jaccard.value() == 1 / (4 + EPS)


def test_the_sum_of_iou_decides_even_against_more_pairs(make_sets):
    # Squares of 100 in a row, shifted by s: IoU (100 - s) / (100 + s).
    # Shift 32: 68/132 = .515, shift 1: 99/101 = .980, shift 34 and more: no pair.
    # Detections at 0, 33, 66 and persons at 32, 65, 98 form the chain
    # d0 -.515- p0 -.980- d1 -.515- p1 -.980- d2 -.515- p2.
    # Largest sum: two pairs, 1.960; three pairs have 1.545 only. Ratio 2 / (3 + 3 - 2).
    people = [[x, 0, 100, 100] for x in (32, 65, 98)]
    found = unscored([[x, 0, 100, 100] for x in (0, 33, 66)])
    jaccard = jaccard_index(*make_sets([people], [found]), [0.5])
    assert jaccard.pairs.tolist() == [[2]]
    assert jaccard.value() == 2 / (4 + EPS)


def test_unmatched_detections_and_persons_in_regions_count_nowhere(make_sets):
    region = [0, 0, 300, 300]
    # In the region: a pair (it counts), a single detection and a single person (they do not).
    # Outside: a single detection and a single person (they do): 1 / (2 + 2 - 1).
    people = [BOX, [0, 0, 50, 90], FAR]
    found = unscored([BOX, [200, 0, 40, 90], [800, 0, 40, 90]])
    jaccard = jaccard_index(*make_sets([people], [found], [[region]]), [0.5])
    assert (jaccard.pairs[0, 0], jaccard.people[0, 0], jaccard.detections[0, 0]) == (1, 2, 2)
    assert jaccard.value() == 1 / (3 + EPS)


def test_images_where_nothing_counts_are_not_in_the_mean(make_sets):
    region = [0, 0, 500, 500]
    # 0: a pair. 1: empty. 2: a person and a detection apart, both in a region. 3: a detection.
    people = [[BOX], [], [[10, 10, 40, 40]], []]
    found = [unscored([BOX]), [], unscored([[200, 200, 40, 40]]), unscored([FAR])]
    jaccard = jaccard_index(*make_sets(people, found, [[], [], [region], []]), [0.0])
    assert jaccard.counts.tolist() == [[True, False, False, True]]
    assert jaccard.value() == 1 / (1 + EPS) / 2


def test_detections_at_a_threshold_are_not_above_it_and_a_score_of_zero_never_counts(make_sets):
    found = [[*BOX, 0.5], [*FAR, 0.0], [800, 800, 50, 50, 0.9]]
    jaccard = jaccard_index(*make_sets([[BOX, FAR]], [found]), [0.0, 0.4, 0.5, 0.9])
    # Above 0 and .4: BOX and a false one; above .5 the false one only; above .9 nothing.
    assert jaccard.pairs[:, 0].tolist() == [1, 1, 0, 0]
    assert jaccard.detections[:, 0].tolist() == [2, 2, 1, 0]
    assert jaccard.people[:, 0].tolist() == [2, 2, 2, 2]


def test_the_best_threshold_is_reported_the_first_of_equals(make_sets):
    # Up to .3 a false detection spoils it: 1/2. Above, 1/1, until the person's own is gone at .6.
    found = [[*BOX, 0.65], [*FAR, 0.35]]
    jaccard = jaccard_index(*make_sets([[BOX]], [found]), JI_THRESHOLDS)
    half, whole = 1 / (2 + EPS), 1 / (1 + EPS)
    assert jaccard.by_threshold() == [half] * 4 + [whole] * 3 + [0.0] * 3
    assert jaccard.best() == (whole, 0.4)


def test_thresholds_may_come_in_any_order(make_sets):
    found = [[*BOX, 0.65], [*FAR, 0.35]]
    jaccard = jaccard_index(*make_sets([[BOX]], [found]), [0.5, 0.7, 0.1])
    assert jaccard.by_threshold() == [1 / (1 + EPS), 0.0, 1 / (2 + EPS)]


def test_an_image_that_counts_twice_is_there_twice(make_sets):
    people, found = [[BOX], [BOX]], [unscored([BOX]), unscored([FAR])]
    once = jaccard_index(*make_sets(people, found), [0.0])
    people, found = [people[0], people[0], people[1]], [found[0], found[0], found[1]]
    thrice = jaccard_index(*make_sets(people, found), [0.0])
    assert once.value(np.array([2.0, 1.0])) == thrice.value() == 2 / (1 + EPS) / 3
    assert once.value(np.array([0.0, 0.0])) is None


@pytest.mark.parametrize("images", [0, 2])
def test_with_nothing_anywhere_there_is_no_index(make_sets, images):
    jaccard = jaccard_index(*make_sets([[]] * images, [[]] * images), JI_THRESHOLDS)
    assert jaccard.value() is jaccard.best() is None
    assert jaccard.ratio.shape == (10, images)


def crowd(rng, images=4):
    """Return people, scored detections and regions on a coarse grid, where ties are common."""

    def boxes(number):
        corner, side = rng.integers(0, 6, (number, 2)), rng.integers(2, 5, (number, 2))
        return (10.0 * np.hstack([corner, side])).tolist()

    people = [boxes(rng.integers(0, 7)) for _ in range(images)]
    found = [
        [[*box, rng.integers(0, 11) / 10] for box in boxes(rng.integers(0, 9))]
        for _ in range(images)
    ]
    return people, found, [boxes(rng.integers(0, 3)) for _ in range(images)]


@pytest.mark.parametrize("seed", range(30))
def test_solutions_carried_from_threshold_to_threshold_are_those_found_alone(make_sets, seed):
    sets = make_sets(*crowd(np.random.default_rng(seed)))
    together = jaccard_index(*sets, JI_THRESHOLDS)
    for k, threshold in enumerate(JI_THRESHOLDS):
        alone = jaccard_index(*sets, [threshold])
        assert together.ratio[k].tolist() == alone.ratio[0].tolist()
        assert together.counts[k].tolist() == alone.counts[0].tolist()


def test_of_equally_good_choices_the_boxes_decide_and_not_their_order(make_sets):
    # Shifted by 20 to either side, both have IoU 80/120. The left one lies in the region: with it
    # unmatched the ratio would be 1/1, with the right one unmatched it is 1/2.
    person, region = [100, 0, 100, 100], [0, 0, 160, 100]
    found = unscored([[80, 0, 100, 100], [120, 0, 100, 100]])
    for order in (found, found[::-1]):
        jaccard = jaccard_index(*make_sets([[person]], [order], [[region]]), [0.0])
        assert jaccard.value() == 1 / (2 + EPS)


@pytest.mark.parametrize("seed", range(30))
def test_the_order_of_the_boxes_of_an_image_does_not_matter(make_sets, seed):
    rng = np.random.default_rng(seed)
    people, found, ignored = crowd(rng)
    one = jaccard_index(*make_sets(people, found, ignored), JI_THRESHOLDS)
    mixed = [
        [[rows[k] for k in rng.permutation(len(rows))] for rows in images]
        for images in (people, found, ignored)
    ]
    other = jaccard_index(*make_sets(*mixed), JI_THRESHOLDS)
    assert one.ratio.tolist() == other.ratio.tolist()
