from __future__ import annotations

import copy
import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dip_env.errors import SceneError
from dip_env.formats.coco_json import as_detections, as_truth, read_detections, read_truth

pytestmark = pytest.mark.filterwarnings("error")


def truth_data():
    """Return three images, out of order and with a gap, whose annotations are mixed."""
    return {
        "images": [
            {"id": 9, "width": 640, "height": 480, "file_name": "nine.jpg"},
            {"id": 2, "width": 320, "height": 240},
            {"id": 5, "width": 100, "height": 200},
        ],
        "annotations": [
            {"id": 1, "image_id": 2, "category_id": 1, "bbox": [1, 2, 3, 4]},
            {"id": 2, "image_id": 9, "category_id": 1, "bbox": [5.5, 6, 7, 8], "area": 50.5},
            {"id": 3, "image_id": 2, "category_id": 1, "bbox": [9, 9, 9, 9], "iscrowd": 1},
            {"id": 4, "image_id": 9, "category_id": 1, "bbox": [-1, 0, 2, 2], "ignore": 1},
        ],
        "categories": [{"id": 1, "name": "person"}],
    }


def row(image_id=2, score=0.5, box=(1, 2, 3, 4), category=1):
    return {"image_id": image_id, "category_id": category, "bbox": list(box), "score": score}


def as_set(*rows, **options):
    return as_detections(list(rows), as_truth(truth_data(), "gt.json"), "dt.json", **options)


def test_images_keep_the_order_of_the_file_and_annotations_theirs_within_each():
    truth = as_truth(truth_data(), "gt.json")
    assert truth.image_ids == (9, 2, 5)
    assert truth.sizes.tolist() == [[640, 480], [320, 240], [100, 200]]
    assert truth.starts.tolist() == [0, 2, 4, 4]
    assert truth.xywh.tolist() == [[5.5, 6, 7, 8], [-1, 0, 2, 2], [1, 2, 3, 4], [9, 9, 9, 9]]
    assert truth.category.tolist() == [1, 1, 1, 1]
    assert truth.category_names == {1: "person"}


def test_iscrowd_and_ignore_both_mark_what_does_not_count():
    truth = as_truth(truth_data(), "gt.json")
    assert truth.ignore.tolist() == [False, True, False, True]
    assert truth.people.tolist() == [1, 1, 0]


def test_area_and_visible_box_stand_in_for_themselves_where_missing():
    data = truth_data()
    data["annotations"][0]["vis_bbox"] = [1, 2, 1, 1]
    truth = as_truth(data, "gt.json")
    assert truth.area.tolist() == [50.5, 4, 12, 81]
    assert truth.visible_xywh.tolist() == [[5.5, 6, 7, 8], [-1, 0, 2, 2], [1, 2, 1, 1], [9] * 4]


def test_detections_follow_the_images_of_the_truth_and_keep_their_order_within():
    found = as_set(row(2, 0.1), row(9, 0.2), row(2, 0.3, (0, 0, 1, 0)), row(9, 1))
    assert found.starts.tolist() == [0, 2, 4, 4]
    assert found.scores.tolist() == [0.2, 1, 0.1, 0.3]
    assert found.xywh[3].tolist() == [0, 0, 1, 0]


def test_image_ids_may_be_strings_and_a_number_is_not_its_name():
    data = {"images": [{"id": "7", "width": 1, "height": 1}], "annotations": []}
    truth = as_truth(data, "gt.json")
    assert len(as_detections([row("7")], truth, "dt.json")) == 1
    expected = "got 7 (there is '7', a string)"
    with pytest.raises(SceneError, match=re.escape(expected)):
        as_detections([row(7)], truth, "dt.json")


def test_a_truth_without_images_and_an_empty_list_of_detections_are_fine():
    truth = as_truth({"images": [], "annotations": [], "categories": []}, "gt.json")
    assert (truth.images, len(truth), truth.sizes.shape) == (0, 0, (0, 2))
    found = as_detections([], truth, "dt.json")
    assert (found.images, found.xywh.shape) == (0, (0, 4))
    assert len(as_set()) == 0


def test_ids_of_annotations_may_be_missing_or_zero():
    data = truth_data()
    data["annotations"][0]["id"] = 0
    del data["annotations"][1]["id"], data["annotations"][2]["id"]
    assert len(as_truth(data, "gt.json")) == 4


def test_a_missing_score_is_one_only_if_scores_are_not_needed():
    bare = row()
    del bare["score"]
    assert as_set(row(), bare, scores_needed=False).scores.tolist() == [0.5, 1.0]
    with pytest.raises(SceneError, match=r"detections\[1\].score: .* finite number, got nothing"):
        as_set(row(), bare)


@pytest.mark.parametrize(
    ("categories", "used", "expected"),
    [
        ([4], [], 4),  # the only one listed
        ([0, 1, 2], [1, 1], 1),  # the only one used
        (None, [3], 3),
        (None, [], 1),  # nothing is known of categories
    ],
)
def test_a_missing_category_is_the_only_one_of_the_truth(categories, used, expected):
    data = {"images": [{"id": 2, "width": 9, "height": 9}]}
    data["annotations"] = [
        {"image_id": 2, "category_id": number, "bbox": [0, 0, 1, 1]} for number in used
    ]
    if categories is not None:
        data["categories"] = [{"id": number, "name": str(number)} for number in categories]
    bare = row()
    del bare["category_id"]
    found = as_detections([bare], as_truth(data, "gt.json"), "dt.json")
    assert found.category.tolist() == [expected]


def test_a_missing_category_is_an_error_where_the_truth_has_several():
    data = truth_data()
    data["categories"].append({"id": 2, "name": "rider"})
    data["annotations"][0]["category_id"] = 2
    bare = row()
    del bare["category_id"]
    expected = r"detections\[0\].category_id: expected one of the categories \[1, 2\], got nothing"
    with pytest.raises(SceneError, match=expected):
        as_detections([bare], as_truth(data, "gt.json"), "dt.json")


def test_a_category_without_a_name_is_called_by_its_number():
    data = truth_data()
    del data["categories"][0]["name"]
    assert as_truth(data, "gt.json").category_names == {1: "1"}


def test_without_a_list_of_categories_any_integer_is_one():
    data = truth_data()
    del data["categories"]
    truth = as_truth(data, "gt.json")
    assert as_detections([row(category=77)], truth, "dt.json").category.tolist() == [77]


NAN = float("nan")
BOX = r"expected \[x, y, width, height\], finite numbers below 1e9, sides >= 0, got"
BAD_TRUTH = [
    ("images", 0, "id", 2, r"images\[1\].id: expected ids that differ, got 2 as in images\[0\]"),
    ("images", 1, "id", None, r"images\[1\].id: expected an integer or a string, got None"),
    ("images", 1, "id", 1.0, r"images\[1\].id: expected an integer or a string, got 1.0"),
    ("images", 2, "width", 0, r"images\[2\].width: expected an integer >= 1, got 0"),
    ("images", 2, "height", "200", r"images\[2\].height: expected an integer >= 1, got '200'"),
    ("images", 2, "height", ..., r"images\[2\].height: expected an integer >= 1, got nothing"),
    ("annotations", 3, "bbox", ..., rf"annotations\[3\].bbox: {BOX} nothing"),
    ("annotations", 3, "bbox", [1, 2, 3], rf"annotations\[3\].bbox: {BOX} \[1, 2, 3\]"),
    ("annotations", 3, "bbox", [1, 2, 3, "4"], rf"annotations\[3\].bbox: {BOX} \[1, 2, 3, '4'\]"),
    ("annotations", 3, "bbox", [1, 2, True, 4], rf"annotations\[3\].bbox: {BOX} .*True"),
    ("annotations", 3, "bbox", [NAN, 2, 3, 4], rf"annotations\[3\].bbox: {BOX} \[nan"),
    ("annotations", 3, "bbox", [1, 2, -3, 4], rf"annotations\[3\].bbox: {BOX} .*-3"),
    ("annotations", 3, "bbox", [10**400, 2, 3, 4], rf"annotations\[3\].bbox: {BOX} \[1000"),
    ("annotations", 3, "vis_bbox", None, rf"annotations\[3\].vis_bbox: {BOX} None"),
    ("annotations", 1, "area", -1, r"annotations\[1\].area: expected a finite number >= 0, got -1"),
    ("annotations", 1, "area", NAN, r"annotations\[1\].area: expected a finite .*, got nan"),
    ("annotations", 1, "iscrowd", 2, r"annotations\[1\].iscrowd: expected 0 or 1, got 2"),
    ("annotations", 1, "ignore", "1", r"annotations\[1\].ignore: expected 0 or 1, got '1'"),
    ("annotations", 2, "id", 1, r"annotations\[2\].id: .* differ, got 1 as in annotations\[0\]"),
    ("annotations", 2, "id", [], r"annotations\[2\].id: expected an integer or a string, got \[\]"),
    ("annotations", 2, "image_id", 3, r"annotations\[2\].image_id: expected the id .*, got 3"),
    ("annotations", 2, "image_id", "2", r"annotations\[2\].image_id: .*'2' \(there is 2, an int"),
    ("annotations", 2, "image_id", ..., r"annotations\[2\].image_id: expected an .*, got nothing"),
    ("annotations", 2, "image_id", [2], r"annotations\[2\].image_id: expected an .*, got \[2\]"),
    (
        "annotations",
        2,
        "category_id",
        8,
        r"annotations\[2\].category_id: expected one of the categories \[1\], got 8",
    ),
    ("annotations", 2, "category_id", ..., r"annotations\[2\].category_id: .*got nothing"),
    ("annotations", 2, "category_id", 2**70, r"annotations\[2\].category_id: .*got 11805"),
    ("categories", 0, "id", "1", r"categories\[0\].id: expected an integer, got '1'"),
    ("categories", 0, "name", 1, r"categories\[0\].name: expected a string, got 1"),
]


@pytest.mark.parametrize(("part", "number", "key", "value", "message"), BAD_TRUTH)
def test_a_wrong_field_of_the_truth_is_named(part, number, key, value, message):
    data = truth_data()
    if value is ...:
        del data[part][number][key]
    else:
        data[part][number][key] = value
    with pytest.raises(SceneError, match=f"^gt.json: {message}"):
        as_truth(data, "gt.json")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], r"expected an object with images and annotations, got a list \(are these detections"),
        (3, "expected an object with images and annotations, got 3"),
        ({}, "images: expected a list of objects, got nothing"),
        ({"images": []}, "annotations: expected a list of objects, got nothing"),
        ({"images": [], "annotations": {}}, r"annotations: expected a list of objects, got \{\}"),
        ({"images": [3], "annotations": []}, r"images\[0\]: expected an object, got 3"),
        (
            {"images": [], "annotations": [], "categories": None},
            "categories: expected a list of objects",
        ),
        (
            {"images": [], "annotations": [], "categories": [{"id": 1}, {"id": 1}]},
            r"categories\[1\].id: expected ids that differ, got 1 as in categories\[0\]",
        ),
    ],
)
def test_a_truth_of_another_shape_is_refused(data, message):
    with pytest.raises(SceneError, match=f"^gt.json: {message}"):
        as_truth(data, "gt.json")


BAD_DETECTIONS = [
    ("score", NAN, "expected a finite number, got nan"),
    ("score", float("inf"), "expected a finite number, got inf"),
    ("score", "0.5", "expected a finite number, got '0.5'"),
    ("score", True, "expected a finite number, got True"),
    ("score", None, "expected a finite number, got None"),
    ("score", 10**400, "expected a finite number, got 1000"),
    ("bbox", [1, 2, 3, -4], rf"{BOX} \[1, 2, 3, -4\]"),
    ("bbox", [[1, 2, 3, 4]], rf"{BOX} \[\[1, 2, 3, 4\]\]"),
    ("bbox", ..., f"{BOX} nothing"),
    ("image_id", 4, "expected the id of a known image, got 4"),
    ("image_id", ..., "expected an integer or a string, got nothing"),
    ("category_id", 2, r"expected one of the categories \[1\], got 2"),
]


@pytest.mark.parametrize(("key", "value", "message"), BAD_DETECTIONS)
def test_a_wrong_field_of_a_detection_is_named(key, value, message):
    rows = [row(), row(), row()]
    if value is ...:
        del rows[2][key]
    else:
        rows[2][key] = value
    with pytest.raises(SceneError, match=rf"^dt.json: detections\[2\].{key}: {message}"):
        as_set(*rows)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({}, r"expected a list of detections, got an object \(is this the ground truth\?\)"),
        (None, "expected a list of detections, got None"),
        ([[1, 2]], r"detections\[0\]: expected an object, got \[1, 2\]"),
    ],
)
def test_detections_of_another_shape_are_refused(rows, message):
    with pytest.raises(SceneError, match=f"^dt.json: {message}"):
        as_detections(rows, as_truth(truth_data(), "gt.json"), "dt.json")


def test_files_are_read_as_their_content(tmp_path):
    (tmp_path / "gt.json").write_text(json.dumps(truth_data()))
    (tmp_path / "dt.json").write_text(json.dumps([row()]))
    truth = read_truth(tmp_path / "gt.json")
    assert truth.image_ids == (9, 2, 5)
    assert read_detections(str(tmp_path / "dt.json"), truth).scores.tolist() == [0.5]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty file"),
        (b"\xef\xbb\xbf[]", "byte order mark"),
        (b'{"images": [', "expected JSON"),
        (b"\xff\x00", "expected UTF-8"),
        (b'[{"image_id": 2, "bbox": [1, 2, 3, 4], "score": NaN}]', r"\[0\].score: .* got nan"),
        (b'[{"image_id": 2, "bbox": [1, 2, 3, 1e999], "score": 1}]', r"\[0\].bbox: .* inf\]"),
        (b"[" * 100_000, "expected JSON"),
        (b"[1" + b"0" * 5000 + b"]", "expected JSON"),
    ],
)
def test_a_broken_file_is_named_with_what_is_wrong(tmp_path, content, message):
    file = tmp_path / "broken.json"
    file.write_bytes(content)
    truth = as_truth(truth_data(), "gt.json")
    with pytest.raises(SceneError, match=f"^{re.escape(str(file))}: .*{message}"):
        read_detections(file, truth)
    if b"bbox" not in content and not content.startswith(b"[1"):
        with pytest.raises(SceneError, match=f"^{re.escape(str(file))}: .*{message}"):
            read_truth(file)


@pytest.mark.parametrize("name", ["missing.json", "."])
def test_a_missing_file_and_a_folder_are_scene_errors(tmp_path, name):
    with pytest.raises(SceneError, match=re.escape(str(tmp_path))):
        read_truth(tmp_path / name)


@given(st.permutations(range(4)))
def test_how_images_are_mixed_in_the_file_does_not_matter(order):
    data, mixed = truth_data(), copy.deepcopy(truth_data())
    # Only the order among images changes: each image's own rows stay in theirs.
    rows = {k: [r for r in data["annotations"] if r["image_id"] == k] for k in (2, 9)}
    images = [(2, 9, 2, 9)[k] for k in order]
    left = {k: iter(rows[k]) for k in rows}
    mixed["annotations"] = [next(left[k]) for k in images]
    one, other = as_truth(data, "gt.json"), as_truth(mixed, "gt.json")
    assert np.array_equal(one.xywh, other.xywh)
    assert np.array_equal(one.ignore, other.ignore)
