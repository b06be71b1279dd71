from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from pycocotools.cocoeval import Params

from dip_env.metrics.protocols.coco_matching import SIZES, THRESHOLDS, match_coco


def test_sizes_and_thresholds_are_those_of_pycocotools():
    params = Params("bbox")
    assert THRESHOLDS.tolist() == params.iouThrs.tolist()
    assert dict(SIZES) == {
        label: tuple(range_)
        for label, range_ in zip(params.areaRngLbl, params.areaRng, strict=True)
    }


def reference(evaluator, truth, category, size):
    """Return found, counted and people as pycocotools matches, best score first."""
    people = np.zeros(truth.images, dtype=np.int64)
    scores, found, counted, image = [], [np.zeros((10, 0), bool)], [np.zeros((10, 0), bool)], []
    for result in evaluator.evalImgs:
        if result is None or (result["category_id"], tuple(result["aRng"])) != (category, size):
            continue
        row = truth.image_ids.index(result["image_id"])
        people[row] = np.count_nonzero(result["gtIgnore"] == 0)
        scores += result["dtScores"]
        image += [row] * len(result["dtScores"])
        counted.append(~result["dtIgnore"])
        found.append((result["dtMatches"] > 0) & counted[-1])
    order = np.argsort(-np.array(scores, dtype=np.float64), kind="mergesort")
    parts = (np.concatenate(each, axis=1)[:, order] for each in (found, counted))
    return np.array(image, dtype=np.int64)[order], *parts, people


@settings(max_examples=300, deadline=None)
@given(data=st.data(), limit=st.sampled_from([1, 3, 1000]))
def test_every_detection_is_judged_as_pycocotools_judges_it(data, limit, crowd_sets, pycocotools):
    truth, detections = data.draw(crowd_sets)
    categories = sorted(truth.category_names)
    matches = match_coco(truth, detections, categories, limit, tuple(SIZES))
    evaluator = pycocotools(truth, detections, (limit,))
    for size, (low, high) in SIZES.items():
        for mine, category in zip(matches[size], categories, strict=True):
            image, found, counted, people = reference(evaluator, truth, category, (low, high))
            assert mine.image.tolist() == image.tolist()
            assert mine.found.tolist() == found.tolist()
            assert mine.counted.tolist() == counted.tolist()
            assert mine.people.tolist() == people.tolist()
            event(f"true positives: {found.any()}")


def judged(make_sets, people, found, ignored=(), size="all"):
    truth, detections = make_sets([people], [found], [list(ignored)])
    (matches,) = match_coco(truth, detections, [1], 100, tuple(SIZES))[size]
    return matches.found[0].tolist(), matches.counted[0].tolist()


def test_a_person_is_found_once_and_a_crowd_region_takes_any_number(make_sets):
    box = (0, 0, 40, 40)
    found = [(*box, 0.9), (*box, 0.8), (*box, 0.7)]
    assert judged(make_sets, [box], found) == ([True, False, False], [True, True, True])
    # The person first, although the region overlaps as much.
    assert judged(make_sets, [box], found, [box]) == ([True, False, False], [True, False, False])


def test_a_detection_takes_the_person_it_overlaps_most_and_the_later_of_equals(make_sets):
    # 30 of 40 pixels with either neighbour: the later is taken, the earlier left for the next.
    earlier, later = (0, 0, 40, 40), (20, 0, 40, 40)
    first, second = (10, 0, 40, 40, 0.9), (0, 0, 40, 40, 0.8)
    assert judged(make_sets, [earlier, later], [first, second])[0] == [True, True]
    assert judged(make_sets, [later, earlier], [first, second])[0] == [True, False]


def test_a_person_of_another_size_is_neither_missed_nor_taken_twice(make_sets):
    large, medium = (0, 0, 100, 100), (0, 0, 100, 90)
    found = [(*large, 0.9), (*large, 0.8)]
    # The second detection is as large as the size asked for, so it is a false positive of it.
    assert judged(make_sets, [large], found, size="large") == ([True, False], [True, True])
    # Ignored with the person; the second is outside the size.
    assert judged(make_sets, [large], found, size="medium") == ([False, False], [False, False])
    assert judged(make_sets, [medium], found, size="large") == ([False, False], [False, True])


def test_only_the_sizes_and_categories_asked_for_are_matched(make_sets):
    truth, detections = make_sets([[(0, 0, 40, 40)]], [[(0, 0, 40, 40, 0.5)]])
    truth = dataclasses.replace(truth, category_names={1: "person", 2: "rider"})
    matches = match_coco(truth, detections, [2], 100, ("large", "all"))
    assert list(matches) == ["large", "all"]
    for (each,) in matches.values():
        assert (each.found.shape, each.people.tolist()) == ((10, 0), [0])


@pytest.mark.parametrize("number", [1, 3])
def test_the_limit_keeps_the_highest_scores_of_each_image(make_sets, number):
    boxes = [(50 * k, 0, 40, 40) for k in range(5)]
    found = [(*box, k / 5) for k, box in enumerate(boxes)]
    truth, detections = make_sets([boxes, boxes], [found, found[:1]])
    (matches,) = match_coco(truth, detections, [1], number, ("all",))["all"]
    assert matches.image.tolist() == [0] * number + [1]
    assert matches.found.all() and matches.people.tolist() == [5, 5]
