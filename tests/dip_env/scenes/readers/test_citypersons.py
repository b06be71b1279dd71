from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import scipy.io
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dip_env.episode import Episode
from dip_env.errors import ConfigError, SceneError
from dip_env.scenes.readers.citypersons import CityPersonsScenes
from dip_env.scenes.readers.citypersons_files import CLASSES
from dip_env.testing import check_dip_env

pytestmark = pytest.mark.filterwarnings("error")

NAMES = ("aachen_000000_000019", "aachen_000001_000019", "bremen_000000_000019")
LABELS = ("ignore", *CLASSES[1:])
PEDESTRIAN = (1, 10, 20, 30, 40, 24000, 12, 22, 15, 20)
RIDER = (2, 50, 10, 20, 30, 25000, 50, 10, 20, 30)
REGION = (0, 70, 50, 25, 25, 0, 70, 50, 25, 25)


def cell(name, rows, kind=np.uint16, city=None):
    """Return a cell as MATLAB has it: a struct of city, name and a matrix of ten columns."""
    bbs = np.array(rows, kind).reshape(-1, 10)
    one = np.empty((1, 1), [("cityname", object), ("im_name", object), ("bbs", object)])
    one[0, 0] = (city or name.split("_")[0], f"{name}_leftImg8bit.png", bbs)
    return one


def save_mat(file, cells, key="anno_train_aligned", packed=True):
    row = np.empty((1, len(cells)), object)
    for k, one in enumerate(cells):
        row[0, k] = one
    file.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(file, {key: row}, do_compression=packed)


def to_json(rows, size=(100, 80)):
    keys = ("imgWidth", "imgHeight")
    objects = [
        {"label": LABELS[r[0]], "bbox": [*r[1:5]], "instanceId": r[5], "bboxVis": [*r[6:]]}
        for r in rows
    ]
    return {**dict(zip(keys, size, strict=True)), "objects": objects}


def save_tree(root, images, split="train", size=(100, 80)):
    for name, rows in images.items():
        folder = root / "gtBboxCityPersons" / split / name.split("_")[0]
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(to_json(rows, size))
        (folder / f"{name}_gtBboxCityPersons.json").write_text(text)


def save_images(root, names, split="train", size=(100, 80)):
    for name in names:
        folder = root / "leftImg8bit" / split / name.split("_")[0]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (10, 20, 30)).save(folder / f"{name}_leftImg8bit.png")
    return root


@pytest.fixture(params=["mat", "json"])
def write(request, tmp_path):
    """Return a function that writes images with rows each, in both forms, and returns the root."""

    def write(*images, split="train"):
        rows = dict(zip(NAMES, images, strict=False))
        if request.param == "mat":
            cells = [cell(name, rows[name], np.int16) for name in rows]
            save_mat(tmp_path / f"anno_{split}.mat", cells, f"anno_{split}_aligned")
        else:
            save_tree(tmp_path, rows, split)
        return save_images(tmp_path, rows, split)

    return write


def test_both_forms_give_the_same_scene(write):
    source = CityPersonsScenes(write([PEDESTRIAN, RIDER, REGION]))
    scene = source[0]
    assert scene.scene_id == "aachen_000000_000019"
    assert scene.size == scene.image.size == (100, 80)
    assert scene.boxes.tolist() == [[10, 20, 40, 60], [50, 10, 70, 40], [70, 50, 95, 75]]
    assert scene.visible_boxes[0].tolist() == [12, 22, 27, 42]
    assert scene.visible_share.tolist() == [0.25, 1, 1]
    assert scene.ignore.tolist() == [False, True, True]
    assert scene.labels == ("pedestrian", "rider", "ignore region")
    assert scene.notes["group"] == "aachen"
    path = "leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png"
    assert scene.notes["file"].endswith(path)


def test_classes_choose_who_counts_and_what_the_prompt_asks_for(write):
    rows = [(k, 10 * k, 5, 8, 9, 0, 10 * k, 5, 8, 9) for k in range(6)]
    root = write(rows)
    assert CityPersonsScenes(root)[0].ignore.tolist() == [True, False, True, True, True, True]
    source = CityPersonsScenes(root, classes=["pedestrian", "rider"])
    assert source[0].ignore.tolist() == [True, False, False, True, True, True]
    assert "Find every pedestrian or rider in" in Episode(source[0]).opening.text
    assert source[0].labels == CLASSES
    assert repr(source) != repr(CityPersonsScenes(root))


def test_every_class_is_counted(write):
    source = CityPersonsScenes(write([PEDESTRIAN, PEDESTRIAN, RIDER], [], [REGION]))
    form = "mat_files" if source.file.suffix == ".mat" else "json_files"
    assert source.counts == {
        "images": 3,
        "instances": 4,
        "ignored": 2,
        "ignore region": 1,
        "pedestrian": 2,
        "rider": 1,
        "sitting person": 0,
        "person (other)": 0,
        "person group": 0,
        "dropped": 0,
        **({form: 1} if form == "mat_files" else {form: 3, "other_files": 0}),
    }


def test_an_image_without_boxes_is_a_scene_without_people(write):
    source = CityPersonsScenes(write([PEDESTRIAN], [], [RIDER, RIDER]))
    assert [len(scene.boxes) for scene in source] == [1, 0, 2]
    assert [scene.notes["group"] for scene in source] == ["aachen", "aachen", "bremen"]


def test_boxes_keep_what_runs_outside_the_image(write):
    row = (1, -20, 30, 60, 90, 24000, 0, 30, 40, 45)
    assert CityPersonsScenes(write([row]))[0].boxes.tolist() == [[-20, 30, 40, 120]]


def test_nothing_of_an_instance_need_be_visible(write):
    scene = CityPersonsScenes(write([(1, 10, 20, 30, 40, 24000, 0, 0, 0, 0)]))[0]
    assert scene.visible_share.tolist() == [0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({3: 0}, r"\[0\](: box|\.bbox): expected width and height above 0"),
        ({4: -5}, r"\[0\](: box|\.bbox): expected width and height above 0"),
        ({8: -1}, r"\[0\](: visible box|\.bboxVis): expected width and height of at least 0"),
        ({1: 100}, r"expected an area inside the image"),
    ],
)
def test_bad_boxes_are_an_error_or_dropped_and_counted(write, change, message):
    bad = tuple(change.get(k, v) for k, v in enumerate(PEDESTRIAN))
    root = write([], [bad, RIDER])
    with pytest.raises(SceneError, match=message + ".*bad_boxes='drop'"):
        CityPersonsScenes(root)[1]
    source = CityPersonsScenes(root, bad_boxes="drop")
    assert source[1].labels == ("rider",)
    assert source[1].notes["dropped"] == 1
    if {1} != set(change):  # outside the image: only the header tells where a .mat was read
        assert source.counts["dropped"] == 1


def test_columns_of_the_smallest_type_do_not_wrap(tmp_path):
    row = (1, 200, 150, 100, 200, 0, 200, 150, 50, 200)  # 200 + 100 wraps in uint8
    cells = [
        cell(NAMES[0], [row], np.uint8),
        cell(NAMES[1], [(1, 2000, 900, 90, 100, 24000, 2000, 900, 45, 100)], np.uint16),
        cell(NAMES[2], [(1, -3, -4, 9, 9, 24000, 0, 0, 6, 5)], np.int16),
    ]
    save_mat(tmp_path / "anno_train.mat", cells)
    table = CityPersonsScenes(tmp_path).table
    assert table.boxes.tolist() == [[200, 150, 300, 350], [2000, 900, 2090, 1000], [-3, -4, 6, 5]]
    assert table.visible_share.tolist() == pytest.approx([0.5, 0.5, 30 / 81])


NUMBER = st.integers(-99, 2000)
SIDE = st.integers(1, 900)
ROW = st.tuples(st.integers(0, 5), NUMBER, NUMBER, SIDE, SIDE, SIDE, NUMBER, NUMBER, SIDE, SIDE)


@given(st.lists(ROW, max_size=5), st.sampled_from([np.int16, np.int32, np.float64]))
def test_both_forms_hold_the_same_table(tmp_path_factory, rows, kind):
    root = tmp_path_factory.mktemp("city")
    save_mat(root / "anno_train.mat", [cell(NAMES[0], rows, kind)])
    save_tree(root, {NAMES[0]: rows}, size=(4000, 4000))
    inside = [r for r in rows if r[1] + r[3] > 0 and r[2] + r[4] > 0]
    mat = CityPersonsScenes(root, bad_boxes="drop").table
    tree = CityPersonsScenes(
        annotations=root / "gtBboxCityPersons", images=root, bad_boxes="drop"
    ).table
    assert mat.boxes.tolist() == [[x, y, x + w, y + h] for _, x, y, w, h, *_ in rows]
    assert tree.boxes.tolist() == [[x, y, x + w, y + h] for _, x, y, w, h, *_ in inside]
    assert mat.label.tolist() == [row[0] for row in rows]
    assert tree.ignore.tolist() == [row[0] != 1 for row in inside]
    assert (mat.names, mat.files, mat.notes["group"]) == (tree.names, tree.files, ["aachen"])


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (np.ones((3, 10)), "expected a struct of cityname, im_name and bbs"),
        (
            np.array([[(1, 2)]], [("cityname", object), ("bbs", object)]),
            "expected a struct of cityname, im_name and bbs",
        ),
        (cell("../x", [], city="aachen"), r"\.im_name: expected a path inside"),
        (cell("a/x", [], city="aachen"), r"\.im_name: expected a name without folders"),
        (cell("x", [], city="/etc"), r"\.cityname: expected a path inside"),
        (cell("x", [], city=".."), r"\.cityname: expected a path inside"),
        (cell("x", [], city="."), r"\.cityname: expected a name without folders"),
        (cell("x", [], city="a\\b"), r"\.cityname: expected a name without folders"),
        (cell("x", [], city=7), r"\.cityname: expected a name, got numbers of 1x1"),
        (cell("x", [], city=["ab", "cd"]), r"\.cityname: expected a name, got text of 2x2"),
        (cell(NAMES[0], []), "expected a new image, got 'aachen_000000_000019' of .*aligned.0."),
        (
            cell(NAMES[1], [PEDESTRIAN, (6, *PEDESTRIAN[1:])]),
            r"\.bbs\[1\]: class: expected 0 to 5, got 6",
        ),
        (
            cell(NAMES[1], [(-1, *PEDESTRIAN[1:])], float),
            r"\.bbs\[0\]: class: expected 0 to 5, got -1",
        ),
        (
            cell(NAMES[1], [(*PEDESTRIAN[:9], np.nan)], float),
            r"\.bbs\[0\]: h_vis: expected whole numbers below 1e9 in size, got nan",
        ),
        (cell(NAMES[1], [(1, np.inf, *PEDESTRIAN[2:])], float), r"\.bbs\[0\]: x1: .*got inf"),
        (cell(NAMES[1], [(1, 2.5, *PEDESTRIAN[2:])], float), r"\.bbs\[0\]: x1: .*got 2\.5"),
        (cell(NAMES[1], [(1, 10**9, *PEDESTRIAN[2:])], np.int64), r"\.bbs\[0\]: x1: expected"),
    ],
)
def test_a_bad_cell_is_one_error_naming_it(tmp_path, second, message):
    save_mat(tmp_path / "anno_train.mat", [cell(NAMES[0], [PEDESTRIAN]), second])
    with pytest.raises(SceneError, match=r"anno_train\.mat: anno_train_aligned\[1\].*" + message):
        CityPersonsScenes(tmp_path)


@pytest.mark.parametrize(
    ("bbs", "message"),
    [
        (np.ones((2, 9)), r"expected rows of class, x1, .*got \(2, 9\)"),
        (np.ones((2, 10, 2)), r"expected rows of class, .*got \(2, 10, 2\)"),
        ("people", "expected a matrix of numbers"),
        (np.ones((1, 10), complex), "expected a matrix of numbers"),
        (np.array([[1, "2"]], object), "expected a matrix of numbers"),
    ],
)
def test_a_bad_matrix_is_one_error_naming_it(tmp_path, bbs, message):
    one = cell(NAMES[0], [])
    one[0, 0]["bbs"] = bbs
    save_mat(tmp_path / "anno_train.mat", [one])
    with pytest.raises(SceneError, match=r"anno_train_aligned\[0\]\.bbs: " + message):
        CityPersonsScenes(tmp_path)


def test_matlab_writes_an_empty_matrix_in_two_ways(tmp_path):
    cells = [cell(name, []) for name in NAMES[:2]]
    cells[1][0, 0]["bbs"] = np.zeros((0, 0))
    save_mat(tmp_path / "anno_train.mat", cells)
    assert CityPersonsScenes(tmp_path).table.starts.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"anno_val_aligned": np.zeros((1, 2))}, "expected the variable anno_train_aligned, got"),
        ({"anno_train_aligned": np.zeros((1, 2))}, "expected a row of cells, got numbers of 1x2"),
        ({"anno_train_aligned": np.empty((2, 1), object)}, "row of cells, got cells of 2x1"),
        ({"anno_train_aligned": np.empty((1, 0), object)}, "expected a row of cells"),
        ({"anno_train_aligned": {"bbs": 1}}, "expected a row of cells"),
    ],
)
def test_a_mat_of_something_else_is_one_error(tmp_path, content, message):
    for value in content.values():
        if isinstance(value, np.ndarray) and value.dtype == object:
            value.fill(np.zeros(1))
    scipy.io.savemat(tmp_path / "anno_train.mat", content)
    with pytest.raises(SceneError, match=r"anno_train\.mat: .*" + message):
        CityPersonsScenes(tmp_path)


@pytest.mark.parametrize("packed", [True, False])
def test_a_mat_cut_short_anywhere_is_one_error(tmp_path, packed):
    file = tmp_path / "anno_train.mat"
    save_mat(file, [cell(name, [PEDESTRIAN]) for name in NAMES], packed=packed)
    whole = file.read_bytes()
    for length in (*range(0, len(whole), 7), len(whole) - 1):
        file.write_bytes(whole[:length])
        with pytest.raises(SceneError, match=r"anno_train\.mat: expected"):
            CityPersonsScenes(tmp_path)


def test_a_damaged_mat_is_one_error(tmp_path):
    file = tmp_path / "anno_train.mat"
    save_mat(file, [cell(name, [PEDESTRIAN]) for name in NAMES])
    whole = file.read_bytes()
    for k in range(140, len(whole), 5):
        file.write_bytes(whole[:k] + bytes([whole[k] ^ 0x55]) + whole[k + 1 :])
        with pytest.raises(SceneError, match=r"anno_train\.mat: expected a whole MATLAB 5 file"):
            CityPersonsScenes(tmp_path)


@pytest.mark.parametrize("content", [b"", b"hello", bytes(600)])
def test_a_file_that_is_no_mat_is_one_error(tmp_path, content):
    (tmp_path / "anno_train.mat").write_bytes(content)
    with pytest.raises(SceneError, match=r"anno_train\.mat: expected a whole MATLAB 5 file"):
        CityPersonsScenes(tmp_path)


def test_one_wrong_bit_in_an_uncompressed_mat_gives_scenes_or_one_error(tmp_path):
    # 151 of these flips end a process that reads them with scipy.
    file, row = tmp_path / "anno_train.mat", np.empty((1, 1), object)
    row[0, 0] = {"cityname": "aachen", "im_name": "a_leftImg8bit.png", "bbs": [PEDESTRIAN]}
    scipy.io.savemat(tmp_path / "whole.mat", {"anno_train_aligned": row})
    whole = (tmp_path / "whole.mat").read_bytes()
    (tmp_path / "whole.mat").unlink()
    refused = 0
    for k in range(128, len(whole)):
        file.write_bytes(whole[:k] + bytes([whole[k] ^ 1 << k % 8]) + whole[k + 1 :])
        try:
            assert len(CityPersonsScenes(tmp_path)) == 1
        except SceneError as error:
            refused += "anno_train.mat" in str(error)
    assert refused > 0.3 * len(whole)


GOOD = to_json([PEDESTRIAN])["objects"][0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bbox": [1, 2, 3]}, r"\.bbox: expected \[x, y, w, h\], whole numbers .*got \[1, 2, 3\]"),
        ({"bbox": [1, 2, "3", 4]}, r"\.bbox: expected"),
        ({"bbox": [1, 2, True, 4]}, r"\.bbox: expected"),
        ({"bbox": [1, 2, 3.5, 4]}, r"\.bbox: expected.*3\.5"),
        ({"bbox": [1, 2, float("nan"), 4]}, r"\.bbox: expected.*nan"),
        ({"bbox": [10**400, 2, 3, 4]}, r"\.bbox: expected"),
        ({"bboxVis": None}, r"\.bboxVis: expected.*None"),
        ({"label": "dog"}, r"\.label: expected one of \['ignore', 'pedestrian'.*got 'dog'"),
        ({"label": 1}, r"\.label: expected one of"),
        ({"label": ["rider"]}, r"\.label: expected one of"),
    ],
)
def test_a_bad_object_is_one_error_naming_file_and_field(tmp_path, change, message):
    save_tree(tmp_path, {NAMES[0]: []})
    file = next(tmp_path.rglob("*.json"))
    data = {"imgWidth": 100, "imgHeight": 80, "objects": [GOOD, GOOD | change]}
    file.write_text(json.dumps(data))
    with pytest.raises(SceneError, match=r"Persons\.json: objects\[1\]" + message):
        CityPersonsScenes(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected annotations, got an empty file"),
        ("{", "expected JSON"),
        ("\ufeff{}", "byte order mark"),
        ("[]", "expected an object with a list of objects"),
        ('{"imgWidth": 9, "imgWidth": 9}', "'imgWidth' twice at column 17"),
        ('{"imgWidth": 9, "imgHeight": 9}', "expected an object with a list of objects"),
        ('{"imgWidth": 9, "objects": []}', "imgHeight: expected a whole number .*None"),
        ('{"imgWidth": 0, "imgHeight": 9, "objects": []}', "imgWidth: expected.* got 0"),
        ('{"imgWidth": true, "imgHeight": 9, "objects": []}', "imgWidth: expected.*True"),
        ('{"imgWidth": 9.5, "imgHeight": 9, "objects": []}', r"imgWidth: expected.*9\.5"),
        ('{"imgWidth": 9, "imgHeight": 9, "objects": [3]}', r"objects\[0\]: expected an object"),
    ],
)
def test_a_malformed_json_is_one_error(tmp_path, text, message):
    save_tree(tmp_path, {NAMES[0]: []})
    next(tmp_path.rglob("*.json")).write_text(text, encoding="utf-8")
    with pytest.raises(SceneError, match=r"000019_gtBboxCityPersons\.json: .*" + message):
        CityPersonsScenes(tmp_path)


def test_json_names_lead_to_one_image_each(tmp_path):
    save_tree(tmp_path, {NAMES[0]: []})
    folder = tmp_path / "gtBboxCityPersons" / "train"
    (folder / "bremen").mkdir()
    twice = folder / "bremen" / f"{NAMES[0]}_gtBboxCityPersons.json"
    twice.write_text(json.dumps(to_json([])))
    with pytest.raises(SceneError, match="expected a new image, got 'aachen_000000_000019' of"):
        CityPersonsScenes(tmp_path)
    twice.rename(twice.with_name("other.json"))
    with pytest.raises(SceneError, match="expected a name that ends with _gtBboxCityPersons"):
        CityPersonsScenes(tmp_path)


def test_files_of_the_tree_that_are_passed_over_are_counted(tmp_path):
    save_tree(tmp_path, {NAMES[0]: [PEDESTRIAN]})
    folder = tmp_path / "gtBboxCityPersons" / "train"
    (folder / "aachen" / "sub").mkdir()
    for name in ("x_gtBboxCityPersons.json", "aachen/sub/y.json", "aachen/z.JSON", ".hidden"):
        (folder / name).write_text("{}")
    source = CityPersonsScenes(tmp_path)
    assert (len(source), source.counts["json_files"], source.counts["other_files"]) == (1, 1, 3)


def test_what_a_mac_leaves_beside_the_files_is_none_of_the_set(write):
    source = CityPersonsScenes(write([PEDESTRIAN]))
    place = source.file if source.file.is_file() else next(source.file.glob("*/*.json"))
    place.with_name(f"._{place.name}").write_bytes(b"\0\5\x16\7")
    assert len(CityPersonsScenes(source.images.parents[1])) == 1


def test_an_image_of_another_size_than_its_json_says_is_an_error(tmp_path):
    save_tree(tmp_path, {NAMES[0]: [PEDESTRIAN]}, size=(100, 81))
    save_images(tmp_path, NAMES[:1])
    with pytest.raises(SceneError, match=r"size: expected \(100, 81\) as annotated, got \(100, 80"):
        CityPersonsScenes(tmp_path)[0].image.load()


def test_the_mat_comes_before_the_tree_and_only_for_its_own_split(tmp_path):
    for split in ("train", "val"):
        save_tree(tmp_path, {NAMES[0]: [PEDESTRIAN]}, split)
    save_mat(tmp_path / "annotations/anno_val.mat", [cell(NAMES[1], [])], "anno_val_aligned")
    mat, tree = (CityPersonsScenes(tmp_path, split=split) for split in ("val", "train"))
    assert "anno_val.mat" in repr(mat)
    assert mat.counts["mat_files"] == 1
    assert "gtBboxCityPersons/train" in repr(tree)
    assert tree.counts["json_files"] == 1
    other = CityPersonsScenes(tmp_path, split="val", annotations=tmp_path / "gtBboxCityPersons")
    assert other.table.names == [NAMES[0]]


def test_annotations_of_another_split_never_serve(tmp_path):
    save_tree(tmp_path, {NAMES[0]: []}, "val")
    save_mat(tmp_path / "anno_val.mat", [cell(NAMES[0], [])], "anno_val_aligned")
    with pytest.raises(SceneError, match=r"of split 'train', found anno_val\.mat"):
        CityPersonsScenes(tmp_path)
    for file, message in (
        ("anno_val.mat", r"expected the variable anno_train_aligned, got \['anno_val_aligned'\]"),
        ("gtBboxCityPersons/val", "expected annotations of split 'train'"),
        ("gtBboxCityPersons", r"expected <city>/\*_gtBboxCityPersons.json, found none"),
    ):
        with pytest.raises(SceneError, match=message):
            CityPersonsScenes(annotations=tmp_path / file, images=tmp_path)


def test_files_that_are_not_there_are_named(write, tmp_path):
    with pytest.raises(SceneError, match=r"anno_\*\.mat, or a folder gtBboxCity.*found none"):
        CityPersonsScenes(tmp_path)
    with pytest.raises(SceneError, match=r"none\.mat: annotation file is missing"):
        CityPersonsScenes(annotations=tmp_path / "none.mat", images=tmp_path)
    source = CityPersonsScenes(write([PEDESTRIAN]))
    source.image_path(0).unlink()
    with pytest.raises(SceneError, match=r"aachen_000000_000019_leftImg8bit\.png: image file is"):
        source[0].image.load()


def test_settings_that_cannot_work_are_one_error(write):
    root = write([PEDESTRIAN])
    for classes in ("pedestrian", []):
        with pytest.raises(ConfigError, match="classes: expected a list of names, got"):
            CityPersonsScenes(root, classes=classes)
    with pytest.raises(ConfigError, match=r"classes: expected some of pedestrian, .*'ignore re"):
        CityPersonsScenes(root, classes=["ignore region"])
    with pytest.raises(ConfigError, match="bad_boxes: expected error or drop"):
        CityPersonsScenes(root, bad_boxes="keep")
    with pytest.raises(ConfigError, match="expected root=, or annotations= and images="):
        CityPersonsScenes()


@pytest.mark.parametrize("images", ["leftImg8bit", "leftImg8bit/val"])
def test_image_folders_can_be_named(write, images):
    root = write([PEDESTRIAN], split="val")
    source = CityPersonsScenes(root, split="val", images=root / images)
    assert source[0].image.size == (100, 80)


def test_archives_may_keep_the_folders_they_are_named_after(tmp_path):
    save_tree(tmp_path / "gtBbox_cityPersons_trainval", {NAMES[0]: [PEDESTRIAN]})
    save_images(tmp_path / "leftImg8bit_trainvaltest", NAMES[:1])
    assert CityPersonsScenes(tmp_path)[0].image.size == (100, 80)


def test_a_copy_gives_the_same_scenes(write):
    source = CityPersonsScenes(write([PEDESTRIAN], [RIDER]))
    copy = pickle.loads(pickle.dumps(source))
    assert copy[1].boxes.tolist() == source[1].boxes.tolist()
    assert copy[1].image.tobytes() == source[1].image.tobytes()
    assert copy.counts == source.counts


def test_scenes_keep_the_contract_and_can_be_solved(write):
    check_dip_env(CityPersonsScenes(write([PEDESTRIAN, RIDER, REGION], [], [PEDESTRIAN])))


def test_arguments_survive_the_json_of_an_environment(write):
    arguments = {"root": str(write([RIDER])), "classes": ["rider"]}
    source = CityPersonsScenes(**json.loads(json.dumps(arguments)))
    assert source[0].truth.tolist() == [[50, 10, 70, 40]]
