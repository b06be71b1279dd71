from __future__ import annotations

import pickle

import numpy as np
import pytest
from PIL import Image

from dip_env.errors import ConfigError, SceneError
from dip_env.scenes.readers.wider_pedestrian import WiderPedestrianScenes
from dip_env.testing import check_dip_env

# Of 2018: two pedestrians and a cyclist, an image without anybody, a pedestrian cut by the border.
LINES_2018 = (
    "img00007.jpg 1 10 20 30 40 2 50 5 20 60 1 80 10 12 30",
    "img10001.jpg",
    "img00003.jpg 1 -5 30 25 50",
)
IGNORE_2018 = ("img10001.jpg 0 0 60 30 70 10 20 20 ", "img00003.jpg 50 50 40 25 ")
# Of 2019, whose list names an image that has no line among the boxes.
LINES_2019 = ("sur00003.jpg 10 20 30 40 50 5 20 60", "ad10001.jpg 5 30 25 50")
LIST_2019 = ("ad10001.jpg", "sur00009.jpg", "sur00003.jpg")
IGNORE_2019 = ("sur00009.jpg 0 0 60 30",)


def put(file, lines):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{line}\n" for line in lines))


def photo(file, size=(120, 90)):
    file.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise).save(file)


@pytest.fixture
def root_2018(tmp_path):
    put(tmp_path / "val_annotations.txt", LINES_2018)
    put(tmp_path / "pedestrian_ignore_part_val.txt", IGNORE_2018)
    for line in LINES_2018:
        photo(tmp_path / "val" / line.split()[0])
    return tmp_path


@pytest.fixture
def root_2019(tmp_path):
    root = tmp_path / "of_2019"
    put(root / "Annotations/train_bbox.txt", LINES_2019)
    put(root / "Annotations/train_list.txt", LIST_2019)
    put(root / "Annotations/train_ignore.txt", IGNORE_2019)
    for place in ("sur_train/sur00003.jpg", "sur_train/sur00009.jpg", "ad_train/ad_02/ad10001.jpg"):
        photo(root / place)
    return root


def opened(tmp_path, lines, ignore=None, **kwargs):
    """Open a file of the usual name with these lines."""
    put(tmp_path / "val_annotations.txt", lines)
    if ignore is None:
        kwargs = {"ignore_file": "none", **kwargs}
    else:
        put(tmp_path / "pedestrian_ignore_part_val.txt", ignore)
    return WiderPedestrianScenes(tmp_path, split="val", **kwargs)


def test_lines_of_2018_become_scenes(root_2018):
    source = WiderPedestrianScenes(root_2018, split="val")
    assert source.year == 2018
    assert [source[k].scene_id for k in range(3)] == [
        "img00007.jpg",
        "img10001.jpg",
        "img00003.jpg",
    ]
    first, empty, last = (source[k] for k in range(3))
    assert first.boxes.tolist() == [[10, 20, 40, 60], [50, 5, 70, 65], [80, 10, 92, 40]]
    assert first.labels == ("pedestrian", "cyclist", "pedestrian")
    assert not first.ignore.any()
    assert first.visible_share.tolist() == [1, 1, 1]
    assert empty.boxes.tolist() == [[0, 0, 60, 30], [70, 10, 90, 30]]
    assert empty.labels == ("ignore", "ignore")
    assert empty.ignore.all() and len(empty.truth) == 0
    # Kept as annotated: the person begins left of the image.
    assert last.boxes.tolist() == [[-5, 30, 20, 80], [50, 50, 90, 75]]
    assert last.ignore.tolist() == [False, True]
    assert first.size == (120, 90)


def test_everything_seen_is_counted(root_2018):
    assert WiderPedestrianScenes(root_2018, split="val").counts == {
        "images": 3,
        "instances": 7,
        "ignored": 3,
        "empty": 1,
        "pedestrian": 3,
        "cyclist": 1,
        "ignore_regions": 3,
        "other_class": 0,
        "covered": 0,
        "dropped": 0,
    }


def test_lines_of_2019_and_their_list_become_scenes(root_2019):
    source = WiderPedestrianScenes(root_2019)
    assert source.year == 2019
    assert [source[k].scene_id for k in range(3)] == list(LIST_2019)
    assert source[0].boxes.tolist() == [[5, 30, 30, 80]]
    assert source[1].labels == ("ignore",)
    assert source[2].boxes.tolist() == [[10, 20, 40, 60], [50, 5, 70, 65]]
    assert source[2].labels == ("pedestrian", "pedestrian")
    assert source.counts["images"] == 3 and source.counts["empty"] == 1


@pytest.mark.parametrize("year", ["root_2018", "root_2019"])
def test_the_contract_holds(year, request):
    root = request.getfixturevalue(year)
    source = WiderPedestrianScenes(root, split="val" if year == "root_2018" else "train")
    check_dip_env(source)
    again = pickle.loads(pickle.dumps(source))
    assert again[0].boxes.tolist() == source[0].boxes.tolist()
    assert repr(again) == repr(source)


def test_files_of_2019_may_lie_in_the_root(root_2019):
    for file in (root_2019 / "Annotations").iterdir():
        file.rename(root_2019 / file.name)
    assert len(WiderPedestrianScenes(root_2019)) == 3


def test_both_classes_count_as_in_the_challenge_and_one_can_be_ignored(root_2018):
    both = WiderPedestrianScenes(root_2018, split="val")
    assert both[0].target == "pedestrian or cyclist"
    source = WiderPedestrianScenes(root_2018, split="val", classes=["pedestrian"])
    assert source[0].target == "pedestrian"
    assert source[0].ignore.tolist() == [False, True, False]
    assert source[0].labels == both[0].labels
    assert source.counts["other_class"] == 1 and source.counts["ignored"] == 4


# A person of 10 x 10 pixels, half of which is 50. As in the scorer, what two regions share counts
# twice, and 0.01 pixels are missing from the sum.
@pytest.mark.parametrize(
    ("regions", "covered"),
    [
        ("0 0 5 10", False),
        ("0 0 6 10", True),
        ("0 0 3 10 0 0 3 10", True),
        ("0 0 2 10 8 0 9 10", False),
        ("5 5 50 50 -5 -5 10 10", False),
        ("10 0 50 50", False),
        ("-10 -10 50 50", True),
    ],
)
def test_people_more_than_half_in_ignore_regions_are_ignored_unless_they_are_to_count(
    tmp_path, regions, covered
):
    lines = ["img00001.jpg", "img00002.jpg 1 0 0 10 10 2 60 60 10 10", "img00003.jpg 1 0 0 10 10"]
    ignore = ["img00002.jpg " + regions, "img00001.jpg 0 0 9 9"]
    source = opened(tmp_path, lines, ignore)
    ignored = source.table.ignore.tolist()
    assert ignored[:3] == [True, covered, False]
    assert all(ignored[3:-1]) and not ignored[-1]
    assert source.counts["covered"] == covered
    source = opened(tmp_path, lines, ignore, covered="count")
    assert source.table.ignore.tolist()[:3] == [True, False, False]
    assert source.counts["covered"] == covered


def test_without_labels_classes_choose_the_target_only(root_2019):
    assert WiderPedestrianScenes(root_2019)[0].target == "pedestrian or cyclist"
    source = WiderPedestrianScenes(root_2019, classes=("pedestrian",))
    assert source[0].target == "pedestrian"
    assert source.counts["other_class"] == 0
    with pytest.raises(ConfigError, match="expected pedestrian, the only class of 2019"):
        WiderPedestrianScenes(root_2019, classes=("cyclist",))


@pytest.mark.parametrize("classes", ["pedestrian", [], ["dog"], 1, None, [["pedestrian"]]])
def test_unknown_classes_are_refused(root_2018, classes):
    with pytest.raises(ConfigError, match="classes: expected names among"):
        WiderPedestrianScenes(root_2018, split="val", classes=classes)


@pytest.mark.parametrize(
    "options",
    [{"year": 2017}, {"year": "new"}, {"year": True}, {"covered": "no"}, {"bad_boxes": "keep"}],
)
def test_unknown_options_are_refused(root_2018, options):
    with pytest.raises(ConfigError, match=f"{next(iter(options))}: expected"):
        WiderPedestrianScenes(root_2018, split="val", **options)


@pytest.mark.parametrize("year", [2018, "2018"])
def test_the_year_may_be_given(root_2018, year):
    assert WiderPedestrianScenes(root_2018, split="val", year=year).year == 2018


def test_a_line_that_does_not_fit_the_stated_year_is_an_error(tmp_path):
    with pytest.raises(SceneError, match=r"line 2: expected \(x y w h\) per box, got 5 numbers"):
        opened(
            tmp_path,
            ["a1.jpg 1 2 3 4", "a2.jpg 1 2 3 4 5"],
            year=2019,
            annotations=tmp_path / "val_annotations.txt",
            list_file="none",
        )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("img00002.jpg 1 10 20 30", "numbers of 2018, line 2 has numbers of 2019"),
        ("sur00002.jpg 1 10 20 30 40", "line 1 has a name of 2018, line 2 has a name of 2019"),
        ("img00002.jpg 1 10 20 30 40 50", r"line 2: expected \(label x y w h\) .* 6 numbers"),
        ("img00002.jpg 3 10 20 30 40", r"line 2: label: expected 1 \(ped.*\) or 2 .*got '3'"),
        ("img00002.jpg 1 10 20.5 30 40", r"line 2: box 0: y: expected an integer.*'20\.5'"),
        ("img00002.jpg 1 10 20 30 40 1 x 0 2 3", "line 2: box 1: x: expected an integer.*'x'"),
        ("img00002.jpg 1 10 20 True 40", "line 2: box 0: w: expected an integer.*'True'"),
        ("img00002.jpg 1 nan 20 30 40", "line 2: box 0: x: expected an integer.*'nan'"),
        ("img00002.jpg 1 10 20 30 inf", "line 2: box 0: h: expected an integer.*'inf'"),
        ("img00002.jpg 1 10 20 30 9999999999", "line 2: box 0: h: expected an integer of at most"),
        ("img00002.jpg 1 10 20 30 ٤", "line 2: box 0: h: expected an integer"),
        ("img00002.jpg 1 10 20 -30 40", r"line 2: expected width and height above 0.*-30"),
        ("img00002.jpg 1 10 20 30 0", r"line 2: expected width and height above 0.*0\.0\]"),
        ("img00001.jpg 1 10 20 30 40", "line 2: name: expected a new image, .* of line 1"),
        ("../img00002.jpg 1 10 20 30 40", "line 2: name: expected a path inside"),
        ("/img00002.jpg", "line 2: name: expected a path inside"),
        ("C:\\img00002.jpg", "line 2: name: expected a path inside"),
        ("val/img00002.jpg", "line 2: name: expected an image file such as"),
        ("1 10 20 30 40", "line 2: name: expected an image file such as img00001.jpg, got '1'"),
        ("", "line 2: name: expected a name"),
        ("img00002.jpg\r", r"line 2: expected lines that end with LF.*CRLF"),
    ],
)
def test_a_bad_line_is_one_error_naming_file_line_and_field(tmp_path, line, message):
    with pytest.raises(SceneError, match=rf"val_annotations\.txt: .*{message}"):
        opened(tmp_path, ["img00001.jpg 1 10 20 30 40", line, "img00009.jpg 2 0 0 5 5"])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("img00001.jpg 1 10 20 30 40", r"line 1: expected \(x y w h\) per box, got 5 numbers"),
        ("img00002.jpg 1 10 20 30", "line 1: name: expected an image of the set, got 'img00002"),
        ("img00001.jpg 1 10 0 30", "line 1: expected width and height above 0"),
    ],
)
def test_a_bad_line_of_the_ignore_file_is_an_error(tmp_path, line, message):
    with pytest.raises(SceneError, match=rf"pedestrian_ignore_part_val\.txt: {message}"):
        opened(tmp_path, ["img00001.jpg 1 10 20 30 40"], [line])


@pytest.mark.parametrize("line", ["img00007.jpg 1 1 1 0 9", "img00007.jpg 2 1 1 9 -1"])
def test_boxes_without_area_can_be_dropped_and_are_counted(tmp_path, line):
    photo(tmp_path / "val/img00007.jpg")
    source = opened(tmp_path, [f"{line} 1 0 0 9 9"], ["img00007.jpg 5 5 0 0 "], bad_boxes="drop")
    assert source[0].boxes.tolist() == [[0, 0, 9, 9]]
    assert source.counts["dropped"] == source[0].notes["dropped"] == 2
    assert source.counts["instances"] == 1


def test_a_box_outside_its_image_shows_with_the_image(tmp_path):
    photo(tmp_path / "val/img00007.jpg")
    lines = ["img00007.jpg 1 120 5 9 9 1 0 0 9 9"]
    with pytest.raises(SceneError, match=r"scene img00007\.jpg: box .* inside the image of 120x90"):
        opened(tmp_path, lines)[0]
    scene = opened(tmp_path, lines, bad_boxes="drop")[0]
    assert scene.boxes.tolist() == [[0, 0, 9, 9]] and scene.notes["dropped"] == 1


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "expected annotations, got an empty file"),
        (b"\n", "expected annotations, got an empty file"),
        (b"\xef\xbb\xbfimg00001.jpg\n", "expected UTF-8 without a byte order mark"),
        (b"img00001.jpg 1 2 3 \xff 4\n", "line 1: expected UTF-8"),
        (b"img00001.jpg 1 2 3 4 5\nimg00002.jpg 1 2 3", "line 2: expected .label x y w h"),
    ],
)
def test_a_broken_file_is_one_error(tmp_path, data, message):
    (tmp_path / "val_annotations.txt").write_bytes(data)
    with pytest.raises(SceneError, match=rf"val_annotations\.txt: {message}"):
        WiderPedestrianScenes(tmp_path, split="val", ignore_file="none")


def test_missing_files_and_folders_in_their_place_are_errors(root_2018, tmp_path):
    with pytest.raises(SceneError, match=r"expected train_annotations\.txt or Annotations/train_b"):
        WiderPedestrianScenes(root_2018)
    with pytest.raises(ConfigError, match="expected root=, or annotations= and images="):
        WiderPedestrianScenes(annotations=root_2018 / "val_annotations.txt")
    with pytest.raises(SceneError, match="cannot be read"):
        WiderPedestrianScenes(root_2018, annotations=root_2018 / "val", ignore_file="none")
    with pytest.raises(SceneError, match="annotation file is missing"):
        WiderPedestrianScenes(root_2018, annotations=root_2018 / "no.txt", ignore_file="none")


def test_files_of_both_years_in_one_root_need_a_word(root_2018, root_2019):
    put(root_2018 / "train_annotations.txt", LINES_2018)
    put(root_2018 / "train_bbox.txt", LINES_2019)
    with pytest.raises(SceneError, match=r"found train_annotations\.txt or train_bbox\.txt; say"):
        WiderPedestrianScenes(root_2018, ignore_file="none")
    assert len(WiderPedestrianScenes(root_2018, ignore_file="none", year=2018)) == 3


def test_ignore_and_list_files_are_not_left_out_in_silence(root_2018, root_2019):
    (root_2018 / "pedestrian_ignore_part_val.txt").unlink()
    with pytest.raises(SceneError, match=r"ignore_part_val\.txt is missing.*ignore_file='none'"):
        WiderPedestrianScenes(root_2018, split="val")
    source = WiderPedestrianScenes(root_2018, split="val", ignore_file="none")
    assert source.counts["ignore_regions"] == 0
    assert "ignore_file='none'" in repr(source)

    (root_2019 / "Annotations/train_list.txt").unlink()
    with pytest.raises(SceneError, match=r"train_list\.txt is missing.*list_file='none'"):
        WiderPedestrianScenes(root_2019)
    # Without the list, the ignore regions name an image nobody knows.
    with pytest.raises(SceneError, match=r"train_ignore\.txt: line 1: name: expected an image of"):
        WiderPedestrianScenes(root_2019, list_file="none")
    assert len(WiderPedestrianScenes(root_2019, list_file="none", ignore_file="none")) == 2


def test_an_empty_ignore_file_holds_no_region(root_2018):
    (root_2018 / "pedestrian_ignore_part_val.txt").write_bytes(b"")
    assert WiderPedestrianScenes(root_2018, split="val").counts["ignore_regions"] == 0
    (root_2018 / "val_annotations.txt").write_bytes(b"")
    with pytest.raises(SceneError, match=r"val_annotations\.txt: expected annotations, got an em"):
        WiderPedestrianScenes(root_2018, split="val")


def test_a_file_of_another_name_tells_no_companion(root_2018):
    (root_2018 / "val_annotations.txt").rename(root_2018 / "mine.txt")
    kwargs = {"annotations": root_2018 / "mine.txt", "images": root_2018 / "val"}
    with pytest.raises(SceneError, match=r"the name mine\.txt tells none; name it, or do without"):
        WiderPedestrianScenes(**kwargs)
    ignore = root_2018 / "pedestrian_ignore_part_val.txt"
    source = WiderPedestrianScenes(**kwargs, ignore_file=ignore)
    assert source.counts["ignore_regions"] == 3
    assert source[0].image.size == (120, 90)
    with pytest.raises(ConfigError, match="list_file: expected none for 2018"):
        WiderPedestrianScenes(**kwargs, ignore_file=ignore, list_file=ignore)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["ad10001.jpg 5 5"], r"train_list\.txt: line 1: expected one name, got 2 more"),
        (["ad10001.jpg", "ad10001.jpg"], r"train_list\.txt: line 2: name: expected a new image"),
        (["ad10001.jpg"], r"train_bbox\.txt: line 1: name: expected an image of the set"),
    ],
)
def test_a_bad_list_is_an_error(root_2019, lines, message):
    put(root_2019 / "Annotations/train_list.txt", lines)
    with pytest.raises(SceneError, match=message):
        WiderPedestrianScenes(root_2019)


def test_images_may_be_named_as_one_folder_or_as_the_folder_of_folders(root_2019, tmp_path):
    assert WiderPedestrianScenes(root_2019, images=root_2019)[0].image.size == (120, 90)
    for name in LIST_2019:
        photo(tmp_path / "all" / name, (130, 95))
    source = WiderPedestrianScenes(root_2019, images=tmp_path / "all")
    assert [source[k].size for k in range(3)] == [(130, 95)] * 3


def test_missing_images_are_errors_naming_them_on_use(root_2019):
    (root_2019 / "ad_train/ad_02/ad10001.jpg").unlink()
    source = WiderPedestrianScenes(root_2019)
    assert [source.has_image(k) for k in range(3)] == [False, True, True]
    with pytest.raises(SceneError, match=r"ad10001\.jpg: image file is missing in .*sur_train"):
        source[0]
    source = WiderPedestrianScenes(root_2019, images=root_2019 / "nowhere")
    assert not source.has_image(0)
    with pytest.raises(SceneError, match=r"nowhere.*: image folder is missing; .*images="):
        source[0]


def test_an_image_in_two_folders_is_an_error(root_2019):
    photo(root_2019 / "ad_train/ad_03/ad10001.jpg")
    with pytest.raises(SceneError, match=r"ad10001\.jpg: expected one image .*ad_02 and .*ad_03"):
        WiderPedestrianScenes(root_2019)[0]


def test_a_truncated_image_is_an_error_when_it_is_loaded(root_2019):
    # The real set has one, sur03954.jpg.
    file = root_2019 / "sur_train/sur00003.jpg"
    file.write_bytes(file.read_bytes()[:2000])
    scene = WiderPedestrianScenes(root_2019)[2]
    with pytest.raises(SceneError, match=r"sur00003\.jpg: image cannot be read: .*truncated"):
        scene.image.load()


@pytest.mark.parametrize("index", [-1, 3])
def test_indices_outside_raise(root_2018, index):
    with pytest.raises(IndexError, match=rf"expected 0\.\.2, got {index}"):
        WiderPedestrianScenes(root_2018, split="val")[index]
