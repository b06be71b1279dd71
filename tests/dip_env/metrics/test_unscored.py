from __future__ import annotations

import json
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dip_env.metrics.unscored import THRESHOLDS, measure_unscored, tied_average_precision

pytestmark = pytest.mark.filterwarnings("error")

# Multiples of 3 with odd offsets make ties, repeats and nested boxes common.
side = st.integers(1, 4).map(lambda k: 3.0 * k)
place = st.integers(-2, 4).map(lambda k: 2.0 * k)
box = st.tuples(place, place, side, side)
scored = box.map(lambda b: (*b, 0.5))
images = st.lists(
    st.tuples(st.lists(box, max_size=4), st.lists(scored, max_size=4), st.lists(box, max_size=2)),
    min_size=1,
    max_size=4,
)


@pytest.mark.parametrize("width", [1e-9, 6e-16, 4.5e-16, 4.4409e-16])
def test_a_box_that_is_found_exactly_has_an_iou_of_one_at_most(make_sets, width):
    # The corners of so thin a box differ by more than its width.
    box = (-5.0, 0.0, width, 1e8)
    value = measure_unscored(*make_sets([[box] * 3], [[(*box, 0.5)] * 3])).values()["mean_iou"]
    assert value is None or value <= 1


def iou_of(a, b):
    wide = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    tall = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    shared = max(wide, 0) * max(tall, 0)
    return shared / (a[2] * a[3] + b[2] * b[3] - shared)


def share_of(a, regions):
    shares = [0.0]
    for b in regions:
        wide = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
        tall = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
        shares.append(max(wide, 0) * max(tall, 0) / (a[2] * a[3]))
    return max(shares)


def best_by_trying(people, found, threshold):
    """Most pairs and then most IoU, by every assignment."""
    if not people or not found:
        return 0, 0.0
    iou = np.array([[iou_of(d, p) for p in people] for d in found])
    iou = iou if len(found) <= len(people) else iou.T
    best = (0, 0.0)
    for columns in permutations(range(iou.shape[1]), iou.shape[0]):
        pairs = [iou[i, j] for i, j in enumerate(columns) if iou[i, j] >= threshold]
        best = max(best, (len(pairs), sum(pairs)))
    return best


def test_an_image_worked_by_hand(make_sets):
    # Persons of 10 x 10: A found exactly, B found with IoU .72, C missed, D inside the region
    # and missed. Detections: A, B, a second one on A (IoU .9), one far off, one in the region.
    people = [[(0, 0, 10, 10), (20, 0, 10, 10), (40, 0, 10, 10), (80, 80, 10, 10)]]
    found = [
        [
            (0, 0, 10, 10, 1),
            (20, 0, 10, 7.2, 1),
            (0, 0, 10, 9, 1),
            (60, 0, 10, 10, 1),
            (90, 60, 10, 10, 1),
        ]
    ]
    truth, detections = make_sets(people, found, [[(60, 60, 40, 40)]])
    score = measure_unscored(truth, detections)
    value = score.values()
    assert (value["tp"], value["fp"], value["fn"], value["dropped"]) == (2, 2, 2, 1)
    assert value["precision"] == 1 / 2
    assert value["recall"] == 1 / 2
    assert value["F1"] == 1 / 2
    assert value["mean_iou"] == pytest.approx((1 + 0.72) / 2, abs=1e-15)
    # JI: D lies in the region and is no person there: k=2, m=3, n=4.
    assert value["JI"] == pytest.approx(2 / (3 + 4 - 2), abs=1e-6)
    # Up to IoU .70: R = 2/4, so 51 recall points at P = 2/4. Above: 1 of 4, 26 points at P = 1/4.
    high, low = 0.5 * 51 / 101, 0.25 * 26 / 101
    assert value["AP50_tied"] == pytest.approx(high, abs=1e-15)
    assert value["AP75_tied"] == pytest.approx(low, abs=1e-15)
    assert value["AP_tied"] == pytest.approx((high + low) / 2, abs=1e-15)
    assert value["AP_tied_ioa05"] == value["AP_tied"]
    assert value["precision_50_95"] == pytest.approx((0.5 + 0.25) / 2)
    assert value["recall_50_95"] == value["F1_50_95"] == value["precision_50_95"]
    # Four boxes that count, four persons; one of them doubles A.
    assert value["count_mae"] == value["count_rmse"] == 0
    assert value["duplicates_per_answer"] == 1
    assert value["MR"] is None
    assert score.reasons() == {"MR": "it needs real scores"}
    assert score.matched.found.tolist() == [True, True, False, False, False]
    assert score.matched.used.tolist() == [True, True, False, False, False]
    assert score.matched.dropped.tolist() == [False, False, False, False, True]
    per_iou = score.details()["per_iou"]
    assert per_iou["0.75"]["tp"] == 1
    assert per_iou["0.50"]["AP_tied"] == value["AP50_tied"]


def test_most_pairs_win_and_then_most_overlap(make_sets):
    # Heights double along the chain, so neighbours have IoU .5 and equals 1: two equal pairs have
    # more IoU in total than the three pairs of neighbours.
    people = [[(0, 0, 10, 10), (0, 0, 10, 20), (0, 0, 10, 40)]]
    found = [[(0, 0, 10, 20, 1), (0, 0, 10, 40, 1), (0, 0, 10, 80, 1)]]
    value = measure_unscored(*make_sets(people, found)).values()
    assert (value["tp"], value["mean_iou"]) == (3, 0.5)
    # JI maximises the sum of IoU over pairs above .5: the two equal ones. 2 / (3 + 3 - 2).
    assert value["JI"] == pytest.approx(1 / 2, abs=1e-6)


def test_an_exact_repeat_may_find_somebody_else(make_sets):
    people = [[(0, 0, 10, 10), (0, 0, 10, 9)]]
    found = [[(0, 0, 10, 10, 1), (0, 0, 10, 10, 1), (0, 0, 10, 10, 1)]]
    value = measure_unscored(*make_sets(people, found)).values()
    assert (value["tp"], value["fp"], value["duplicates_per_answer"]) == (2, 1, 1)


def test_boxes_are_not_clipped(make_sets):
    # Inside the image both are the same box; outside, the answer is four times as large.
    people, found = [[(90, 0, 20, 10)]], [[(90, 0, 80, 10, 1)]]
    value = measure_unscored(*make_sets(people, found, size=(100, 100))).values()
    assert (value["tp"], value["fp"]) == (0, 1)
    assert value["JI"] == pytest.approx(1, abs=1e-5)  # CrowdHuman's rule clips


def test_exactly_half_in_a_region_is_dropped_by_cocos_rule_only(make_sets):
    # One person found. The unmatched box has half its area in the region: COCO's rule at .50 drops
    # it (>=), the fixed rule (> .5) never does; above .50 both keep it.
    truth, detections = make_sets(
        [[(0, 0, 10, 10)]], [[(0, 0, 10, 10, 1), (50, 0, 10, 10, 1)]], [[(55, 0, 40, 40)]]
    )
    score = measure_unscored(truth, detections)
    value = score.values()
    assert (value["dropped"], value["fp"]) == (0, 1)
    assert score.matched.dropped.tolist() == [False, False]
    assert value["AP50_tied"] == score.details()["per_iou"]["0.50"]["AP_tied"] == 1
    assert value["AP75_tied"] == 1 / 2
    assert value["AP_tied"] == pytest.approx((1 + 9 * 0.5) / 10)
    assert value["AP_tied_ioa05"] == pytest.approx(0.5)


def test_two_regions_that_hold_a_box_only_together_do_not_drop_it(make_sets):
    halves = [[(0, 0, 5, 10), (5, 0, 5, 10)]]
    truth, detections = make_sets([[]], [[(0, 0, 10, 10, 1)]], halves)
    assert measure_unscored(truth, detections).values()["fp"] == 1


def test_a_second_box_in_a_region_is_dropped_and_no_duplicate(make_sets):
    people, found = [[(0, 0, 10, 10)]], [[(0, 0, 10, 10, 1), (0, 0, 10, 9, 1)]]
    value = measure_unscored(*make_sets(people, found, [[(0, 0, 50, 50)]])).values()
    assert (value["tp"], value["dropped"], value["duplicates_per_answer"]) == (1, 1, 0)


def test_a_tie_does_not_depend_on_the_order(make_sets):
    # Both halves fit the person equally well, and the loser counts only outside the region.
    person, left, right = (0, 0, 10, 10), (0, 0, 6, 10), (4, 0, 6, 10)
    region = [[(5, 0, 95, 100)]]
    for found in permutations([(*left, 1), (*right, 1)]):
        value = measure_unscored(*make_sets([[person]], [found], region)).values()
        assert (value["fp"], value["dropped"]) == (0, 1)
    # The same from the side of the people: who of two is missed.
    for people in permutations([left, right]):
        score = measure_unscored(*make_sets([people], [[(*person, 1)]]))
        assert people[score.matched.found.tolist().index(True)] == left


def test_counts_are_compared_image_by_image(make_sets):
    # 2 boxes for 0 persons, 0 for 1: errors 2 and 1, though both images have 3 of anything.
    far = [(500, 500, 9, 9, 1), (600, 600, 9, 9, 1)]
    value = measure_unscored(*make_sets([[], [(0, 0, 9, 9)]], [far, []])).values()
    assert value["count_mae"] == 1.5
    assert value["count_rmse"] == pytest.approx((5 / 2) ** 0.5)


@given(st.integers(1, 300), st.integers(0, 300), st.integers(0, 300))
def test_the_tied_ap_is_cocos_sum_over_101_recalls(people, tp, fp):
    tp = min(tp, people)
    precision = tp / (tp + fp) if tp else 0.0
    # A recall of k/100 is reached when tp / people >= k / 100, in whole numbers.
    points = [precision if 100 * tp >= k * people and tp else 0.0 for k in range(101)]
    expected = sum(points) / 101
    assert tied_average_precision(tp, tp + fp, people) == pytest.approx(expected, abs=1e-12)


@settings(max_examples=60)
@given(images)
def test_no_assignment_is_better_and_every_box_is_accounted_for(make_sets, rows):
    people, found, regions = (list(column) for column in zip(*rows, strict=True))
    score = measure_unscored(*make_sets(people, found, regions))
    value, per_iou = score.values(), score.details()["per_iou"]
    for threshold in THRESHOLDS:
        best = [best_by_trying(p, d, threshold) for p, d in zip(people, found, strict=True)]
        row = per_iou[f"{threshold:.2f}"]
        assert row["tp"] == sum(pairs for pairs, _ in best)
        assert row["tp"] + row["fp"] + row["dropped"] == sum(map(len, found))
        assert row["tp"] + row["fn"] == sum(map(len, people))
        if threshold == 0.5 and row["tp"]:
            total = sum(iou for _, iou in best)
            assert value["mean_iou"] == pytest.approx(total / row["tp"])
    held = [share_of(d, r) > 0.5 for f, r in zip(found, regions, strict=True) for d in f]
    assert score.matched.dropped.tolist() == [
        inside and not used for inside, used in zip(held, score.matched.used, strict=True)
    ]


@settings(max_examples=40)
@given(images, st.randoms(use_true_random=False))
def test_the_order_of_boxes_and_images_never_matters(make_sets, rows, random):
    rows = [tuple(list(dict.fromkeys(part)) for part in row) for row in rows]
    shuffled = [tuple(random.sample(part, len(part)) for part in row) for row in rows]
    random.shuffle(shuffled)
    value, again = (
        measure_unscored(*make_sets(*(list(c) for c in zip(*order, strict=True)))).values()
        for order in (rows, shuffled)
    )
    assert value == pytest.approx(again, nan_ok=False)


@settings(max_examples=40)
@given(images, st.data())
def test_an_image_that_counts_k_times_is_as_if_it_stood_there_k_times(make_sets, rows, data):
    counts = data.draw(st.lists(st.integers(0, 3), min_size=len(rows), max_size=len(rows)))
    columns = [list(column) for column in zip(*rows, strict=True)]
    weighted = measure_unscored(*make_sets(*columns)).values(np.array(counts, dtype=np.float64))
    repeated = [row for row, count in zip(rows, counts, strict=True) for _ in range(count)]
    columns = [list(column) for column in zip(*repeated, strict=True)] or [[], [], []]
    assert weighted == pytest.approx(measure_unscored(*make_sets(*columns)).values())


def test_no_box_at_all_finds_nobody(make_sets):
    score = measure_unscored(*make_sets([[(0, 0, 9, 9)]], [[]]))
    value = score.values()
    assert value["precision"] is value["mean_iou"] is value["precision_50_95"] is None
    assert value["recall"] == value["F1"] == value["AP_tied"] == value["JI"] == 0
    assert (value["fn"], value["count_mae"]) == (1, 1)
    assert set(score.reasons()) == {"precision", "mean_iou", "precision_50_95", "MR"}


def test_nobody_to_find_has_no_recall(make_sets):
    score = measure_unscored(*make_sets([[]], [[(0, 0, 9, 9, 1)]]))
    value = score.values()
    assert value["precision"] == value["F1"] == value["JI"] == 0
    names = {"recall", "AP_tied", "AP50_tied", "AP75_tied", "AP_tied_ioa05", "recall_50_95"}
    assert set(score.reasons()) == names | {"mean_iou", "MR"}
    assert score.reasons()["recall"] == "there was nobody to find"


@pytest.mark.parametrize("images", [0, 1])
def test_nothing_anywhere_is_null_with_reasons_and_plain_json(make_sets, images):
    score = measure_unscored(*make_sets([[]] * images, [[]] * images))
    value = score.values()
    undefined = {name for name, v in value.items() if v is None}
    assert {"precision", "recall", "F1", "JI", "AP_tied", "MR"} <= undefined
    assert set(score.reasons()) == undefined
    assert (value["count_mae"] == 0) == (images == 1)
    json.dumps([value, score.reasons(), score.details()], allow_nan=False)


def test_a_score_plays_no_part(make_sets):
    # JI keeps detections with a score above its threshold; here all count, score 0 too.
    people = [[(0, 0, 9, 9)]]
    low = measure_unscored(*make_sets(people, [[(0, 0, 9, 9, 0)]])).values()
    assert low == measure_unscored(*make_sets(people, [[(0, 0, 9, 9, 1)]])).values()
    assert low["JI"] == pytest.approx(1, abs=1e-5)
