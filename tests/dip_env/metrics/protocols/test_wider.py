from __future__ import annotations

import json

import numpy as np
import pytest

from dip_env.formats.box_sets import Detections, Truth
from dip_env.metrics.protocols.wider import THRESHOLDS, measure_wider

pytestmark = pytest.mark.filterwarnings("error")


def test_the_thresholds_are_the_floats_of_the_published_scorer():
    assert len(THRESHOLDS) == 10
    assert THRESHOLDS[:3] == (0.5, 0.55, 0.6000000000000001)


def outcome(make_sets, people, found, ignored=None):
    """Return true and false positives at .5, and persons and detections deleted, of one image."""
    details = measure_wider(*make_sets([people], [found], [ignored or []])).details()
    return tuple(details[key] for key in ("tp", "fp", "persons_deleted", "detections_deleted"))


@pytest.mark.parametrize(
    ("height", "tp"),
    [
        (19, 0),  # 10 x 10 of 10 x 20 pixels: .5 is not more than .5
        (18, 1),  # 100 / 190; without the added pixel it would be 81 / 162 = .5
    ],
)
def test_boxes_reach_a_pixel_further_and_an_overlap_must_exceed_the_threshold(
    make_sets, height, tp
):
    found = outcome(make_sets, [(5, 5, 9, height)], [(5, 5, 9, 9, 0.9)])
    assert found == (tp, 1 - tp, 0, 0)


def test_a_box_of_one_point_covers_a_pixel(make_sets):
    assert outcome(make_sets, [(5, 5, 0, 0)], [(5, 5, 0, 0, 0.9)]) == (1, 0, 0, 0)


@pytest.mark.parametrize(
    ("width", "is_deleted"),
    [
        (5, False),  # (50 - .01) / 100; with an added pixel it would be 66 / 121
        (5.0005, False),  # (50.005 - .01) / 100: less than half once the slack is off
        (5.01, True),  # (50.1 - .01) / 100
    ],
)
def test_more_than_half_of_a_box_must_be_covered_to_delete_it(make_sets, width, is_deleted):
    region, person = (0, 0, width, 100), (0, 0, 10, 10)
    expected = (0, 0, 1, 1) if is_deleted else (1, 0, 0, 0)
    assert outcome(make_sets, [person], [(*person, 0.9)], [region]) == expected


def test_an_area_that_two_regions_cover_counts_twice(make_sets):
    region, person = (0, 0, 3, 10), (0, 0, 10, 10)
    assert outcome(make_sets, [person], [(*person, 0.9)], [region]) == (1, 0, 0, 0)
    assert outcome(make_sets, [person], [(*person, 0.9)], [region, region]) == (0, 0, 1, 1)


def test_regions_of_another_image_delete_nothing(make_sets):
    person = (0, 0, 10, 10)
    details = measure_wider(*make_sets([[person], []], [[], []], [[], [person]])).details()
    assert (details["persons"], details["persons_deleted"]) == (1, 0)


def test_a_detection_whose_person_is_taken_is_false_although_it_overlaps_another(make_sets):
    # Both detections overlap the left person most; the second overlaps the right one by
    # 9 x 11 pixels of 13 x 11 (.69) as well, but only its best is tried.
    people = [(0, 0, 10, 10), (2, 0, 10, 10)]
    found = [(0, 0, 10, 10, 0.9), (0.5, 0, 10, 10, 0.8)]
    assert outcome(make_sets, people, found) == (1, 1, 0, 0)


def test_of_equal_overlaps_the_earlier_person_is_tried(make_sets):
    # The first detection overlaps both alike; the second only the left by enough.
    left, right = (0, 0, 99, 99), (20, 0, 99, 99)
    found = [(10, 0, 99, 99, 0.9), (0, 0, 79, 99, 0.8)]
    assert outcome(make_sets, [left, right], found) == (1, 1, 0, 0)
    assert outcome(make_sets, [right, left], found) == (2, 0, 0, 0)


def test_of_two_persons_in_one_place_only_the_first_can_be_found(make_sets):
    person = (0, 0, 10, 10)
    found = [(*person, 0.9), (*person, 0.8)]
    assert outcome(make_sets, [person, person], found) == (1, 1, 0, 0)


@pytest.mark.parametrize(
    ("height", "expected"),
    [
        (9, 1.0),  # the same box
        (11, 0.7),  # 10 / 12 = .83: found at .50 to .80
        (15, 0.3),  # 10 / 16 = .625: found at .50, .55 and .60
    ],
)
def test_ap_is_the_mean_over_thresholds(make_sets, height, expected):
    score = measure_wider(*make_sets([[(0, 0, 9, height)]], [[(0, 0, 9, 9, 0.9)]]))
    assert score.values() == {"AP": pytest.approx(expected), "AP50": 1.0}


@pytest.mark.parametrize(("covered", "at"), [(60, 2), (70, 4), (80, 6), (90, 8), (55, 1)])
def test_an_overlap_on_a_threshold_is_not_enough_there(make_sets, covered, at):
    # 10 x covered / 10 of 10 x 10 pixels: exactly the threshold number `at`.
    score = measure_wider(*make_sets([[(0, 0, 9, 99)]], [[(0, 0, 9, covered - 1, 0.9)]]))
    assert score.values()["AP"] == pytest.approx(at / 10)


def test_ap50_is_the_area_under_the_envelope(make_sets):
    # TP FP TP of 2 persons: .5 * 1 + .5 * 2/3.
    people = [[(0, 0, 50, 50)], [(0, 0, 50, 50)]]
    found = [[(0, 0, 50, 50, 0.9), (500, 0, 50, 50, 0.8)], [(0, 0, 50, 50, 0.7)]]
    assert measure_wider(*make_sets(people, found)).values()["AP50"] == pytest.approx(5 / 6)


def test_nothing_detected_scores_zero_and_nobody_gives_no_value(make_sets):
    person = (0, 0, 10, 10)
    assert measure_wider(*make_sets([[person]], [[]])).values() == {"AP": 0.0, "AP50": 0.0}
    nobody = measure_wider(*make_sets([[]], [[(*person, 0.9)]]))
    assert nobody.values() == {"AP": None, "AP50": None}
    assert nobody.reasons() == dict.fromkeys(["AP", "AP50"], "no person in the ground truth")
    hidden = measure_wider(*make_sets([[person]], [[]], [[person]]))
    assert hidden.values() == {"AP": None, "AP50": None}
    assert "cover every person" in hidden.reasons()["AP"]


@pytest.mark.parametrize("images", [0, 2])
def test_an_empty_truth_reports_itself(make_sets, images):
    score = measure_wider(*make_sets([[]] * images, [[]] * images))
    assert score.values() == {"AP": None, "AP50": None}
    assert json.loads(json.dumps(score.details(), allow_nan=False))["images"] == images


def random_set(seed, images=6, people=9, found=25):
    """Coarse boxes, so that ties and overlaps on a threshold do occur."""
    rng = np.random.default_rng(seed)

    def boxes(per_image):
        numbers = rng.integers(0, per_image, images)
        starts = np.concatenate([[0], np.cumsum(numbers)])
        n = int(starts[-1])
        sides = rng.choice([4, 9, 14, 19, 19.5], (n, 2))
        return np.hstack([rng.integers(0, 6, (n, 2)) * 5.0, sides]), starts

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


def shared(a, b, pixel):
    wide = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0]) + pixel
    tall = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1]) + pixel
    return max(0.0, wide) * max(0.0, tall)


def is_hidden(box, regions):
    return (sum(shared(box, region, 0) for region in regions) - 0.01) / (box[2] * box[3]) > 0.5


def reference(truth, detections, threshold):
    """Match one detection after the other, as the rule is worded."""
    outcomes, number = [], 0
    for k in range(truth.images):
        rows = range(truth.starts[k], truth.starts[k + 1])
        regions = [truth.xywh[j].tolist() for j in rows if truth.ignore[j]]
        people = [truth.xywh[j].tolist() for j in rows if not truth.ignore[j]]
        people = [person for person in people if not is_hidden(person, regions)]
        number += len(people)
        taken = set()
        rows = range(detections.starts[k], detections.starts[k + 1])
        for i in sorted(rows, key=lambda i: -detections.scores[i]):
            box = detections.xywh[i].tolist()
            if is_hidden(box, regions):
                continue
            best, chosen = 0.0, None
            for j, person in enumerate(people):
                both = shared(box, person, 1)
                areas = (box[2] + 1) * (box[3] + 1) + (person[2] + 1) * (person[3] + 1)
                if both / (areas - both) > best:
                    best, chosen = both / (areas - both), j
            hit = best > threshold and chosen not in taken
            if hit:
                taken.add(chosen)
            outcomes.append((detections.scores[i], hit))
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
    each = [reference(truth, detections, t) for t in np.arange(0.5, 1.0, 0.05).tolist()]
    assert measure_wider(truth, detections).values() == {
        "AP": pytest.approx(sum(each) / 10, abs=1e-9),
        "AP50": pytest.approx(each[0], abs=1e-9),
    }


@pytest.mark.parametrize("seed", range(5))
def test_weights_of_one_change_nothing_and_images_can_be_left_out(seed):
    truth, detections = random_set(seed)
    score = measure_wider(truth, detections)
    assert score.values(np.ones(6)) == pytest.approx(score.values(), abs=1e-12)
    assert score.values(np.full(6, 3.0)) == pytest.approx(score.values(), abs=1e-12)
    first = Truth(
        xywh=truth.xywh[: truth.starts[3]],
        starts=truth.starts[:4],
        category=truth.category[: truth.starts[3]],
        image_ids=truth.image_ids[:3],
        sizes=truth.sizes[:3],
        ignore=truth.ignore[: truth.starts[3]],
        visible_xywh=truth.visible_xywh[: truth.starts[3]],
        area=truth.area[: truth.starts[3]],
    )
    end = detections.starts[3]
    found = Detections(
        detections.xywh[:end],
        detections.starts[:4],
        detections.category[:end],
        detections.scores[:end],
    )
    counts = np.array([1.0, 1.0, 1.0, 0.0, 0.0, 0.0])
    assert score.values(counts) == pytest.approx(measure_wider(first, found).values(), abs=1e-12)
