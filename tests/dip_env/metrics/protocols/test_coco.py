from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dip_env.formats.box_sets import Detections, Truth
from dip_env.metrics.protocols.coco import measure_coco

pytestmark = pytest.mark.filterwarnings("error")

KEYS = ["AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AR"]


def rows(rng, images, per_image, bare):
    numbers = rng.integers(0, per_image, images)
    numbers[list(bare)] = 0
    starts = np.concatenate([[0], np.cumsum(numbers)])
    n = int(starts[-1])
    # Coarse, so that overlaps tie; sides on both sides of COCO's 32 and 96 pixels.
    sides = rng.choice([16, 32, 40, 96, 120], (n, 2))
    return np.hstack([rng.integers(0, 12, (n, 2)) * 4.0, sides]), starts


def random_set(seed, ids, categories=1):
    """Random people, crowds and detections; the first image has no person, the second no box."""
    rng = np.random.default_rng(seed)
    xywh, starts = rows(rng, len(ids), 9, (0, 2))
    area = xywh[:, 2] * xywh[:, 3] * rng.choice([0.5, 1.0], len(xywh))
    truth = Truth(
        xywh=xywh,
        starts=starts,
        category=rng.integers(1, categories + 1, len(xywh)) * 3,
        image_ids=tuple(ids),
        sizes=np.full((len(ids), 2), 200.0),
        ignore=rng.random(len(xywh)) < 0.2,
        visible_xywh=xywh,
        area=area,
        category_names={3 * k: f"class {k}" for k in range(categories, 0, -1)},
    )
    xywh, starts = rows(rng, len(ids), 25, (1, 2))
    near = rng.random(len(xywh)) < 0.5
    for i in np.flatnonzero(near):
        image = np.searchsorted(starts, i, side="right") - 1
        people = np.arange(truth.starts[image], truth.starts[image + 1])
        if len(people):
            xywh[i] = truth.xywh[rng.choice(people)] + rng.choice([-4, 0, 0, 4], 4)
    # Also a category that the ground truth does not have.
    category = rng.integers(1, categories + 2, len(xywh)) * 3
    scores = rng.integers(0, 15, len(xywh)) / 15
    return truth, Detections(xywh, starts, category, scores)


def averages(precision, recall):
    """Return our values of COCO's arrays (T, R, K, A) and (T, K, A), -1 where not defined."""
    each = [
        precision[:, :, :, 0],
        precision[0, :, :, 0],
        precision[5, :, :, 0],
        *(precision[:, :, :, size] for size in (1, 2, 3)),
        recall[:, :, 0],
    ]
    return {
        key: float(np.mean(values[values > -1])) if (values > -1).any() else None
        for key, values in zip(KEYS, each, strict=True)
    }


def close(values):
    """Return values to compare with, to 1e-12; None only equals None."""
    return {
        key: value if value is None else pytest.approx(value, rel=0, abs=1e-12)
        for key, value in values.items()
    }


GAPS = [907, 12, 5, 3000, 44, 13]
NAMES = ["b", "a", "frame_10", "frame_9", "Z", "0"]


@pytest.mark.parametrize("categories", [1, 3])
@pytest.mark.parametrize("ids", [GAPS, NAMES], ids=["gaps", "strings"])
@pytest.mark.parametrize("seed", range(6))
def test_every_value_is_that_of_pycocotools(seed, ids, categories, pycocotools):
    truth, detections = random_set(seed, ids, categories)
    found = pycocotools(truth, detections, (1, 10, 1000)).eval
    values = measure_coco(truth, detections).values()
    assert list(values) == KEYS
    assert values == close(averages(found["precision"][..., -1], found["recall"][..., -1]))


@pytest.mark.parametrize("limit", [1, 4])
def test_fewer_detections_are_read_as_pycocotools_reads_them(limit, pycocotools):
    truth, detections = random_set(3, GAPS, 2)
    found = pycocotools(truth, detections, (1, limit)).eval
    expected = averages(found["precision"][..., -1], found["recall"][..., -1])
    assert measure_coco(truth, detections, limit).values() == close(expected)


@settings(max_examples=300, deadline=None)
@given(data=st.data(), limit=st.sampled_from([1, 3, 1000]))
def test_any_set_has_the_values_of_pycocotools_in_every_category(
    data, limit, crowd_sets, pycocotools
):
    truth, detections = data.draw(crowd_sets)
    found = pycocotools(truth, detections, (limit,)).eval
    precision, recall = found["precision"][..., -1], found["recall"][..., -1]
    score = measure_coco(truth, detections, limit)
    assert score.values() == close(averages(precision, recall))
    for k, values in enumerate(score.per_category().values()):
        expected = averages(precision[:, :, [k]], recall[:, [k]])
        assert values == close({key: expected[key] for key in ("AP", "AP50", "AP75")})


def crowd(make_sets, number):
    people = [(20 * (k % 40), 40 * (k // 40), 15, 30) for k in range(number)]
    found = [(*box, 1 - k / 1000) for k, box in enumerate(people)]
    return make_sets([people, [(0, 0, 15, 30)]], [found, [(0, 0, 15, 30, 1)]])


def test_a_crowd_of_more_than_a_hundred_can_be_found_completely(make_sets):
    score = measure_coco(*crowd(make_sets, 150))
    assert score.values()["AP"] == score.values()["AR"] == 1.0
    assert score.details()["detections_cut"] == score.details()["images_cut"] == 0


def test_what_the_limit_cuts_is_counted(make_sets):
    # 101 of 151 persons are found: recall .668, so the points 0, .01, ..., .66 read 1: 67 of 101.
    score = measure_coco(*crowd(make_sets, 150), 100)
    assert score.values()["AP"] == pytest.approx(67 / 101)
    assert score.values()["AR"] == pytest.approx(101 / 151)
    details = score.details()
    assert (details["max_detections"], details["images_cut"], details["detections_cut"]) == (
        100,
        1,
        50,
    )


def test_a_single_person_found_scores_one(make_sets):
    # pycocotools itself scores 0 where the annotation's id is 0, as in a file counted from there.
    score = measure_coco(*make_sets([[(0, 0, 40, 40)]], [[(0, 0, 40, 40, 0.5)]]))
    # pycocotools' own 1 lacks the last bit here: it divides by 1 + 2e-16.
    one = pytest.approx(1.0, abs=1e-15)
    assert score.values() == {**dict.fromkeys(KEYS, one), "AP_small": None, "AP_large": None}
    assert score.reasons() == {
        "AP_small": "no small person in the ground truth",
        "AP_large": "no large person in the ground truth",
    }


def test_detections_in_a_crowd_region_are_left_out_however_many(make_sets):
    person, region = (0, 0, 40, 40), (100, 100, 200, 200)
    inside = [(110 + 5 * k, 110, 40, 40, 0.9) for k in range(20)]
    found = [[*inside, (*person, 0.5)]]
    values = measure_coco(*make_sets([[person]], found, [[region]])).values()
    assert values["AP"] == pytest.approx(1.0)
    # Without the region 20 false ones stand before the true one: precision 1/21 everywhere.
    assert measure_coco(*make_sets([[person]], found)).values()["AP"] == pytest.approx(1 / 21)


def test_nothing_detected_scores_zero_and_nobody_gives_no_value(make_sets):
    empty = measure_coco(*make_sets([[(0, 0, 40, 40)], []], [[], []]))
    assert empty.values() == {**dict.fromkeys(KEYS, 0.0), "AP_small": None, "AP_large": None}
    nobody = measure_coco(*make_sets([[]], [[(0, 0, 40, 40, 0.9)]], [[(9, 9, 9, 9)]]))
    assert nobody.values() == dict.fromkeys(KEYS)
    assert nobody.reasons()["AP"] == nobody.reasons()["AR"] == "no person in the ground truth"
    assert set(nobody.reasons()) == set(KEYS)


@pytest.mark.parametrize("images", [0, 1])
def test_an_empty_truth_reports_itself(make_sets, images):
    score = measure_coco(*make_sets([[]] * images, [[]] * images))
    assert score.values() == dict.fromkeys(KEYS)
    assert json.loads(json.dumps(score.details(), allow_nan=False))["images"] == images


def test_a_truth_without_any_category_gives_no_value(make_sets):
    truth, detections = make_sets([[]], [[(0, 0, 40, 40, 0.9)]])
    score = measure_coco(dataclasses.replace(truth, category_names={}), detections)
    assert score.values() == dict.fromkeys(KEYS)
    assert score.details()["detections_of_other_categories"] == 1


def test_nothing_is_printed(make_sets, capsys):
    measure_coco(*make_sets([[(0, 0, 40, 40)]], [[(0, 0, 40, 40, 0.5)]])).values()
    assert capsys.readouterr() == ("", "")


def test_categories_are_apart_and_unknown_ones_are_counted(make_sets):
    people, found = [[(0, 0, 40, 40), (99, 0, 40, 40)]], [[(0, 0, 40, 40, 1), (99, 0, 40, 40, 1)]]
    truth, detections = make_sets(people, found)
    truth = dataclasses.replace(
        truth, category=np.array([1, 2]), category_names={1: "person", 2: "person", 7: "rider"}
    )
    detections = dataclasses.replace(detections, category=np.array([1, 9]))
    score = measure_coco(truth, detections)
    assert score.values()["AP"] == pytest.approx(0.5)
    # The id tells namesakes apart; nobody of category 7 is there.
    assert {name: each["AP"] for name, each in score.per_category().items()} == {
        "person (1)": pytest.approx(1.0),
        "person (2)": 0.0,
        "rider": None,
    }
    assert score.details()["detections_of_other_categories"] == 1
    assert score.details()["categories"] == ["person (1)", "person (2)", "rider"]


def test_only_the_sizes_asked_for_are_measured(make_sets):
    truth, detections = random_set(1, GAPS)
    some = measure_coco(truth, detections, sizes=("all", "large")).values()
    every = measure_coco(truth, detections).values()
    assert some == {key: every[key] for key in ("AP", "AP50", "AP75", "AP_large", "AR")}


def repeated(boxes, counts):
    """Return the rows of a set in which image i stands counts[i] times, and their starts."""
    images = np.repeat(np.arange(boxes.images), counts)
    kept = [np.arange(boxes.starts[k], boxes.starts[k + 1]) for k in images]
    starts = np.concatenate([[0], np.cumsum([len(each) for each in kept])]).astype(np.int64)
    return np.concatenate([np.zeros(0, np.int64), *kept]), starts


@pytest.mark.parametrize("counts", [[1, 1, 1, 1, 1, 1], [0, 1, 1, 0, 1, 1], [2, 0, 1, 3, 1, 0]])
@pytest.mark.parametrize("seed", range(3))
def test_an_image_that_counts_k_times_is_as_if_it_stood_there_k_times(seed, counts):
    # Ids ascend, so that the copies stand where their original stood.
    truth, detections = random_set(seed, range(6), 2)
    scores = np.random.default_rng(seed).permutation(len(detections)) / len(detections)
    detections = dataclasses.replace(detections, scores=scores)
    score = measure_coco(truth, detections)
    a, a_starts = repeated(truth, counts)
    b, b_starts = repeated(detections, counts)
    resampled = measure_coco(
        Truth(
            xywh=truth.xywh[a],
            starts=a_starts,
            category=truth.category[a],
            image_ids=tuple(range(sum(counts))),
            sizes=np.full((sum(counts), 2), 200.0),
            ignore=truth.ignore[a],
            visible_xywh=truth.visible_xywh[a],
            area=truth.area[a],
            category_names=truth.category_names,
        ),
        Detections(detections.xywh[b], b_starts, detections.category[b], scores[b]),
    ).values()
    weighted = score.values(np.array(counts, dtype=np.float64))
    assert weighted == pytest.approx(resampled, abs=1e-12)
    if set(counts) == {1}:
        assert weighted == score.values()


def test_counts_stand_in_the_order_of_the_truth_not_of_ascending_ids(make_sets):
    person = (0, 0, 40, 40)
    truth, detections = make_sets([[person], [person, person]], [[(*person, 0.5)], []])
    score = measure_coco(dataclasses.replace(truth, image_ids=(9, 3)), detections)
    assert score.values(np.array([1.0, 0.0]))["AP"] == pytest.approx(1.0)
    assert score.values(np.array([0.0, 1.0]))["AP"] == 0.0
    assert score.values(np.array([3.0, 1.0]))["AR"] == pytest.approx(3 / (3 + 2))


def test_counts_without_anybody_give_no_value(make_sets):
    score = measure_coco(*make_sets([[(0, 0, 40, 40)], []], [[(0, 0, 40, 40, 0.5)], []]))
    assert score.values(np.array([0.0, 2.0])) == dict.fromkeys(KEYS)
