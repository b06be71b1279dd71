import json
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dip_agents.evaluation.consensus import consensus, fuse, score_consensus
from dip_env.errors import ConfigError
from dip_env.formats.coco_json import as_detections, as_truth

law = settings(deadline=None, max_examples=60)

ONE = [0.0, 0.0, 10.0, 10.0]
TWO = [20.0, 0.0, 30.0, 10.0]
GHOST = [50.0, 50.0, 60.0, 60.0]

corner = st.integers(0, 20).map(float)
side = st.integers(0, 9)
box = st.tuples(corner, corner, side, side).map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3]))
answers_of = st.lists(
    st.lists(box, max_size=5).map(lambda b: np.array(b, float).reshape(-1, 4)),
    min_size=1,
    max_size=5,
)


def boxes(*rows):
    return np.array(rows, dtype=float).reshape(-1, 4)


def test_the_share_of_samples_is_the_score_and_the_median_the_box():
    samples = [boxes(ONE, GHOST), boxes([0, 0, 10, 8]), boxes(TWO, [0, 0, 10, 9]), boxes(TWO)]
    found, scores = consensus(samples)
    np.testing.assert_array_equal(found, [[0, 0, 10, 9], TWO, GHOST])
    assert scores.tolist() == [0.75, 0.5, 0.25]


def test_two_people_side_by_side_stay_two_and_a_sample_counts_once_for_each():
    # The neighbours overlap by IoU 8/12; each sample has both.
    left, right = [0, 0, 10, 10], [2, 0, 12, 10]
    found, scores = consensus([boxes(left, right)] * 3)
    np.testing.assert_array_equal(found, [left, right])
    assert scores.tolist() == [1.0, 1.0]


def test_no_sample_and_no_box_are_no_boxes():
    for samples in ([], [boxes()], [boxes([5, 5, 5, 9])]):
        found, scores = consensus(samples)
        assert (found.shape, scores.shape) == ((0, 4), (0,))


@law
@given(answers_of, st.randoms(use_true_random=False))
def test_neither_the_order_of_samples_nor_of_their_boxes_matters(samples, rng):
    mixed = [np.array(rng.sample(s.tolist(), len(s)), float).reshape(-1, 4) for s in samples]
    rng.shuffle(mixed)
    (found, scores), (again, scores_again) = consensus(samples), consensus(mixed)

    def rows(boxes, scores):
        return sorted((*b, s) for b, s in zip(boxes.tolist(), scores.tolist(), strict=True))

    assert rows(found, scores) == rows(again, scores_again)


@law
@given(answers_of)
def test_every_box_is_in_exactly_one_cluster_of_at_most_one_box_a_sample(samples):
    _, scores = consensus(samples)
    samples = [np.unique(s, axis=0) for s in samples]
    members = scores * len(samples)
    assert members == pytest.approx(np.round(members))
    assert (members >= 1 - 1e-9).all() and (scores <= 1).all()
    with_area = sum(int(((s[:, 2:] > s[:, :2]).all(axis=1)).sum()) for s in samples)
    assert members.sum() == pytest.approx(with_area)
    assert (np.diff(scores) <= 0).all()


@law
@given(st.lists(box, max_size=5), st.integers(1, 4))
def test_samples_that_agree_are_their_answer(answer, times):
    answer = np.unique(np.array(answer, float).reshape(-1, 4), axis=0)
    answer = answer[(answer[:, 2:] > answer[:, :2]).all(axis=1)]
    found, scores = consensus([answer] * times)
    assert sorted(found.tolist()) == sorted(answer.tolist())
    assert (scores == 1).all()


TRUTH = as_truth(
    {
        "images": [{"id": 7, "width": 100, "height": 100}, {"id": 8, "width": 100, "height": 100}],
        "annotations": [
            {"image_id": 7, "category_id": 1, "bbox": [0, 0, 10, 10]},
            {"image_id": 7, "category_id": 1, "bbox": [20, 0, 10, 10]},
        ],
        "categories": [{"id": 1, "name": "person"}],
    },
    "truth",
)


def detections(*per_image):
    rows = [
        {"image_id": image, "category_id": 1, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": 1.0}
        for image, found in zip((7, 8), per_image, strict=True)
        for x1, y1, x2, y2 in found
    ]
    return as_detections(rows, TRUTH, "answers")


def test_a_consensus_is_measured_as_a_ranked_and_as_a_plain_answer():
    # Person one in all of three samples, two in one, a ghost in two of them in the other image.
    answers = [
        detections([ONE], [GHOST]),
        detections([ONE, TWO], []),
        detections([ONE], [GHOST]),
    ]
    found = score_consensus(TRUTH, answers)
    values = found.values()
    # Most of them hold person one and the ghost.
    assert (values["precision"], values["recall"], values["F1"]) == (0.5, 0.5, 0.5)
    # By score: right, wrong, right; CrowdHuman's curve starts at the first point.
    assert found.detections.scores.tolist() == pytest.approx([1, 1 / 3, 2 / 3])
    assert 0 < values["AP"] < 1 and 0 < values["MR"] < 1
    report = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert report["samples"] == 3 and report["F1"] == 0.5
    again = as_detections(found.rows(TRUTH), TRUTH, "consensus")
    np.testing.assert_array_equal(again.xywh, found.detections.xywh)
    np.testing.assert_array_equal(again.scores, found.detections.scores)


def test_exact_repeats_within_a_sample_count_once():
    found, scores = consensus([boxes(ONE, ONE, ONE), boxes(ONE)])
    assert (found.tolist(), scores.tolist()) == ([ONE], [1.0])


def test_of_two_samples_what_only_one_holds_is_not_agreed():
    found = score_consensus(TRUTH, [detections([ONE], []), detections([ONE, TWO], [])])
    assert (found.values()["precision"], found.values()["recall"]) == (1.0, 0.5)


def test_eight_answers_of_hundreds_of_boxes_take_bounded_time():
    rng = np.random.default_rng(0)
    piled = [np.array(ONE) * 10 + rng.random((150, 4)) * 5 for _ in range(8)]
    corners = rng.random((8, 600, 2)) * 4000
    scattered = [np.hstack([c, c + 10]) for c in corners]
    start = time.process_time()
    assert len(consensus(piled)[0]) == 150  # every box of one sample has a partner in the others
    assert len(consensus(scattered)[0]) > 600
    assert time.process_time() - start < 20


def test_answers_to_other_images_are_refused():
    with pytest.raises(ConfigError, match="answers: expected some, all to the same images"):
        fuse([])
