from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from dip_env.episode import Episode
from dip_env.errors import ConfigError, DipError, SceneError
from dip_env.scenes import CocoScenes


def row(bbox, **more):
    return {"image_id": 0, "category_id": 1, "bbox": bbox, "iscrowd": 0, **more}


def test_boxes_become_xyxy_and_crowds_are_ignored(write_coco):
    root = write_coco(
        [row([10, 20, 30, 40]), row([50, 0, 50, 80], iscrowd=1), row([1, 1, 2, 2], category_id=2)]
    )
    source = CocoScenes(root)
    scene = source[0]
    assert len(source) == 1
    assert scene.scene_id == "0"
    assert scene.boxes.tolist() == [[10, 20, 40, 60], [50, 0, 100, 80]]
    assert scene.truth.tolist() == [[10, 20, 40, 60]]
    assert scene.ignore.tolist() == [False, True]
    assert scene.labels == ("person", "person")
    assert scene.image.size == (100, 80)
    assert source.counts == {
        "images": 1,
        "instances": 2,
        "ignored": 1,
        "clipped": 0,
        "dropped": 0,
        "other_category": 1,
        "shared_files": 0,
    }


def test_visible_box_sets_the_visible_share(write_coco):
    scene = CocoScenes(write_coco([row([10, 10, 20, 40], vis_bbox=[10, 10, 20, 10])]))[0]
    assert scene.visible_boxes.tolist() == [[10, 10, 30, 20]]
    assert scene.visible_share.tolist() == [0.25]


def test_without_visible_box_everything_is_visible(write_coco):
    scene = CocoScenes(write_coco([row([10, 10, 20, 40])]))[0]
    assert scene.visible_boxes.tolist() == scene.boxes.tolist()
    assert scene.visible_share.tolist() == [1.0]


def test_boxes_over_the_border_are_clipped_and_counted(write_coco):
    source = CocoScenes(
        write_coco([row([-10, -5, 30, 25]), row([90, 70, 30, 30]), row([0, 0, 9, 9])])
    )
    assert source[0].boxes.tolist() == [[0, 0, 20, 20], [90, 70, 100, 80], [0, 0, 9, 9]]
    assert source.counts["clipped"] == source[0].notes["clipped"] == 2


def test_images_without_annotations_are_empty_scenes(write_coco):
    scene = CocoScenes(write_coco([]))[0]
    assert scene.boxes.shape == scene.visible_boxes.shape == (0, 4)


def test_categories_choose_what_is_kept(write_coco):
    root = write_coco([row([0, 0, 9, 9]), row([1, 1, 9, 9], category_id=2)])
    assert CocoScenes(root, categories=["dog"])[0].labels == ("dog",)
    assert CocoScenes(root, categories=None)[0].labels == ("person", "dog")
    with pytest.raises(SceneError, match=r"categories: expected 'cat' among \['dog', 'person'\]"):
        CocoScenes(root, categories=["cat"])
    with pytest.raises(ConfigError, match="expected a list of names, got 'dog'"):
        CocoScenes(root, categories="dog")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"bbox": [1, 2, 3]},
            r"annotations\[1\].bbox: expected \[x, y, width, height\].*, got \[1, 2, 3\]",
        ),
        (
            {"bbox": [1, 2, "3", 4]},
            r"annotations\[1\].bbox: expected \[x, y, width, height\], finite",
        ),
        (
            {"bbox": [1, 2, True, 4]},
            r"annotations\[1\].bbox: expected \[x, y, width, height\], finite",
        ),
        (
            {"bbox": [1, 2, float("nan"), 4]},
            r"annotations\[1\].bbox: expected \[x, y, width, height\], finite.*nan",
        ),
        (
            {"bbox": [1, 2, float("inf"), 4]},
            r"annotations\[1\].bbox: expected \[x, y, width, height\], finite.*inf",
        ),
        (
            {"bbox": [10**400, 2, 3, 4]},
            r"annotations\[1\].bbox: expected \[x, y, width, height\], finite",
        ),
        ({"bbox": {"x": 1}}, r"annotations\[1\].bbox: expected \[x, y, width, height\], finite"),
        ({"bbox": None}, r"annotations\[1\].bbox: expected \[x, y, width, height\], finite.*None"),
        ({"bbox": [5, 5, -1, 4]}, r"annotations\[1\].bbox: expected an area.*bad_boxes='drop'"),
        ({"bbox": [5, 5, 4, -1]}, r"annotations\[1\].bbox: expected an area.*bad_boxes='drop'"),
        (
            {"vis_bbox": [5, 5, 4, -1]},
            r"annotations\[1\].vis_bbox: expected width and height of at least 0, got \[5.*drop'",
        ),
        ({"bbox": [5, 5, 0, 4]}, r"annotations\[1\].bbox: expected an area inside .* 100x80"),
        ({"bbox": [5, 5, 4, 0]}, r"annotations\[1\].bbox: expected an area"),
        ({"bbox": [200, 5, 4, 4]}, r"annotations\[1\].bbox: expected an area"),
        ({"bbox": [5, -9, 4, 9]}, r"annotations\[1\].bbox: expected an area"),
        (
            {"vis_bbox": [1, 2]},
            r"annotations\[1\].vis_bbox: expected \[x, y, width, height\], finite",
        ),
        ({"id": 5}, r"annotations\[1\].id: expected ids that differ, got 5 as in"),
        ({"iscrowd": 2}, r"annotations\[1\].iscrowd: expected 0 or 1, got 2"),
        ({"iscrowd": "yes"}, r"annotations\[1\].iscrowd: expected 0 or 1"),
        ({"image_id": 7}, r"annotations\[1\].image_id: expected the id of a known image, got 7"),
        ({"image_id": [0]}, r"annotations\[1\].image_id: expected an integer or a string"),
        (
            {"category_id": 9},
            r"annotations\[1\].category_id: expected one of the categories.*, got 9",
        ),
    ],
)
def test_a_bad_annotation_is_one_error_naming_file_and_field(write_coco, change, message):
    root = write_coco([row([0, 0, 9, 9], id=5), row([0, 0, 9, 9]) | change])
    with pytest.raises(SceneError, match=r"annotations\.json: " + message):
        CocoScenes(root)


@pytest.mark.parametrize(
    "bad",
    [
        {"bbox": [5, 5, 0, 4]},
        {"bbox": [200, 5, 4, 4]},
        {"bbox": [50, 10, -20, 20]},
        {"bbox": [5, 5, -4, -4]},
        {"bbox": [0, 0, 9, 9], "vis_bbox": [0, 0, -1, 9]},
    ],
)
def test_boxes_without_area_in_the_image_can_be_dropped_and_are_counted(write_coco, bad):
    rows = [row([0, 0, 1, 1]) | bad, row([0, 0, 9, 9])]
    source = CocoScenes(write_coco(rows), bad_boxes="drop")
    assert source[0].boxes.tolist() == [[0, 0, 9, 9]]
    assert source.counts["dropped"] == source[0].notes["dropped"] == 1


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (
            [{"id": 1, "file_name": "a.png", "width": 100, "height": 80}] * 2,
            r"images\[1\].id: .* 1",
        ),
        ([{"id": 1, "file_name": "a.png", "width": 100}], r"images\[0\].height: .*nothing"),
        ([{"id": 1, "file_name": "a.png", "width": 0, "height": 80}], r"images\[0\].width: .* 0"),
        ([{"id": 1, "width": 100, "height": 80}], r"images\[0\].file_name: expected a name"),
        ([{"file_name": "a.png", "width": 100, "height": 80}], r"images\[0\].id: .*nothing"),
    ],
)
def test_a_bad_image_entry_is_one_error_naming_file_and_field(write_coco, images, message):
    with pytest.raises(SceneError, match=r"annotations\.json: " + message):
        CocoScenes(write_coco([], images=images))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "expected JSON"),
        ("[]", "expected an object with .* got a list"),
        (
            '{"images": [], "categories": []}',
            "annotations: expected a list of objects, got nothing",
        ),
        (
            '{"images": [3], "categories": [], "annotations": []}',
            r"images\[0\]: expected an object",
        ),
        ("[" * 100_000, "expected JSON"),
        (
            '{"images": [], "annotations": [1],\n"annotations": []}',
            r"json: expected each key once.*'annotations' twice at line 2 column 1",
        ),
    ],
)
def test_a_malformed_file_is_one_error(tmp_path, text, message):
    (tmp_path / "annotations.json").write_text(text)
    (tmp_path / "images").mkdir()
    with pytest.raises(SceneError, match=message):
        CocoScenes(tmp_path)


def test_an_image_of_another_size_than_annotated_is_an_error(write_coco):
    root = write_coco([], size=(100, 81))
    with pytest.raises(SceneError, match=r"a\.png: size: expected \(100, 80\).*got \(100, 81\)"):
        CocoScenes(root)[0].image.load()


def test_a_missing_image_is_an_error_naming_it(write_coco):
    root = write_coco([])
    (root / "images" / "a.png").unlink()
    with pytest.raises(SceneError, match=r"a\.png: image file is missing"):
        CocoScenes(root)[0].image.load()


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_truncated_image_is_an_error_naming_it(write_coco, suffix):
    name = f"b.{suffix}"
    noise = np.random.default_rng(0).integers(0, 255, (80, 100, 3), dtype=np.uint8)
    root = write_coco([], images=[{"id": 3, "file_name": name, "width": 100, "height": 80}])
    path = root / "images" / name
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(SceneError, match=rf"b\.{suffix}: image cannot be read: .*truncated"):
        CocoScenes(root)[0].image.load()


def test_a_file_that_is_no_image_is_an_error_naming_it(write_coco):
    root = write_coco([])
    (root / "images" / "a.png").write_text("hello")
    with pytest.raises(SceneError, match=r"a\.png: image cannot be read"):
        CocoScenes(root)[0].image.load()


def test_a_large_image_is_refused_before_it_is_opened(write_coco, monkeypatch):
    source = CocoScenes(write_coco([]), max_pixels=7999)
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("the file was opened"))
    with pytest.raises(SceneError, match=r"a\.png: expected at most 7999 pixels, got 100x80"):
        source[0].image.load()


def test_a_header_that_lies_about_its_size_is_refused_before_decoding(write_coco, monkeypatch):
    root = write_coco([], size=(4000, 4000))
    monkeypatch.setattr(Image.Image, "convert", lambda *_: pytest.fail("pixels were decoded"))
    with pytest.raises(SceneError, match=r"size: expected \(100, 80\)"):
        CocoScenes(root, max_pixels=10_000)[0].image.load()


def test_other_modes_come_out_as_rgb(write_coco):
    root = write_coco([])
    Image.new("L", (100, 80), 7).save(root / "images" / "a.png")
    assert CocoScenes(root)[0].image.getpixel((0, 0)) == (7, 7, 7)


def test_images_load_only_when_used(write_coco):
    root = write_coco([row([0, 0, 9, 9])])
    (root / "images" / "a.png").unlink()
    assert len(CocoScenes(root)[0].truth) == 1


def test_files_are_found_by_split_as_in_the_official_archive(write_coco, tmp_path):
    root = write_coco([])
    text = (root / "annotations.json").read_text()
    (root / "annotations.json").unlink()
    (root / "annotations").mkdir()
    for name in ("instances_train2017", "instances_val2017", "captions_val2017"):
        (root / "annotations" / f"{name}.json").write_text(text)
    (root / "val2017").mkdir()
    assert CocoScenes(root, split="val").file.name == "instances_val2017.json"
    assert CocoScenes(root, split="val").images.name == "val2017"
    assert CocoScenes(root, split="train").images.name == "images"
    with pytest.raises(SceneError, match=r"found instances_train2017\.json, .*name the file with"):
        CocoScenes(root, split="test")


def test_images_of_a_part_may_lie_in_a_folder_below_images(write_coco):
    root = write_coco([])
    (root / "annotations").mkdir()
    (root / "annotations.json").rename(root / "annotations" / "instances_train2017.json")
    (root / "images" / "train2017").mkdir()
    (root / "images" / "a.png").rename(root / "images" / "train2017" / "a.png")
    assert CocoScenes(root)[0].image.size == (100, 80)


@pytest.mark.parametrize(
    ("name", "images"), [(r"part\\a.png", "images"), (r"images\\part\\a.png", ".")]
)
def test_backslashes_in_a_file_name_are_those_of_windows(write_coco, name, images):
    root = write_coco([])
    (root / "images" / "part").mkdir()
    (root / "images" / "a.png").rename(root / "images" / "part" / "a.png")
    text = (root / "annotations.json").read_text()
    (root / "annotations.json").write_text(text.replace("a.png", name))
    source = CocoScenes(root, images=root / images)
    assert source.has_image(0)
    assert source[0].image.size == (100, 80)


def test_a_file_that_has_a_backslash_in_its_name_comes_first(write_coco):
    rows = [{"id": 0, "file_name": r"part\a.png", "width": 100, "height": 80}]
    root = write_coco([], images=rows)
    (root / "images" / "part").mkdir()
    (root / "images" / "part" / "a.png").write_bytes(b"")
    assert CocoScenes(root).image_path(0).name == r"part\a.png"


def test_images_that_share_a_file_are_counted(write_coco):
    size = {"width": 100, "height": 80}
    names = ("a.png", "./a.png", "b.png")
    rows = [{"id": k, "file_name": name, **size} for k, name in enumerate(names)]
    assert CocoScenes(write_coco([], images=rows)).counts["shared_files"] == 1


def test_paths_can_be_named(write_coco, tmp_path):
    root = write_coco([row([0, 0, 9, 9])])
    source = CocoScenes(annotations=root / "annotations.json", images=root / "images")
    assert source[0].image.size == (100, 80)
    with pytest.raises(ConfigError, match="expected root=, or annotations= and images="):
        CocoScenes()
    with pytest.raises(ConfigError, match="expected root= or images="):
        CocoScenes(annotations=root / "annotations.json")
    with pytest.raises(SceneError, match="annotation file is missing"):
        CocoScenes(annotations=root / "none.json", images=root / "images")


def test_a_folder_without_images_shows_when_an_image_is_used(write_coco):
    root = write_coco([])
    shutil.rmtree(root / "images")
    with pytest.raises(SceneError, match=r"images/a\.png: image file is missing"):
        CocoScenes(root)[0].image.load()


@pytest.mark.parametrize("name", ["../a.png", "/etc/a.png", "b/../../a.png", "C:\\a.png"])
def test_a_file_name_that_leads_out_of_the_folder_is_refused(write_coco, name):
    rows = [{"id": 0, "file_name": "a.png", "width": 100, "height": 80}]
    root = write_coco([], images=rows)
    data = json.loads((root / "annotations.json").read_text())
    data["images"][0]["file_name"] = name
    (root / "annotations.json").write_text(json.dumps(data))
    with pytest.raises(SceneError, match=r"images\[0\].file_name: expected a path inside"):
        CocoScenes(root)


def test_the_prompt_names_what_is_kept(write_coco):
    root = write_coco([])
    assert CocoScenes(root)[0].target == "person"
    both = CocoScenes(root, categories=["person", "dog"])[0]
    assert "Find every person or dog in the image" in Episode(both).opening.text
    assert CocoScenes(root, categories=None)[0].target == "annotated object"


@pytest.mark.parametrize("index", [-1, 1])
def test_indices_outside_the_file_raise(write_coco, index):
    with pytest.raises(IndexError, match=rf"expected 0\.\.0, got {index}"):
        CocoScenes(write_coco([]))[index]


def test_every_error_is_one_of_ours_and_a_value_error():
    assert issubclass(SceneError, DipError)
    assert issubclass(SceneError, ValueError)
