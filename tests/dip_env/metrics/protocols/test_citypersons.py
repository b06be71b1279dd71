from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dip_env.formats.box_sets import Detections, Truth
from dip_env.metrics.protocols.citypersons import SETUPS, measure_citypersons

pytestmark = pytest.mark.filterwarnings("error")

REFERENCES = [0.0100, 0.0178, 0.0316, 0.0562, 0.1000, 0.1778, 0.3162, 0.5623, 1.0000]

# Height from, to, visibility from, to; of detections: height from (included), to (excluded).
ROWS = {
    "MR_reasonable": (50, math.inf, 0.65, math.inf, 40, math.inf),
    "MR_small": (50, 75, 0.65, math.inf, 40, 93.75),
    "MR_heavy": (50, math.inf, 0.2, 0.65, 40, math.inf),
    "MR_heavy_unbounded": (50, math.inf, -1, 0.65, 40, math.inf),
    "MR_bare": (50, math.inf, 0.9, math.inf, 40, math.inf),
    "MR_partial": (50, math.inf, 0.65, 0.9, 40, math.inf),
    "MR_all": (20, math.inf, 0.2, math.inf, 16, math.inf),
}


def counted(make_sets, box, visible=None):
    """Return the setups that count a person."""
    sets = make_sets([[box]], [[]], visible=None if visible is None else [[visible]])
    persons = measure_citypersons(*sets).details()["persons"]
    return {key.removeprefix("MR_") for key, number in persons.items() if number}


@pytest.mark.parametrize(
    ("height", "expected"),
    [
        (19.99, set()),
        (20, {"all"}),
        (49.99, {"all"}),
        (50, {"all", "reasonable", "bare", "small"}),
        (75, {"all", "reasonable", "bare", "small"}),
        (75.01, {"all", "reasonable", "bare"}),
    ],
)
def test_limits_on_the_height_of_persons_are_included(make_sets, height, expected):
    assert counted(make_sets, (0, 0, 30, height)) == expected


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (0, {"heavy_unbounded"}),
        (19, {"heavy_unbounded"}),
        (20, {"all", "heavy", "heavy_unbounded"}),
        (64, {"all", "heavy", "heavy_unbounded"}),
        (65, {"all", "heavy", "heavy_unbounded", "reasonable", "partial"}),
        (66, {"all", "reasonable", "partial"}),
        (90, {"all", "reasonable", "partial", "bare"}),
        (91, {"all", "reasonable", "bare"}),
    ],
)
def test_limits_on_visibility_are_included_and_the_two_heavy_splits_differ(
    make_sets, seen, expected
):
    assert counted(make_sets, (0, 0, 100, 100), (0, 0, seen, 100)) == expected


@pytest.mark.parametrize(("y", "height", "error"), [(100.003, 50, -1), (100.002, 75, 1)])
def test_the_height_is_the_one_in_the_file_not_a_difference_of_corners(make_sets, y, height, error):
    assert np.sign((y + height) - y - height) == error  # corners would leave the setup
    assert "small" in counted(make_sets, (0, y, 20, height))


def test_a_person_without_area_belongs_to_no_setup(make_sets):
    assert counted(make_sets, (0, 0, 0, 100)) == set()


def outcome(make_sets, people, found, ignored=None, key="MR_reasonable", visible=None):
    """Return true and false positives of one image."""
    sets = make_sets(
        [people], [found], [ignored or []], visible=None if visible is None else [visible]
    )
    details = measure_citypersons(*sets).details()
    return details["tp"][key], details["fp"][key]


@pytest.mark.parametrize(("height", "expected"), [(50, (1, 0)), (49.99, (0, 1))])
def test_an_iou_of_exactly_a_half_finds_a_person(make_sets, height, expected):
    # 50 * 50 / (50 * 100) = .5
    assert outcome(make_sets, [(0, 0, 50, 100)], [(0, 0, 50, height, 0.9)]) == expected


@pytest.mark.parametrize(("width", "expected"), [(50, (0, 0)), (49.99, (0, 1))])
def test_a_detection_is_left_out_when_exactly_half_of_it_lies_in_an_ignore_box(
    make_sets, width, expected
):
    found = [(0, 0, 100, 100, 0.9)]
    assert outcome(make_sets, [], found, [(0, 0, width, 500)]) == expected


def test_parts_in_two_ignore_boxes_do_not_add_up(make_sets):
    ignored = [(0, 0, 40, 100), (60, 0, 40, 100)]
    assert outcome(make_sets, [], [(0, 0, 100, 100, 0.9)], ignored) == (0, 1)


def test_an_ignore_box_can_be_used_again(make_sets):
    found = [(0, 0, 50, 100, 0.9), (50, 0, 50, 100, 0.8)]
    assert outcome(make_sets, [], found, [(0, 0, 100, 100)]) == (0, 0)


def test_of_equal_overlaps_the_later_person_is_taken(make_sets):
    # The first detection shares 90 x 100 with both persons. The second overlaps only the left.
    left, right = (0, 0, 100, 100), (20, 0, 100, 100)
    found = [(10, 0, 100, 100, 0.9), (0, 0, 60, 100, 0.8)]
    assert outcome(make_sets, [left, right], found) == (2, 0)
    assert outcome(make_sets, [right, left], found) == (1, 1)


def test_a_detection_goes_on_to_a_free_person_when_the_best_is_taken(make_sets):
    people = [(0, 0, 100, 100), (30, 0, 100, 100)]
    found = [(0, 0, 100, 100, 0.9), (10, 0, 100, 100, 0.8)]  # the second: IoU .82 and .67
    assert outcome(make_sets, people, found) == (2, 0)


def test_a_person_comes_before_an_ignore_box_and_the_second_detection_of_it_does_not_count(
    make_sets,
):
    found = [(0, 0, 50, 100, 0.9), (0, 0, 50, 100, 0.8)]
    person = [(0, 0, 50, 100)]
    assert outcome(make_sets, person, found, [(0, 0, 500, 500)]) == (1, 0)
    assert outcome(make_sets, person, found) == (1, 1)


def test_a_person_outside_the_setup_is_ignored_there_and_found_elsewhere(make_sets):
    person, found = [(0, 0, 100, 100)], [(0, 0, 100, 100, 0.9), (0, 0, 100, 90, 0.8)]
    half_seen = [(0, 0, 50, 100)]
    assert outcome(make_sets, person, found, visible=half_seen) == (0, 0)
    assert outcome(make_sets, person, found, key="MR_heavy", visible=half_seen) == (1, 1)


@pytest.mark.parametrize(
    ("key", "height", "read"),
    [
        ("MR_reasonable", 39.99, False),
        ("MR_reasonable", 40, True),  # 50 / 1.25, included
        ("MR_small", 93.74, True),
        ("MR_small", 93.75, False),  # 75 * 1.25, not included
        ("MR_all", 15.99, False),
        ("MR_all", 16, True),
    ],
)
def test_detections_far_from_the_heights_of_a_setup_are_not_read(make_sets, key, height, read):
    assert outcome(make_sets, [], [(0, 0, 20, height, 0.9)], key=key) == (0, int(read))


def test_a_detection_that_is_not_read_takes_nobody(make_sets):
    # The better one is too tall for the small setup; the person is left for the other.
    found = [(0, 0, 50, 94, 0.9), (0, 0, 50, 70, 0.8)]
    assert outcome(make_sets, [(0, 0, 50, 70)], found, key="MR_small") == (1, 0)
    assert outcome(make_sets, [(0, 0, 50, 70)], found) == (1, 1)


@pytest.mark.parametrize(("number", "tp"), [(999, 1), (1000, 0)])
def test_the_best_thousand_of_an_image_are_chosen_before_heights_are_looked_at(
    make_sets, number, tp
):
    low = [(200, 0, 5, 10, 0.9)] * number
    truth, detections = make_sets([[(0, 0, 50, 100)], []], [[(0, 0, 50, 100, 0.1), *low], low])
    details = measure_citypersons(truth, detections).details()
    assert (details["tp"]["MR_reasonable"], details["fp"]["MR_reasonable"]) == (tp, 0)
    assert details["detections_cut"] == 1 - tp


@pytest.mark.parametrize(
    ("images", "rule", "expected"),
    [
        # A false positive, then one of two persons. fppi .01 at both: every reference reads .5.
        (100, "citypersons", 0.5),
        (100, "caltech", 0.5),
        # fppi .02: nothing at or under .0100 and .0178; the wrapped index reads the last point.
        (50, "caltech", 0.5 ** (7 / 9)),
        (50, "citypersons", 0.5),
    ],
)
def test_false_positives_are_counted_per_image_empty_ones_included(
    make_sets, images, rule, expected
):
    people = [[(0, 0, 50, 100), (300, 0, 50, 100)], *[[]] * (images - 1)]
    found = [[(600, 0, 50, 100, 0.9), (0, 0, 50, 100, 0.8)], *[[]] * (images - 1)]
    score = measure_citypersons(*make_sets(people, found), rule)
    assert score.values()["MR_reasonable"] == pytest.approx(expected, abs=1e-15)


def test_nothing_detected_misses_everybody_and_nobody_gives_no_value(make_sets):
    score = measure_citypersons(*make_sets([[(0, 0, 30, 30)]], [[]]))
    assert score.values() == {key: 1.0 if key == "MR_all" else None for key in ROWS}
    reasons = score.reasons()
    assert set(reasons) == set(ROWS) - {"MR_all"}
    assert reasons["MR_small"] == (
        "no person 50 to 75 pixels tall and 65% to 100% visible in the ground truth"
    )


@pytest.mark.parametrize("images", [0, 1])
def test_an_empty_truth_has_no_values_and_reports_itself(make_sets, images):
    score = measure_citypersons(*make_sets([[]] * images, [[]] * images))
    assert set(score.values().values()) == {None}
    assert set(score.reasons()) == set(SETUPS)
    assert json.loads(json.dumps(score.details(), allow_nan=False))["images"] == images


def test_a_perfect_answer_is_floored_at_every_reference(make_sets):
    score = measure_citypersons(*make_sets([[(0, 0, 50, 100)]], [[(0, 0, 50, 100, 1)]]))
    assert score.values()["MR_bare"] == pytest.approx(1e-10)
    assert score.details()["floored"]["MR_bare"] == 9
    assert score.details()["floored"]["MR_heavy"] == 0


def random_set(seed, images=6, people=9, found=30):
    """Coarse boxes, so that ties and overlaps of exactly a half do occur."""
    rng = np.random.default_rng(seed)
    numbers = rng.integers(0, people, images)
    starts = np.concatenate([[0], np.cumsum(numbers)])
    total = int(starts[-1])

    def boxes(n):
        sides = np.stack([rng.choice([10, 20, 30], n), rng.choice([15, 30, 50, 75, 90], n)], 1)
        return np.hstack([rng.integers(0, 8, (n, 2)) * 10.0, sides])

    xywh = boxes(total)
    seen = xywh.copy()
    seen[:, 3] *= rng.choice([0.1, 0.2, 0.4, 0.65, 0.8, 0.9, 1.0], total)
    truth = Truth(
        xywh=xywh,
        starts=starts,
        category=np.ones(total, np.int64),
        image_ids=tuple(range(images)),
        sizes=np.full((images, 2), 200.0),
        ignore=rng.random(total) < 0.2,
        visible_xywh=seen,
        area=xywh[:, 2] * xywh[:, 3],
    )
    numbers = rng.integers(0, found, images)
    starts = np.concatenate([[0], np.cumsum(numbers)])
    total = int(starts[-1])
    scores = rng.integers(0, 12, total) / 12
    return truth, Detections(boxes(total), starts, np.ones(total, np.int64), scores)


def shared(a, b):
    wide = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    tall = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    return max(0.0, wide) * max(0.0, tall)


def reference(truth, detections, row):
    """Match one detection after the other, as the rule is worded."""
    low, high, least, most, shortest, tallest = row
    outcomes, persons = [], 0
    for k in range(truth.images):
        real, ignored = [], []
        for j in range(truth.starts[k], truth.starts[k + 1]):
            box, seen = truth.xywh[j].tolist(), truth.visible_xywh[j].tolist()
            visible = seen[2] * seen[3] / (box[2] * box[3])
            inside = low <= box[3] <= high and least <= visible <= most
            (real if inside and not truth.ignore[j] else ignored).append(box)
        persons += len(real)
        free = dict(enumerate(real))
        rows = range(detections.starts[k], detections.starts[k + 1])
        for i in sorted(rows, key=lambda i: -detections.scores[i])[:1000]:
            box = detections.xywh[i].tolist()
            if not shortest <= box[3] < tallest:
                continue
            area, best, chosen = box[2] * box[3], 0.5, None
            for j, person in free.items():
                both = shared(box, person)
                iou = both / (area + person[2] * person[3] - both)
                if iou >= best:
                    best, chosen = iou, j
            if chosen is not None:
                del free[chosen]
                outcomes.append((detections.scores[i], 1))
            elif not any(shared(box, region) / area >= 0.5 for region in ignored):
                outcomes.append((detections.scores[i], 0))
    if not persons:
        return None
    outcomes.sort(key=lambda pair: -pair[0])
    logs = []
    for limit in REFERENCES:
        tp = fp = 0
        miss = 1.0
        for _, hit in outcomes:
            tp, fp = tp + hit, fp + 1 - hit
            if fp / truth.images <= limit:
                miss = 1 - tp / persons
        logs.append(math.log(max(miss, 1e-10)))
    return math.exp(sum(logs) / len(logs))


@pytest.mark.parametrize("seed", range(25))
def test_every_setup_equals_a_plain_loop_over_detections(seed):
    truth, detections = random_set(seed)
    values = measure_citypersons(truth, detections, "caltech").values()
    assert list(values) == list(ROWS)
    for key, row in ROWS.items():
        expected = reference(truth, detections, row)
        assert values[key] == (expected and pytest.approx(expected, abs=1e-9)), key


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.lists(st.integers(0, 1), min_size=6, max_size=6))
def test_images_that_count_zero_times_are_as_if_they_were_not_there(seed, counts):
    truth, detections = random_set(seed)
    score = measure_citypersons(truth, detections, "caltech")
    assert score.values(np.ones(6)) == pytest.approx(score.values(), abs=1e-12)
    here = np.flatnonzero(counts)
    part = measure_citypersons(*only(truth, detections, here), "caltech").values()
    weighted = score.values(np.array(counts, dtype=np.float64))
    assert weighted == {key: value and pytest.approx(value) for key, value in part.items()}


def only(truth, detections, images):
    def rows(starts):
        kept = [np.arange(starts[k], starts[k + 1]) for k in images]
        each = np.concatenate([np.zeros(0, np.int64), *kept])
        return each, np.concatenate([[0], np.cumsum([len(k) for k in kept])]).astype(np.int64)

    a, a_starts = rows(truth.starts)
    b, b_starts = rows(detections.starts)
    return (
        Truth(
            xywh=truth.xywh[a],
            starts=a_starts,
            category=truth.category[a],
            image_ids=tuple(truth.image_ids[k] for k in images),
            sizes=truth.sizes[images],
            ignore=truth.ignore[a],
            visible_xywh=truth.visible_xywh[a],
            area=truth.area[a],
        ),
        Detections(detections.xywh[b], b_starts, detections.category[b], detections.scores[b]),
    )
