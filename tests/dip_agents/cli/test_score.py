from __future__ import annotations

import json

import pytest


@pytest.fixture
def files(tmp_path):
    """Truth with one person found and one missed, and the detection."""
    boxes = [[10, 10, 20, 50], [50, 10, 20, 50]]
    truth = {
        "images": [{"id": 3, "width": 100, "height": 80}],
        "annotations": [
            {"id": k, "image_id": 3, "category_id": 1, "bbox": box, "iscrowd": 0}
            for k, box in enumerate(boxes)
        ],
        "categories": [{"id": 1, "name": "person"}],
    }
    found = [{"image_id": 3, "category_id": 1, "bbox": boxes[0], "score": 0.8}]
    (tmp_path / "gt.json").write_text(json.dumps(truth))
    (tmp_path / "dt.json").write_text(json.dumps(found))
    return tmp_path / "gt.json", tmp_path / "dt.json"


@pytest.mark.parametrize("protocol", ["coco", "crowdhuman", "citypersons", "wider", "uavdt"])
@pytest.mark.parametrize("flags", [(), ("--no-scores",), ("--bootstrap", 5), ("--breakdown",)])
def test_scoring_prints_one_json_object_and_nothing_else(run, files, protocol, flags):
    code, shown, error = run("score", *files, "--protocol", protocol, *flags)
    assert (code, error) == (0, "")
    assert json.loads(shown)["protocol"] == protocol


def test_coco_scores_as_worked_by_hand(run, files):
    # One of two people, no false box: precision 1 up to recall .5, 51 of 101 points.
    found = json.loads(run("score", *files)[1])
    assert found["AP"] == pytest.approx(51 / 101)
    assert found["AR"] == 0.5


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("gt.json", "{", "gt.json: expected JSON"),
        ("gt.json", '{"annotations": [],\n"annotations": []}', "twice at line 2"),
        ("gt.json", "", "gt.json: expected annotations, got an empty file"),
        ("dt.json", '[{"image_id": 4, "bbox": [1, 1, 1, 1], "score": 1}]', "dt.json"),
        ("dt.json", '[{"image_id": 3, "bbox": [1, 1, NaN, 1], "score": 1}]', "dt.json"),
        ("dt.json", '{"image_id": 3}', "dt.json"),
    ],
)
def test_a_bad_file_is_one_clear_line_and_exit_2(run, files, name, text, message):
    (files[0].parent / name).write_text(text)
    code, shown, error = run("score", *files)
    assert (code, shown) == (2, "")
    assert message in error
    assert len(error.strip().splitlines()) == 1


def test_a_missing_file_and_a_useless_rule_are_one_clear_line(run, files):
    for words in ((files[0], "nowhere.json"), (*files, "--mr-rule", "caltech")):
        code, shown, error = run("score", *words)
        assert (code, shown) == (2, "")
        assert len(error.strip().splitlines()) == 1


def test_fewer_than_no_resamplings_are_refused_by_the_name_of_the_option(run):
    words = ("score", "truth.json", "detections.json", "--bootstrap", "-1")
    assert run(*words) == (2, "", "dip score: --bootstrap: expected at least 0, got -1\n")
