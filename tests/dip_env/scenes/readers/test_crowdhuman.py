from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dip_env.episode import Episode
from dip_env.errors import ConfigError, SceneError
from dip_env.scenes.preview.summary import summarise
from dip_env.scenes.readers.crowdhuman import CrowdHumanScenes
from dip_env.testing import check_dip_env

pytestmark = pytest.mark.filterwarnings("error")

A, B = "273271,c9db000d5146c15", "284193,faa9000f2678b5e"


def person(fbox=(10, 20, 30, 40), vbox=None, hbox=(12, 20, 8, 10), **more):
    return {
        "tag": "person",
        "hbox": list(hbox),
        "head_attr": {"ignore": 0, "occ": 1, "unsure": 0},
        "fbox": list(fbox),
        "vbox": list(fbox if vbox is None else vbox),
        "extra": {"box_id": 0, "occ": 1},
        **more,
    }


def mask(box=(60, 10, 20, 30), **more):
    boxes = {key: list(box) for key in ("hbox", "fbox", "vbox")}
    return {"tag": "mask", "head_attr": {}, **boxes, "extra": {"ignore": 1}, **more}


@pytest.fixture
def write(tmp_path):
    """Return a function that writes lines of boxes, with an image each, and returns the root."""

    def write(*lines, names=(A, B), split="train", folder="Images", suffix=".jpg", size=(100, 80)):
        rows = [json.dumps({"ID": n, "gtboxes": g}) for n, g in zip(names, lines, strict=False)]
        (tmp_path / f"annotation_{split}.odgt").write_text("".join(row + "\n" for row in rows))
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        for name in names[: len(lines)]:
            Image.new("RGB", size, (10, 20, 30)).save(tmp_path / folder / (name + suffix))
        return tmp_path

    return write


def test_full_boxes_keep_what_runs_outside_the_image(write):
    source = CrowdHumanScenes(write([person((-20, 30, 60, 90), vbox=(0, 30, 40, 45))]))
    scene = source[0]
    assert scene.scene_id == A
    assert scene.size == (100, 80)  # the header's: the file states none
    assert scene.boxes.tolist() == [[-20, 30, 40, 120]]
    assert scene.visible_boxes.tolist() == [[0, 30, 40, 75]]
    assert scene.visible_share.tolist() == pytest.approx([40 * 45 / (60 * 90)])
    assert scene.labels == ("person",)
    assert scene.notes["file"].endswith(f"Images/{A}.jpg")


def test_images_that_exif_data_turn_are_refused_unless_told_how(write):
    root = write([person((10, 50, 30, 40))], size=(100, 60))  # the box lies in the upright image
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (100, 60)).save(root / "Images" / f"{A}.jpg", exif=exif)
    source = CrowdHumanScenes(root)
    with pytest.raises(SceneError, match=r"\.jpg: EXIF orientation 6: .*exif_rotation='ignore'"):
        source[0]
    assert summarise(source, [0])["images_turned"] == 1
    upright = CrowdHumanScenes(root, exif_rotation="apply")
    stored = CrowdHumanScenes(root, exif_rotation="ignore")
    assert upright[0].size == upright[0].image.size == (60, 100)
    assert stored[0].size == stored[0].image.size == (100, 60)
    assert len({repr(source), repr(upright), repr(stored)}) == 3
    assert [summarise(s, [0])["sizes"] for s in (upright, stored)] == [{"60x100": 1}, {"100x60": 1}]


def test_masks_and_ignored_persons_are_ignored_but_heads_do_not_matter_to_bodies(write):
    lines = [
        person((0, 0, 9, 9)),
        person((10, 0, 9, 9), extra={"ignore": 1}),
        person((20, 0, 9, 9), extra={"ignore": 0, "box_id": 1}),
        person((30, 0, 9, 9), head_attr={"ignore": 1}),
        mask((40, 0, 9, 9)),
        mask((50, 0, 9, 9), extra={}),
    ]
    source = CrowdHumanScenes(write(lines))
    assert source[0].ignore.tolist() == [False, True, False, False, True, True]
    assert source[0].labels == ("person",) * 4 + ("mask",) * 2
    assert source.counts == {
        "images": 1,
        "instances": 6,
        "ignored": 3,
        "persons": 4,
        "masks": 2,
        "ignored_persons": 1,
        "ignored_heads": 0,
        "dropped": 0,
    }


def test_extra_and_head_attr_may_be_absent(write):
    row = person()
    del row["extra"], row["head_attr"]
    assert CrowdHumanScenes(write([row]), boxes="head")[0].ignore.tolist() == [False]


def test_visible_boxes_are_found_where_they_are_asked_for(write):
    row = person((10, 20, 30, 40), vbox=(12, 22, 15, 20))
    scene = CrowdHumanScenes(write([row]), boxes="visible")[0]
    assert scene.boxes.tolist() == scene.visible_boxes.tolist() == [[12, 22, 27, 42]]
    assert scene.visible_share.tolist() == [0.25]  # of the full box, all the same
    assert scene.target == "person"


def test_heads_are_found_where_they_are_asked_for(write):
    lines = [
        person(hbox=(1, 2, 3, 4)),
        person(hbox=(5, 6, 7, 8), head_attr={"ignore": 1}),
        person(hbox=(9, 9, 9, 9), head_attr={"ignore": 1}, extra={"ignore": 1}),
        mask((60, 10, 20, 30)),
    ]
    source = CrowdHumanScenes(write(lines), boxes="head")
    scene = source[0]
    assert scene.boxes.tolist() == [[1, 2, 4, 6], [5, 6, 12, 14], [9, 9, 18, 18], [60, 10, 80, 40]]
    assert scene.visible_boxes.tolist() == scene.boxes.tolist()
    assert scene.visible_share.tolist() == [1, 1, 1, 1]
    assert scene.ignore.tolist() == [False, True, True, True]
    assert (source.counts["ignored_persons"], source.counts["ignored_heads"]) == (1, 1)
    assert "Find every head in the image" in Episode(scene).opening.text


def test_only_the_boxes_that_are_used_are_required(write):
    row = person()
    del row["hbox"]
    root = write([row])
    assert len(CrowdHumanScenes(root)[0].boxes) == 1
    with pytest.raises(SceneError, match=r"gtboxes\[0\]\.hbox: expected four finite.*got none"):
        CrowdHumanScenes(root, boxes="head")
    row = person()
    del row["fbox"], row["vbox"]
    root = write([row])
    assert len(CrowdHumanScenes(root, boxes="head")[0].boxes) == 1
    with pytest.raises(SceneError, match=r"gtboxes\[0\]\.fbox: expected four finite.*got none"):
        CrowdHumanScenes(root)


def test_nothing_of_a_person_need_be_visible(write):
    scene = CrowdHumanScenes(write([person(vbox=(10, 20, 0, 0))]))[0]
    assert scene.visible_share.tolist() == [0]


def test_a_line_without_boxes_is_a_scene_without_people(write):
    source = CrowdHumanScenes(write([], []))
    assert len(source) == 2
    assert source[1].boxes.shape == source[1].visible_boxes.shape == (0, 4)
    assert source.counts["instances"] == source.counts["persons"] == 0


def test_lines_keep_their_own_boxes(write):
    root = write([], [person((1, 1, 5, 5)), person((2, 2, 5, 5))], [mask()], names=("a", "b", "c"))
    source = CrowdHumanScenes(root)
    assert [len(scene.boxes) for scene in source] == [0, 2, 1]
    assert source[1].boxes[:, 0].tolist() == [1, 2]


BODY = st.tuples(*[st.integers(-99, 99)] * 2, *[st.integers(1, 400)] * 2)


@given(st.lists(st.tuples(BODY, BODY, st.booleans(), st.booleans()), max_size=6))
def test_every_box_of_the_file_is_an_instance_with_a_share(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("crowd")
    lines = [
        mask(full) if region else person(full, seen, extra={"ignore": int(ignore)})
        for full, seen, region, ignore in rows
    ]
    (folder / "a.odgt").write_text(json.dumps({"ID": A, "gtboxes": lines}))
    source = CrowdHumanScenes(annotations=folder / "a.odgt", images=folder)
    table = source.table
    assert table.boxes.tolist() == [[x, y, x + w, y + h] for (x, y, w, h), *_ in rows]
    assert ((table.visible_share >= 0) & (table.visible_share <= 1)).all()
    counts = source.counts
    assert counts["instances"] == counts["persons"] + counts["masks"] == len(rows)
    assert counts["ignored"] == counts["masks"] + counts["ignored_persons"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fbox": [1, 2, 3]}, r"\.fbox: expected four finite numbers .*got \[1, 2, 3\]"),
        ({"fbox": [1, 2, "3", 4]}, r"\.fbox: expected four finite"),
        ({"fbox": [1, 2, True, 4]}, r"\.fbox: expected four finite"),
        ({"fbox": [1, 2, float("nan"), 4]}, r"\.fbox: expected four finite.*nan"),
        ({"fbox": [1, 2, float("inf"), 4]}, r"\.fbox: expected four finite.*inf"),
        ({"fbox": [10**400, 2, 3, 4]}, r"\.fbox: expected four finite"),
        ({"fbox": None}, r"\.fbox: expected four finite.*None"),
        ({"fbox": [1, 2, -3, 4]}, r"\.fbox: expected width and height above 0, got \[1\.0, 2\.0"),
        ({"fbox": [1, 2, 3, 0]}, r"\.fbox: expected width and height above 0"),
        ({"vbox": [1, 2, 3, -4]}, r"\.vbox: expected width and height of at least 0"),
        ({"vbox": "1 2 3 4"}, r"\.vbox: expected four finite"),
        ({"hbox": [1, 2, 3]}, r"\.hbox: expected four finite"),
        ({"tag": "dog"}, r"\.tag: expected person or mask, got 'dog'"),
        ({"tag": ["person"]}, r"\.tag: expected person or mask"),
        ({"extra": None}, r"\.extra: expected an object, got None"),
        ({"extra": {"ignore": 2}}, r"\.extra\.ignore: expected 0 or 1, got 2"),
        ({"extra": {"ignore": True}}, r"\.extra\.ignore: expected 0 or 1, got True"),
        ({"head_attr": {"ignore": "no"}}, r"\.head_attr\.ignore: expected 0 or 1"),
        ({"head_attr": [0]}, r"\.head_attr: expected an object"),
    ],
)
def test_a_bad_box_is_one_error_naming_line_and_field(write, change, message):
    root = write([person()], [mask(), person() | change])
    with pytest.raises(SceneError, match=r"_train\.odgt: line 2: gtboxes\[1\]" + message):
        CrowdHumanScenes(root)


@pytest.mark.parametrize("boxes", ["full", "visible", "head"])
def test_boxes_without_area_can_be_dropped_and_are_counted(write, boxes):
    field = {"full": "fbox", "visible": "vbox", "head": "hbox"}[boxes]
    lines = [person(), person(**{field: [1, 1, 0, 5]}), mask()], [mask(), person()]
    root = write(*lines)
    with pytest.raises(SceneError, match=rf"line 1: gtboxes\[1\]\.{field}: .*bad_boxes='drop'"):
        CrowdHumanScenes(root, boxes=boxes)
    source = CrowdHumanScenes(root, boxes=boxes, bad_boxes="drop")
    assert source[0].labels == ("person", "mask")
    assert source[1].labels == ("mask", "person")
    assert [scene.notes["dropped"] for scene in source] == [1, 0]
    assert source.counts["dropped"] == 1
    assert source.counts["persons"] + source.counts["masks"] == 5


def test_boxes_outside_the_image_show_when_its_header_is_read(write):
    root = write([person(), person((100, 20, 10, 10))])
    message = rf"Images/{A}\.jpg: scene {A}: box .* expected an area inside the image of 100x80"
    with pytest.raises(SceneError, match=message):
        CrowdHumanScenes(root)[0]
    scene = CrowdHumanScenes(root, bad_boxes="drop")[0]
    assert (len(scene.boxes), scene.notes["dropped"]) == (1, 1)


GOOD = json.dumps({"ID": "a", "gtboxes": [person()]})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD + "\n" + GOOD[:-9], "line 2: expected JSON"),
        (GOOD + "\n\n" + GOOD, "line 2: expected JSON"),
        (GOOD + "\r\n", r"line 1: expected lines that end with LF, got a carriage return \(CRLF\)"),
        ("\ufeff" + GOOD, "byte order mark"),
        ("", "expected annotations, got an empty file"),
        (GOOD + "\n" + GOOD, "line 2: ID: expected a new one, got that of line 1"),
        ("[]", r"line 1: expected an object with ID and gtboxes, got \[\]"),
        ('{"ID": "a"}', r"line 1: expected an object with ID and gtboxes, got \['ID'\]"),
        ('{"ID": "a", "gtboxes": {}}', "line 1: gtboxes: expected a list, got {}"),
        ('{"ID": "a", "gtboxes": [3]}', r"line 1: gtboxes\[0\]: expected an object, got 3"),
        ('{"ID": 7, "gtboxes": []}', "line 1: ID: expected a name, got 7"),
        ('{"ID": " ", "gtboxes": []}', "line 1: ID: expected a name"),
        ('{"ID": "../a", "gtboxes": []}', "line 1: ID: expected a path inside the image folder"),
        ('{"ID": "/etc/a", "gtboxes": []}', "line 1: ID: expected a path inside"),
        ("[" * 100_000, "line 1: expected JSON"),
        (GOOD + "\n" + GOOD[:-1] + ', "gtboxes": []}', "line 2: .*'gtboxes' twice at column"),
    ],
)
def test_a_malformed_file_is_one_error(tmp_path, text, message):
    (tmp_path / "annotation_train.odgt").write_bytes(text.encode())
    with pytest.raises(SceneError, match=r"annotation_train\.odgt: .*" + message):
        CrowdHumanScenes(tmp_path)


def test_further_keys_of_a_line_are_allowed(tmp_path):
    (tmp_path / "annotation_train.odgt").write_text('{"ID": "a", "gtboxes": [], "width": 9}\n')
    assert len(CrowdHumanScenes(tmp_path)) == 1


def test_the_parts_of_an_archive_may_lie_in_folders_of_their_own(write):
    root = write([person()], [person()], folder="CrowdHuman_train01/Images")
    (root / "CrowdHuman_train03" / "Images").mkdir(parents=True)
    (root / "CrowdHuman_val" / "Images").mkdir(parents=True)
    moved = root / "CrowdHuman_train03" / "Images" / f"{B}.jpg"
    (root / "CrowdHuman_train01" / "Images" / f"{B}.jpg").rename(moved)
    for source in (CrowdHumanScenes(root), CrowdHumanScenes(root, images=root)):
        assert [scene.image.size for scene in source] == [(100, 80), (100, 80)]
        assert source[1].notes["file"] == str(moved)
    Image.new("RGB", (100, 80)).save(root / "CrowdHuman_train01" / "Images" / f"{B}.png")
    with pytest.raises(SceneError, match=f"{B}: expected one image .*train01/Images and .*train03"):
        CrowdHumanScenes(root)[1]
    moved.unlink()
    (root / "CrowdHuman_train01" / "Images" / f"{B}.png").unlink()
    with pytest.raises(
        SceneError, match=rf"{B}\.jpg \(or \.png\): image file is missing in .*train"
    ):
        CrowdHumanScenes(root)[1]


def test_one_file_under_two_names_is_the_same_image(write):
    with pytest.raises(SceneError, match="line 2: ID: expected a new one, got that of line 1"):
        CrowdHumanScenes(write([], [], names=(A, f"./{A}")))


@pytest.mark.parametrize("key", ["ignor", "Ignore", "ignored", "igonre"])
@pytest.mark.parametrize("part", ["extra", "head_attr"])
def test_a_misspelled_ignore_is_named_and_other_keys_are_allowed(write, key, part):
    with pytest.raises(
        SceneError, match=rf"gtboxes.0.\.{part}: expected the key ignore, got '{key}"
    ):
        CrowdHumanScenes(write([person(**{part: {key: 1}})]))
    assert len(CrowdHumanScenes(write([person(**{part: {"note": 1, "occ": 0}})]))) == 1


def test_files_that_are_not_there_are_named(write, tmp_path):
    with pytest.raises(
        SceneError, match=r"expected one annotation_.* of split 'train', found none"
    ):
        CrowdHumanScenes(tmp_path)
    root = write([person()])
    with pytest.raises(SceneError, match=r"split 'val', found annotation_train\.odgt"):
        CrowdHumanScenes(root, split="val")
    with pytest.raises(SceneError, match=r"none\.odgt: annotation file is missing"):
        CrowdHumanScenes(root, annotations=root / "none.odgt")
    with pytest.raises(SceneError, match="annotation file cannot be read: Is a directory"):
        CrowdHumanScenes(root, annotations=root)
    source = CrowdHumanScenes(root)
    source.image_path(0).unlink()
    with pytest.raises(SceneError, match=rf"{A}\.jpg \(or \.png\): image file is missing"):
        source[0]


def test_settings_that_cannot_work_are_one_error(write):
    root = write([person()])
    with pytest.raises(ConfigError, match="boxes: expected one of full, visible, head, got 'face'"):
        CrowdHumanScenes(root, boxes="face")
    with pytest.raises(ConfigError, match="bad_boxes: expected error or drop"):
        CrowdHumanScenes(root, bad_boxes="keep")
    with pytest.raises(ConfigError, match="expected root=, or annotations= and images="):
        CrowdHumanScenes()
    with pytest.raises(ConfigError, match="expected root= or images="):
        CrowdHumanScenes(annotations=root / "annotation_train.odgt")


@pytest.mark.parametrize(
    "folder", ["Images", "images", "CrowdHuman_train/Images", "CrowdHuman_train"]
)
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_images_are_found_in_the_usual_folders(write, folder, suffix):
    scene = CrowdHumanScenes(write([person()], folder=folder, suffix=suffix))[0]
    assert scene.image.size == (100, 80)
    assert scene.notes["file"].endswith(f"{folder}/{A}{suffix}")


def test_what_a_mac_leaves_beside_the_files_is_none_of_the_set(write):
    root = write([person()])
    (root / "._annotation_train.odgt").write_bytes(b"\0\5\x16\7")
    (root / "Images" / f"._{A}.jpg").write_bytes(b"\0\5\x16\7")
    assert CrowdHumanScenes(root)[0].image.size == (100, 80)


def test_each_split_has_its_own_file(write):
    write([person()], split="val", folder="CrowdHuman_val/Images", names=(B,))
    root = write([person()], folder="CrowdHuman_train/Images")
    for split, name in (("train", A), ("val", B)):
        source = CrowdHumanScenes(root, split=split)
        assert source.file.name == f"annotation_{split}.odgt"
        assert source[0].scene_id == name
        assert f"CrowdHuman_{split}" in source[0].notes["file"]


def test_repr_tells_sources_apart(write):
    root = write([person()])
    assert repr(CrowdHumanScenes(root)) == repr(CrowdHumanScenes(root))
    assert repr(CrowdHumanScenes(root)) != repr(CrowdHumanScenes(root, boxes="head"))


def test_a_copy_gives_the_same_scenes(write):
    source = CrowdHumanScenes(write([person(), mask()], []))
    copy = pickle.loads(pickle.dumps(source))
    assert copy[0].boxes.tolist() == source[0].boxes.tolist()
    assert copy[0].image.tobytes() == source[0].image.tobytes()
    assert copy.counts == source.counts


@pytest.mark.parametrize("boxes", ["full", "visible", "head"])
def test_scenes_keep_the_contract_and_can_be_solved(write, boxes):
    lines = [
        person((5, 5, 30, 60), hbox=(10, 5, 12, 12)),
        person((50, 10, 40, 65), vbox=(55, 12, 30, 30), hbox=(60, 12, 14, 14)),
        mask((0, 60, 30, 19)),
    ]
    check_dip_env(CrowdHumanScenes(write(lines, [person()]), boxes=boxes))


def test_arguments_survive_the_json_of_an_environment(write):
    source = {"root": str(write([person(hbox=(3, 4, 5, 6))])), "boxes": "head"}
    arguments = json.loads(json.dumps(source))
    assert CrowdHumanScenes(**arguments)[0].truth.tolist() == [[3, 4, 8, 10]]


def test_many_lines_are_kept_as_columns(write):
    names = tuple(f"{k:05d}" for k in range(300))
    root = write(*[[person((k, 1, 5, 5)) for k in range(20)]] * 300, names=names, size=(1, 1))
    source = CrowdHumanScenes(root)
    assert source.table.boxes.shape == (6000, 4)
    assert source.table.boxes.dtype == np.float32
    assert len(pickle.dumps(source)) < 6000 * 60
