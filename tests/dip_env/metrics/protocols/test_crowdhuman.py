from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest

from dip_env.metrics.protocols.crowdhuman import measure_crowdhuman

pytestmark = pytest.mark.filterwarnings("error")

EPS = 1e-6
REFERENCES = (0.01, 0.0178, 0.0316, 0.0562, 0.1, 0.1778, 0.3162, 0.5623, 1.0)
BOX = [100, 100, 100, 100]
FAR = [600, 600, 100, 100]
REGION = [0, 0, 400, 400]


def test_ap_of_a_list_worked_by_hand(make_sets):
    # TP FP TP of 2 persons: recall .5 .5 1, precision 1 1/2 2/3.
    found = [[*BOX, 0.9], [300, 800, 50, 50, 0.8], [*FAR, 0.7]]
    values = measure_crowdhuman(*make_sets([[BOX, FAR]], [found])).values()
    # From the first point on: 0 + .5 * (1/2 + 2/3) / 2 = 7/24. The first point's own: + .5 * 1.
    assert values["AP"] == pytest.approx(7 / 24, abs=1e-15)
    assert values["AP_clean"] == pytest.approx(7 / 24 + 1 / 2, abs=1e-15)


def test_a_perfect_list_of_n_scores_one_less_than_it_should_and_the_clean_ap_repairs_it(make_sets):
    people = [[x, 0, 50, 100] for x in (0, 100, 200, 300)]
    score = measure_crowdhuman(*make_sets([people], [[[*box, 0.9] for box in people]]))
    values = score.values()
    assert (values["AP"], values["AP_clean"]) == (0.75, 1.0)
    assert values["MR"] == pytest.approx(1e-10)
    assert score.details()["floored"] == {"MR": 9}
    assert values["JI"] == 4 / (4 + EPS)


def test_the_two_rules_read_the_miss_rate_at_different_points(make_sets):
    # 10 images, 2 persons; FP then TP: fppi .1 .1, miss 1 .5.
    people = [[BOX, FAR]] + [[]] * 9
    found = [[[*BOX, 0.8]], [[*BOX, 0.9]]] + [[]] * 8
    sets = make_sets(people, found)
    # crowddet: at the five references <= .1 the first point with fppi >= it, miss 1; else the last.
    assert measure_crowdhuman(*sets).values()["MR"] == pytest.approx(0.5 ** (4 / 9), abs=1e-12)
    # caltech: below .1 no point, miss 1; at the five from .1 on the last one, .5.
    caltech = measure_crowdhuman(*sets, mr_rule="caltech")
    assert caltech.values()["MR"] == pytest.approx(0.5 ** (5 / 9), abs=1e-12)
    assert caltech.details()["mr_rule"] == "caltech"


def test_a_region_takes_any_number_of_detections_out_of_the_list(make_sets):
    found = [[*BOX, 0.9], [10, 10, 50, 50, 0.8], [210, 10, 50, 50, 0.7], [*FAR, 0.6]]
    score = measure_crowdhuman(*make_sets([[FAR]], [found], [[REGION]]))
    assert score.swallowed.tolist() == [1, 1, 1, -1]
    assert score.taken.tolist() == [-1, -1, -1, 0]
    assert score.details()["detections_in_ignored"] == 3
    assert (score.details()["tp"], score.details()["fp"]) == (1, 0)


def test_a_person_goes_before_a_region_that_holds_all_of_the_detection(make_sets):
    # The region holds the detection entirely; with the person it has an IoU of 60/100 only.
    detection = [100, 100, 100, 60, 0.9]
    score = measure_crowdhuman(*make_sets([[BOX]], [[detection]], [[REGION]]))
    assert (score.taken.tolist(), score.swallowed.tolist()) == ([0], [-1])


def test_a_second_detection_of_a_person_in_a_region_is_left_out_and_elsewhere_false(make_sets):
    found = [[*BOX, 0.9], [*BOX, 0.8], [*FAR, 0.7], [*FAR, 0.6]]
    score = measure_crowdhuman(*make_sets([[BOX, FAR]], [found], [[REGION]]))
    assert score.taken.tolist() == [0, -1, 1, -1]
    assert score.swallowed.tolist() == [-1, 2, -1, -1]
    assert score.ranked.found.tolist() == [True, True, False]


def test_the_first_region_wins(make_sets):
    # The detection has 60 of its 100 columns in the first region and all in the second.
    regions = [[140, 0, 500, 500], [0, 0, 500, 500]]
    score = measure_crowdhuman(*make_sets([[]], [[[*BOX, 0.9]]], [regions]))
    assert score.swallowed.tolist() == [0]


def test_of_persons_overlapped_equally_the_earlier_is_taken(make_sets):
    # Shifted by 20 to either side: IoU 80/120 both.
    people = [[120, 100, 100, 100], [80, 100, 100, 100]]
    assert measure_crowdhuman(*make_sets([people], [[[*BOX, 0.9]]])).taken.tolist() == [0]
    assert measure_crowdhuman(*make_sets([people[::-1]], [[[*BOX, 0.9]]])).taken.tolist() == [0]


def test_among_equal_scores_the_earlier_detection_and_the_earlier_image_go_first(make_sets):
    # In image 0 the earlier detection takes the person though the later one fits better.
    found = [[[100, 100, 100, 80, 0.5], [*BOX, 0.5]], [[*BOX, 0.5]]]
    score = measure_crowdhuman(*make_sets([[BOX], [BOX]], found))
    assert score.taken.tolist() == [0, -1, 1]
    assert score.ranked.found.tolist() == [True, False, True]


def test_a_better_score_goes_first_wherever_it_stands(make_sets):
    found = [[[100, 100, 100, 80, 0.5], [*BOX, 0.9]]]
    assert measure_crowdhuman(*make_sets([[BOX]], found)).taken.tolist() == [-1, 0]


def test_a_person_who_is_taken_leaves_the_next_best_to_the_next_detection(make_sets):
    # Both detections prefer person 0; the second has IoU 80/120 with person 1 as well.
    people = [BOX, [120, 100, 100, 100]]
    found = [[*BOX, 0.9], [*BOX, 0.8]]
    assert measure_crowdhuman(*make_sets([people], [found])).taken.tolist() == [0, 1]


def test_details_can_be_written_as_json(make_sets):
    score = measure_crowdhuman(*make_sets([[BOX, FAR], []], [[[*BOX, 0.35]], []], [[], [REGION]]))
    details = json.loads(json.dumps(score.details(), allow_nan=False))
    expected = {"images": 2, "persons": 2, "ignored": 1, "detections": 1, "tp": 1, "fp": 0}
    assert {key: details[key] for key in expected} == expected
    assert details["JI_threshold"] == 0.0
    # One of two persons in the only image that counts, until the detection is gone at .4. The
    # region alone makes no image count.
    by_threshold = details["JI_by_threshold"]
    assert list(by_threshold) == [f"{k / 10:g}" for k in range(10)]
    assert list(by_threshold.values()) == [1 / (2 + EPS)] * 4 + [0.0] * 6


def test_without_detections_nothing_is_found_and_everything_missed(make_sets):
    score = measure_crowdhuman(*make_sets([[BOX], []], [[], []]))
    assert score.values() == {"AP": 0.0, "MR": 1.0, "JI": 0.0, "AP_clean": 0.0}
    assert score.reasons() == {}


def test_without_persons_only_ji_is_defined_and_only_if_a_detection_counts(make_sets):
    score = measure_crowdhuman(*make_sets([[], []], [[[*BOX, 0.9]], []], [[], [REGION]]))
    assert score.values() == {"AP": None, "MR": None, "JI": 0.0, "AP_clean": None}
    assert set(score.reasons()) == {"AP", "MR", "AP_clean"}
    score = measure_crowdhuman(*make_sets([[]], [[[*BOX, 0.9]]], [[REGION]]))
    assert score.values() == dict.fromkeys(("AP", "MR", "JI", "AP_clean"))
    assert set(score.reasons()) == {"AP", "MR", "JI", "AP_clean"}


@pytest.mark.parametrize("images", [0, 3])
def test_of_nothing_at_all_nothing_is_defined(make_sets, images):
    score = measure_crowdhuman(*make_sets([[]] * images, [[]] * images))
    assert score.values() == dict.fromkeys(("AP", "MR", "JI", "AP_clean"))
    assert score.details()["JI_threshold"] is None
    json.dumps(score.details(), allow_nan=False)


# The published evaluator once more, in plain loops: slow, and written from its rules alone.


def clip(box, size):
    (x, y, w, h), (wide, tall) = box, size
    x1, y1 = min(max(x, 0), wide - 1), min(max(y, 0), tall - 1)
    return (x1, y1, min(max(x + w, 0), wide), min(max(y + h, 0), tall))


def area(box):
    return (box[2] - box[0]) * (box[3] - box[1])


def shared(one, other):
    wide = min(one[2], other[2]) - max(one[0], other[0])
    tall = min(one[3], other[3]) - max(one[1], other[1])
    return max(wide, 0) * max(tall, 0)


def iou(one, other):
    both = shared(one, other)
    return both / (area(one) + area(other) - both + EPS)


def share(box, region):
    return shared(box, region) / (area(box) + EPS)


def slow_list(people, found, regions):
    """Return (score, found somebody) of the detections of one image that count."""
    free, rows = list(range(len(people))), []
    for box, score in sorted(found, key=lambda row: -row[1]):
        best, bar = None, 0.5
        for k in free:
            if iou(box, people[k]) > bar:
                best, bar = k, iou(box, people[k])
        if best is not None:
            free.remove(best)
        elif any(share(box, region) > 0.5 for region in regions):
            continue
        rows.append((score, best is not None))
    return rows


def slow_pairs(people, found):
    """Return all sets of pairs (detection, person), one to one."""
    if not found:
        return [[]]
    *rest, last = range(len(found))
    choices = slow_pairs(people, [found[k] for k in rest])
    with_last = [
        [*choice, (last, k)]
        for choice in choices
        for k in range(len(people))
        if iou(found[last], people[k]) > 0.5 and k not in {pair[1] for pair in choice}
    ]
    return choices + with_last


def slow_ratio(people, found, regions):
    """Return the ratio of one image, None where nothing counts."""
    pairs = max(
        slow_pairs(people, found),
        key=lambda choice: sum(iou(found[i], people[j]) for i, j in choice),
    )
    lone_found = [box for i, box in enumerate(found) if i not in {pair[0] for pair in pairs}]
    lone_people = [box for j, box in enumerate(people) if j not in {pair[1] for pair in pairs}]
    n, m = (
        len(pairs) + sum(all(share(box, region) <= 0.5 for region in regions) for box in lone)
        for lone in (lone_found, lone_people)
    )
    return len(pairs) / (m + n - len(pairs) + EPS) if m or n else None


def slow_values(people, found, regions, size):
    people, regions = ([[clip(b, size) for b in rows] for rows in s] for s in (people, regions))
    found = [[(clip(row[:4], size), row[4]) for row in rows] for rows in found]
    images = list(zip(people, found, regions, strict=True))
    rows = sorted((row for image in images for row in slow_list(*image)), key=lambda row: -row[0])
    total, tp, points = sum(map(len, people)), 0, []
    for k, (_, hit) in enumerate(rows, start=1):
        tp += hit
        points.append((tp / total, tp / k, (k - tp) / len(images)))
    ap = sum((r2 - r1) * (p1 + p2) / 2 for (r1, p1, _), (r2, p2, _) in itertools.pairwise(points))
    published, caltech = 0.0, 0.0
    for reference in REFERENCES:
        reached = [1 - r for r, _, fppi in points if fppi >= reference]
        published += math.log(max(reached[0] if reached else 1 - points[-1][0], 1e-10)) / 9
        below = [1 - r for r, _, fppi in points if fppi <= reference]
        caltech += math.log(max(below[-1] if below else 1.0, 1e-10)) / 9
    best = 0.0
    for k in range(10):
        ratios = [
            slow_ratio(here, [box for box, score in there if score > 0.1 * k], ignored)
            for here, there, ignored in images
        ]
        counted = [ratio for ratio in ratios if ratio is not None]
        best = max(best, sum(counted) / len(counted))
    return {"AP": ap, "MR": math.exp(published), "JI": best}, math.exp(caltech)


def crowd(rng, images=6):
    """Return people, detections near most of them, and regions; some reach over the border."""

    def boxes(number):
        corner = rng.uniform(-30, 180, (number, 2))
        return np.hstack([corner, rng.uniform(15, 90, (number, 2))])

    people, found, regions = [], [], []
    for _ in range(images):
        here = boxes(rng.integers(0, 5))
        near = np.repeat(here, rng.integers(0, 3, len(here)), axis=0)
        near = near + rng.normal(0, 6, near.shape)
        there = np.vstack([near, boxes(rng.integers(0, 3))])
        there[:, 2:] = np.abs(there[:, 2:])
        there = np.hstack([there, rng.random((len(there), 1))])
        people.append(here.tolist())
        found.append(there[rng.permutation(len(there))].tolist())
        regions.append(boxes(rng.integers(0, 3)).tolist())
    return people, found, regions


@pytest.mark.parametrize("seed", range(40))
def test_the_values_are_those_of_the_published_rules_in_plain_loops(make_sets, seed):
    people, found, regions = crowd(np.random.default_rng(seed))
    expected, caltech = slow_values(people, found, regions, (200, 150))
    sets = make_sets(people, found, regions, size=(200, 150))
    values = measure_crowdhuman(*sets).values()
    assert {key: values[key] for key in expected} == pytest.approx(expected, abs=1e-9)
    assert measure_crowdhuman(*sets, "caltech").values()["MR"] == pytest.approx(caltech, abs=1e-9)


@pytest.mark.parametrize("seed", range(10))
def test_an_image_that_counts_zero_times_is_as_if_it_were_not_there(make_sets, seed):
    rng = np.random.default_rng(seed)
    columns = crowd(rng)
    counts = rng.integers(0, 2, 6)
    counts[rng.integers(6)] = 1
    whole = measure_crowdhuman(*make_sets(*columns)).values(counts.astype(np.float64))
    left = [[rows for rows, kept in zip(rows, counts, strict=True) if kept] for rows in columns]
    part = measure_crowdhuman(*make_sets(*left)).values()
    assert whole == pytest.approx(part, abs=1e-12)
