from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from dip_env.formats.box_sets import Detections, Truth
from dip_env.metrics.protocols.coco import measure_coco
from dip_env.metrics.protocols.uavdt import measure_uavdt

pytestmark = pytest.mark.filterwarnings("error")


def outcome(make_sets, people, found, ignored=None):
    """Return true and false positives and removed detections of one image."""
    details = measure_uavdt(*make_sets([people], [found], [ignored or []])).details()
    return details["tp"], details["fp"], details["detections_removed"]


@pytest.mark.parametrize(("height", "tp"), [(70, 1), (69.99, 0)])
def test_an_iou_of_exactly_seven_tenths_finds_a_person(make_sets, height, tp):
    found = outcome(make_sets, [(0, 0, 10, 100)], [(0, 0, 10, height, 0.9)])
    assert found == (tp, 1 - tp, 0)


@pytest.mark.parametrize(
    ("box", "removed"),
    [
        ((11, 11, 8, 8), True),
        ((10, 11, 8, 8), False),  # touches the left edge
        ((11, 10, 8, 8), False),  # the upper
        ((11, 11, 9, 8), False),  # the right
        ((11, 11, 8, 9), False),  # the lower
        ((11, 11, 8, 20), False),
        ((15, 15, 0, 0), True),  # a point lies inside as well
        ((10, 15, 0, 0), False),
        ((0, 0, 100, 100), False),  # it contains the region
    ],
)
def test_only_a_detection_strictly_inside_a_region_is_removed(make_sets, box, removed):
    found = outcome(make_sets, [], [(*box, 0.9)], [(10, 10, 10, 10)])
    assert found == (0, 1 - removed, int(removed))


def test_a_detection_that_only_two_regions_together_contain_is_not_removed(make_sets):
    regions = [(0, 0, 20, 40), (15, 0, 20, 40)]
    assert outcome(make_sets, [], [(5, 5, 20, 20, 0.9)], regions) == (0, 1, 0)


def test_a_person_inside_a_region_still_counts(make_sets):
    person = (11, 11, 8, 8)
    sets = make_sets([[person]], [[(*person, 0.9)]], [[(10, 10, 10, 10)]])
    score = measure_uavdt(*sets)
    assert score.values() == {"AP70": 0.0}
    assert (score.details()["persons"], score.details()["detections_removed"]) == (1, 1)


def test_a_removed_detection_takes_nobody(make_sets):
    person, region = (1, 1, 100, 90), (0, 0, 100, 100)
    found = [(1, 1, 90, 90, 0.9), (*person, 0.8)]  # the first would find the person: IoU .9
    assert outcome(make_sets, [person], found, [region]) == (1, 0, 1)
    assert outcome(make_sets, [person], found) == (1, 1, 0)


def test_a_region_finds_nobody_and_excuses_nobody_who_touches_it(make_sets):
    region = (10, 10, 10, 10)
    assert outcome(make_sets, [], [(*region, 0.9)], [region]) == (0, 1, 0)


def test_of_equal_overlaps_the_later_person_is_taken(make_sets):
    # The first detection overlaps both by 90 of 110; the second only the left by enough.
    left, right = (0, 0, 100, 100), (20, 0, 100, 100)
    found = [(10, 0, 100, 100, 0.9), (0, 0, 90, 100, 0.8)]  # 90/100 left, 70/120 right
    assert outcome(make_sets, [left, right], found) == (2, 0, 0)
    assert outcome(make_sets, [right, left], found) == (1, 1, 0)


def test_a_detection_goes_on_to_a_free_person_when_the_best_is_taken(make_sets):
    people = [(0, 0, 100, 100), (15, 0, 100, 100)]
    found = [(0, 0, 100, 100, 0.9), (5, 0, 100, 100, 0.8)]  # the second: .90 and .82
    assert outcome(make_sets, people, found) == (2, 0, 0)


def test_ap_is_the_area_under_the_envelope(make_sets):
    # TP FP TP of 2 persons: .5 * 1 + .5 * 2/3.
    people = [[(0, 0, 50, 50)], [(0, 0, 50, 50)]]
    found = [[(0, 0, 50, 50, 0.9), (500, 0, 50, 50, 0.8)], [(0, 0, 50, 50, 0.7)]]
    assert measure_uavdt(*make_sets(people, found)).values()["AP70"] == pytest.approx(5 / 6)


def test_nothing_detected_scores_zero_and_nobody_gives_no_value(make_sets):
    assert measure_uavdt(*make_sets([[(0, 0, 9, 9)]], [[]])).values() == {"AP70": 0.0}
    nobody = measure_uavdt(*make_sets([[]], [[(0, 0, 9, 9, 0.9)]], [[(20, 20, 9, 9)]]))
    assert nobody.values() == {"AP70": None}
    assert nobody.reasons() == {"AP70": "no person in the ground truth"}


@pytest.mark.parametrize("images", [0, 2])
def test_an_empty_truth_reports_itself(make_sets, images):
    score = measure_uavdt(*make_sets([[]] * images, [[]] * images))
    assert score.values() == {"AP70": None}
    assert json.loads(json.dumps(score.details(), allow_nan=False))["images"] == images


def with_classes(sets, true, found, names):
    truth, detections = sets
    return (
        dataclasses.replace(truth, category=np.array(true), category_names=names),
        dataclasses.replace(detections, category=np.array(found)),
    )


def test_classes_are_merged_in_the_value_and_apart_in_the_details(make_sets):
    people = [(0, 0, 50, 50), (100, 0, 50, 50), (200, 0, 50, 50)]
    found = [(*people[0], 0.9), (*people[1], 0.8), (*people[2], 0.7)]
    # The truck is called a car; no bus is there.
    names = {1: "car", 2: "truck", 3: "bus"}
    score = measure_uavdt(*with_classes(make_sets([people], [found]), [1, 1, 2], [1, 1, 1], names))
    assert score.values() == {"AP70": 1.0}
    per_class = score.details()["per_class"]
    assert per_class["car"] == pytest.approx({"AP": 1.0, "AP50": 1.0, "AP75": 1.0})
    assert per_class["truck"] == {"AP": 0.0, "AP50": 0.0, "AP75": 0.0}
    assert per_class["bus"] == {"AP": None, "AP50": None, "AP75": None}
    json.dumps(score.details(), allow_nan=False)


def test_with_one_class_the_details_have_no_classes(make_sets):
    assert "per_class" not in measure_uavdt(*make_sets([[(0, 0, 9, 9)]], [[]])).details()


def test_the_classes_are_those_of_pycocotools_with_five_hundred_detections(make_sets):
    # 501 wrong cars before the right one: cut. The truck is the 1st of its class.
    people = [(0, 0, 50, 50), (100, 0, 50, 50)]
    wrong = [(500, 500, 50, 50, 0.9)] * 501
    sets = make_sets([people], [[*wrong, (*people[0], 0.5), (*people[1], 0.5)]])
    sets = with_classes(sets, [1, 2], [1] * 502 + [2], {1: "car", 2: "truck"})
    per_class = measure_uavdt(*sets).details()["per_class"]
    assert per_class["car"]["AP"] == 0.0
    assert per_class["truck"]["AP"] == pytest.approx(1.0)
    assert per_class == measure_coco(*sets, 500).per_category()


def random_set(seed, images=6, people=9, found=25):
    """Coarse boxes, so that ties and touching edges do occur."""
    rng = np.random.default_rng(seed)

    def boxes(per_image):
        numbers = rng.integers(0, per_image, images)
        starts = np.concatenate([[0], np.cumsum(numbers)])
        n = int(starts[-1])
        sides = rng.choice([7, 10, 14, 30, 40], (n, 2), p=[0.25, 0.25, 0.2, 0.15, 0.15])
        return np.hstack([rng.integers(0, 12, (n, 2)) * 1.0, sides]), starts

    xywh, starts = boxes(people)
    truth = Truth(
        xywh=xywh,
        starts=starts,
        category=np.ones(len(xywh), np.int64),
        image_ids=tuple(range(images)),
        sizes=np.full((images, 2), 200.0),
        ignore=rng.random(len(xywh)) < 0.2,
        visible_xywh=xywh,
        area=xywh[:, 2] * xywh[:, 3],
    )
    xywh, starts = boxes(found)
    scores = rng.integers(0, 20, len(xywh)) / 20
    return truth, Detections(xywh, starts, np.ones(len(xywh), np.int64), scores)


def iou(a, b):
    wide = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    tall = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    both = max(0.0, wide) * max(0.0, tall)
    return both / (a[2] * a[3] + b[2] * b[3] - both)


def is_inside(a, b):
    return b[0] < a[0] and b[1] < a[1] and a[0] + a[2] < b[0] + b[2] and a[1] + a[3] < b[1] + b[3]


def reference(truth, detections):
    """Match one detection after the other, as the rule is worded."""
    outcomes, number = [], 0
    for k in range(truth.images):
        rows = range(truth.starts[k], truth.starts[k + 1])
        regions = [truth.xywh[j].tolist() for j in rows if truth.ignore[j]]
        people = [truth.xywh[j].tolist() for j in rows if not truth.ignore[j]]
        number += len(people)
        free = dict(enumerate(people))
        rows = range(detections.starts[k], detections.starts[k + 1])
        for i in sorted(rows, key=lambda i: -detections.scores[i]):
            box = detections.xywh[i].tolist()
            if any(is_inside(box, region) for region in regions):
                continue
            best, chosen = 0.7, None
            for j, person in free.items():
                if iou(box, person) >= best:
                    best, chosen = iou(box, person), j
            if chosen is not None:
                del free[chosen]
            outcomes.append((detections.scores[i], chosen is not None))
    outcomes.sort(key=lambda pair: -pair[0])
    points, tp = [], 0
    for n, (_, hit) in enumerate(outcomes, 1):
        tp += hit
        points.append((tp / number, tp / n))
    area, before = 0.0, 0.0
    for n, (recall, _) in enumerate(points):
        area += (recall - before) * max(precision for _, precision in points[n:])
        before = recall
    return area


@pytest.mark.parametrize("seed", range(25))
def test_ap_equals_a_plain_loop_over_detections(seed):
    truth, detections = random_set(seed)
    score = measure_uavdt(truth, detections)
    assert score.values()["AP70"] == pytest.approx(reference(truth, detections), abs=1e-9)
    assert score.values(np.ones(6)) == pytest.approx(score.values(), abs=1e-12)
    assert score.values(np.full(6, 2.0)) == pytest.approx(score.values(), abs=1e-12)
