from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from dip_agents.evaluation.coco import CocoImage, CocoTruth, coco_detections
from dip_env.errors import SceneError
from dip_env.formats.coco_json import as_detections, as_truth
from dip_env.metrics import score_files


def test_a_scene_is_written_clipped_with_visible_boxes_and_ignore_flags(toy):
    scene = toy[1]
    boxes = scene.boxes.copy()
    boxes[0] = (-50, 120, 200, 700)  # past the left and the lower edge of 640 x 480
    truth = CocoTruth()
    assert truth.add(1, replace(scene, boxes=boxes)) == CocoImage(2, 1, (640, 480))
    assert truth.data["images"] == [
        {"id": 2, "width": 640, "height": 480, "file_name": "toy-1", "scene_index": 1}
    ]
    rows = truth.data["annotations"]
    assert [row["id"] for row in rows] == [1, 2, 3]
    assert [row["iscrowd"] for row in rows] == [0, 0, 1]
    assert rows[0]["bbox"] == [0, 120, 200, 360]
    assert rows[0]["full_bbox"] == [-50, 120, 250, 580]
    assert rows[0]["vis_bbox"] == [100, 120, 50, 300]
    assert rows[0]["full_vis_bbox"] == [100, 120, 50, 300]
    assert rows[0]["area"] == 200 * 360
    assert truth.data["categories"] == [{"id": 1, "name": "person"}]


def test_people_past_the_border_are_in_the_rows_of_their_annotation(toy, tmp_path):
    # 70 tall, 40/70 visible: heavy; 60 tall, 45/60 visible: reasonable. Clipped at 300 both are 45.
    full = np.array([[100, 255, 129, 325], [200, 255, 225, 315]], np.float32)
    seen = np.array([[100, 255, 129, 295], [200, 255, 225, 300]], np.float32)
    scene = replace(
        toy[0],
        size=(400, 300),
        boxes=full,
        visible_boxes=seen,
        visible_share=np.array([40 / 70, 45 / 60], np.float32),
        ignore=np.zeros(2, bool),
        labels=("person",) * 2,
    )
    truth = CocoTruth()
    image = truth.add(0, scene)
    (tmp_path / "truth.json").write_text(json.dumps(truth.data))
    answer = coco_detections(image, full.astype(float), [0.9, 0.8])
    (tmp_path / "answer.json").write_text(json.dumps(answer))
    files = (tmp_path / "truth.json", tmp_path / "answer.json")
    people = score_files(*files, "citypersons")["details"]["persons"]
    assert {name: people[f"MR_{name}"] for name in ("reasonable", "heavy", "small", "all")} == {
        "reasonable": 1,
        "heavy": 1,
        "small": 1,
        "all": 2,
    }
    # The rewards' own metrics read what lies inside the image, which an answer can reach.
    assert score_files(*files, "citypersons", scores=False)["mean_iou"] == 1


@pytest.mark.parametrize(
    ("given", "expected"), [(139, 139), (0, 0), ("139", 6), (None, 6), (True, 6), (13.0, 6)]
)
def test_the_image_id_of_the_data_set_is_kept_where_it_is_an_integer(toy, given, expected):
    scene = replace(toy[0], notes={} if given is None else {"image_id": given})
    assert CocoTruth().add(5, scene).image_id == expected


def test_an_image_id_that_comes_again_is_an_error(toy):
    truth = CocoTruth()
    truth.add(0, replace(toy[0], notes={"image_id": 4}))
    with pytest.raises(SceneError, match=r"scene toy-3 \(index 3\): .* got 4, the id of scene toy"):
        truth.add(3, toy[3])


def test_each_target_is_a_category(toy):
    truth = CocoTruth()
    targets = ("person", "car", "person")
    places = [truth.add(k, replace(toy[0], target=t)) for k, t in enumerate(targets)]
    assert [place.category_id for place in places] == [1, 2, 1]
    assert truth.data["categories"] == [{"id": 1, "name": "person"}, {"id": 2, "name": "car"}]
    assert [row["category_id"] for row in truth.data["annotations"]] == [1] * 3 + [2] * 3 + [1] * 3


def test_every_box_is_written_clipped_also_without_area_inverted_or_far_away(toy):
    boxes = np.array(
        [[-9.5, 0, 900, 10], [5, 5, 5, 9], [9, 9, 2, 3], [-4e9, 0, 4e9, 1], [1, 2, 3, 4]]
    )
    rows = coco_detections(CocoImage(3, 2, (640, 480)), boxes, (0.5, None, None, None, 0))
    assert [row["bbox"] for row in rows] == [
        [0, 0, 640, 10],
        [5, 5, 0, 4],
        [9, 9, 0, 0],
        [0, 0, 640, 1],
        [1, 2, 2, 2],
    ]
    assert [row["score"] for row in rows] == [0.5, 1, 1, 1, 0]
    assert {(row["image_id"], row["category_id"]) for row in rows} == {(3, 2)}


def test_what_is_written_can_be_read(toy):
    file, rows = CocoTruth(), []
    for k in (1, 0, 2):
        place = file.add(k, toy[k])
        rows += coco_detections(place, [[0, 0, 4e9, 1], [k, 0, 9, 9]], (None, None))
    truth = as_truth(file.data, "truth")
    assert truth.image_ids == (2, 1, 3)
    assert truth.people.tolist() == [2, 3, 0]
    assert as_detections(rows, truth, "detections").xywh[1::2, 0].tolist() == [1, 0, 2]
