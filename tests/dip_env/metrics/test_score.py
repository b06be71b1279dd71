from __future__ import annotations

import json

import numpy as np
import pytest

from dip_env.errors import ConfigError, SceneError
from dip_env.formats import as_detections, read_truth
from dip_env.metrics.score import PROTOCOLS, measure, score_files, select

pytestmark = pytest.mark.filterwarnings("error")

KEYS = {
    "coco": "AP AP50 AP75 AP_small AP_medium AP_large AR",
    "crowdhuman": "AP MR JI",
    "citypersons": "MR_reasonable MR_small MR_heavy MR_heavy_unbounded MR_bare MR_partial MR_all",
    "wider": "AP AP50",
    "uavdt": "AP70",
}
UNSCORED = (
    "precision recall F1 mean_iou JI AP_tied AP50_tied AP75_tied tp fp fn dropped count_mae "
    "count_rmse F1_50_95 duplicates_per_answer MR"
)


def truth_json(n=6):
    """Return n images of 200x200 with two people each, and a region in the first."""
    images = [{"id": 7 * k, "width": 200, "height": 200} for k in range(n)]
    rows = [
        {"image_id": 7 * k, "category_id": 1, "bbox": [10 + 90 * i, 20, 30, 80], "iscrowd": 0}
        for k in range(n)
        for i in range(2)
    ]
    rows.append({"image_id": 0, "category_id": 1, "bbox": [0, 120, 200, 80], "iscrowd": 1})
    return {
        "images": images,
        "annotations": [{"id": i, **row} for i, row in enumerate(rows)],
        "categories": [{"id": 1, "name": "person"}, {"id": 2, "name": "dog"}],
    }


def found_json(n=6, shift=0.0):
    """Return the first person of each image exactly, and the second in even images, shifted."""
    rows = []
    for k in range(n):
        rows.append({"image_id": 7 * k, "bbox": [10, 20, 30, 80], "score": 0.9 - k / 100})
        if k % 2 == 0:
            box = [100 + shift, 20, 30, 80]
            rows.append({"image_id": 7 * k, "bbox": box, "score": 0.5 - k / 100})
    return [{"category_id": 1, **row} for row in rows]


@pytest.fixture
def write(tmp_path):
    def to_file(name, value):
        (tmp_path / name).write_text(json.dumps(value))
        return tmp_path / name

    return to_file


@pytest.fixture
def files(write):
    return write("truth.json", truth_json()), write("found.json", found_json())


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_protocol_has_its_keys_at_the_top_and_no_nan(files, protocol):
    found = score_files(*files, protocol)
    assert set(KEYS[protocol].split()) <= set(found)
    assert found["protocol"] == protocol
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_without_scores_every_protocol_reports_the_same(files, protocol):
    found = score_files(*files, protocol, scores=False)
    assert set(UNSCORED.split()) <= set(found)
    # 12 people, 9 boxes, all on somebody.
    assert (found["tp"], found["fp"], found["fn"], found["dropped"]) == (9, 0, 3, 0)
    assert found["precision"] == 1.0
    assert found["recall"] == 0.75
    assert found["MR"] is None
    assert "score" in found["undefined"]["MR"]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("scores", [True, False])
def test_no_detections_at_all_is_a_result_not_a_crash(write, protocol, scores):
    found = score_files(write("t.json", truth_json()), write("d.json", []), protocol, scores=scores)
    for key in KEYS[protocol].split() if scores else []:
        value = found[key]
        expected = 1.0 if key.startswith("MR") else 0.0
        assert value == expected or (value is None and key in found["undefined"]), key
    if not scores:
        assert found["recall"] == 0.0
        assert found["precision"] is None
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("scores", [True, False])
def test_nobody_to_find_is_null_with_a_reason(write, protocol, scores):
    empty = truth_json() | {"annotations": []}
    found = score_files(
        write("t.json", empty), write("d.json", found_json()), protocol, scores=scores
    )
    for key in KEYS[protocol].split() if scores else ["recall", "AP_tied"]:
        if key != "JI":  # false positives alone define it: 0
            assert found[key] is None, key
            assert found["undefined"][key]
    json.dumps(found, allow_nan=False)


def test_scores_are_needed_by_default(write):
    rows = [{k: v for k, v in row.items() if k != "score"} for row in found_json()]
    truth, found = write("t.json", truth_json()), write("d.json", rows)
    with pytest.raises(SceneError, match=r"d\.json.*\[0\].*score"):
        score_files(truth, found, "coco")
    assert score_files(truth, found, scores=False)["tp"] == 9


def test_scores_that_are_all_equal_are_warned_of(files, write):
    flat = write("flat.json", [row | {"score": 1.0} for row in found_json()])
    warning = score_files(files[0], flat, "crowdhuman")["warning"]
    assert "all 9 scores are 1: " in warning
    assert "scores=False" in warning
    assert "warning" not in score_files(*files, "crowdhuman")
    assert "warning" not in score_files(files[0], flat, scores=False)


def test_a_miss_rate_rule_is_only_taken_where_there_is_a_miss_rate(files):
    assert score_files(*files, "crowdhuman", mr_rule="caltech")["details"]["mr_rule"] == "caltech"
    for protocol in ("coco", "wider", "uavdt"):
        with pytest.raises(ConfigError, match=f"mr_rule: expected a protocol .* got {protocol}"):
            score_files(*files, protocol, mr_rule="caltech")
    with pytest.raises(ConfigError, match="without scores"):
        score_files(*files, "crowdhuman", mr_rule="caltech", scores=False)
    with pytest.raises(ConfigError, match="mr_rule: expected one of caltech"):
        score_files(*files, "crowdhuman", mr_rule="matlab")
    with pytest.raises(ConfigError, match="protocol: expected one of coco"):
        score_files(*files, "voc")


def test_images_without_annotations_count_unless_left_out(write):
    data = truth_json()
    data["images"].append({"id": 100, "width": 200, "height": 200})
    rows = [*found_json(), {"image_id": 100, "category_id": 1, "bbox": [5, 5, 9, 9], "score": 1.0}]
    truth, found = write("t.json", data), write("d.json", rows)
    everything = score_files(truth, found, scores=False)
    annotated = score_files(truth, found, scores=False, annotated_only=True)
    assert (everything["fp"], everything["details"]["images"]) == (1, 7)
    assert (annotated["fp"], annotated["details"]["images"]) == (0, 6)
    assert annotated["tp"] == everything["tp"]


def test_categories_choose_annotations_and_detections(write):
    data = truth_json()
    data["annotations"].append(
        {"id": 99, "image_id": 7, "category_id": 2, "bbox": [150, 150, 20, 20], "iscrowd": 0}
    )
    rows = [*found_json(), {"image_id": 7, "category_id": 2, "bbox": [0, 0, 9, 9], "score": 0.1}]
    truth, found = write("t.json", data), write("d.json", rows)
    assert score_files(truth, found, scores=False)["fn"] == 4
    people = score_files(truth, found, scores=False, categories=["person"])
    assert (people["tp"], people["fp"], people["fn"]) == (9, 0, 3)
    with pytest.raises(ConfigError, match=r"categories: expected some of \['dog', 'person'\]"):
        score_files(truth, found, categories=["cat"])


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_intervals_hold_the_value_and_repeat_with_the_seed(files, protocol):
    first = score_files(*files, protocol, bootstrap_rounds=50, seed=3)
    assert first == score_files(*files, protocol, bootstrap_rounds=50, seed=3)
    key = KEYS[protocol].split()[0]
    interval = first["intervals"][key]
    assert interval["value"] == first[key]
    assert interval["low"] <= interval["value"] <= interval["high"]
    assert first["bootstrap"]["rounds"] == 50


def test_two_runs_are_compared_on_the_same_resampled_images(files, write):
    # Shifted by 15 of 30 pixels the IoU is 1/3: the three second people are lost.
    worse = write("worse.json", found_json(shift=15))
    found = score_files(*files, scores=False, compare=worse)
    gain = found["difference"]["recall"]
    assert gain["value"] == pytest.approx(9 / 12 - 6 / 12)
    assert gain["low"] >= 0
    assert found["difference"]["tp"]["value"] == 3
    same = score_files(*files, scores=False, compare=files[1])["difference"]["recall"]
    assert (same["low"], same["value"], same["high"]) == (0, 0, 0)


def test_the_breakdown_is_by_height_visible_share_and_crowd(files):
    parts = score_files(*files, "crowdhuman", breakdown=True)["breakdown"]
    assert parts["height"]["75-100"] == {"recall": 0.75, "n": 12}
    assert parts["people_per_image"]["1-5"]["n"] == 6


def test_categories_of_the_same_name_are_chosen_together(write):
    data = truth_json()
    data["categories"].append({"id": 3, "name": "person"})
    data["annotations"][0]["category_id"] = 3
    files = write("t.json", data), write("d.json", found_json())
    # All 12 people stay, 9 of them found, whichever of the two categories they are of.
    people = score_files(*files, scores=False, categories=["person"])
    assert (people["tp"], people["fp"], people["fn"]) == (9, 0, 3)


def test_coco_reads_iscrowd_alone_and_other_protocols_ignore_too(write):
    data = truth_json()
    data["annotations"][1]["ignore"] = 1  # the second person of the first image, who is found
    truth, found = write("t.json", data), write("d.json", found_json())
    assert score_files(truth, found, "coco")["details"]["ignored"] == 1
    assert score_files(truth, found, "crowdhuman")["details"]["ignored"] == 2
    assert score_files(truth, found, "coco", annotated_only=True)["details"]["ignored"] == 1


def test_bad_rounds_are_named(files):
    with pytest.raises(ConfigError, match="bootstrap_rounds: expected a number >= 0, got -1"):
        score_files(*files, bootstrap_rounds=-1)


def test_a_bad_seed_is_named(files):
    with pytest.raises(ConfigError, match="seed: expected a number >= 0, got -1"):
        score_files(*files, bootstrap_rounds=5, seed=-1)


def test_selecting_nothing_changes_nothing(make_sets):
    truth, found = make_sets([[[0, 0, 9, 9]], []], [[], [[0, 0, 9, 9, 0.5]]])
    kept, boxes = select(truth, found)
    assert kept is truth
    assert boxes is found
    annotated, boxes = select(truth, found, annotated_only=True)
    assert annotated.image_ids == (1,)
    assert np.diff(boxes.starts).tolist() == [0]
    assert measure(annotated, boxes, "crowdhuman").values()["MR"] == 1.0


def test_detections_of_other_images_are_refused(write):
    truth, other = (read_truth(write(f"{n}.json", truth_json(n))) for n in (2, 3))
    detections = as_detections([], other, "found")
    with pytest.raises(
        ConfigError, match="detections: expected the 2 images of the ground truth, got 3"
    ):
        measure(truth, detections)
