from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dip_env.errors import ConfigError, SceneError
from dip_env.scenes.readers.uavdt import TEST_SEQUENCES, UAVDTScenes
from dip_env.testing import check_dip_env

# Sorted by target, then by frame, as in the real files; nobody is in frame 2 or 4.
WHOLE = """\
1,1,10,20,30,40,1,1,1
3,1,12,20,30,40,2,1,1
1,2,50,5,20,60,1,3,3
3,2,52,5,20,60,1,1,3
3,7,80,10,12,30,3,4,2
"""
IGNORE = """\
1,9,0,60,30,20,1,-1,-1
5,9,1,60,30,20,1,-1,-1
"""
MOT = "1,1,10,20,30,40,1,1,-1\n3,1,12,20,30,40,1,1,-1\n"


def put(root, name="M0101", whole=WHOLE, ignore=IGNORE, mot=MOT):
    """Write the three files of a sequence."""
    folder = root / "UAV-benchmark-MOTD_v1.0" / "GT"
    folder.mkdir(parents=True, exist_ok=True)
    for kind, text in (("gt_whole", whole), ("gt_ignore", ignore), ("gt", mot)):
        (folder / f"{name}_{kind}.txt").write_text(text)
    return folder


def photos(root, name="M0101", frames=range(1, 7)):
    folder = root / "UAV-benchmark-M" / name
    folder.mkdir(parents=True, exist_ok=True)
    for frame in frames:
        Image.new("RGB", (120, 90), (frame, 20, 30)).save(folder / f"img{frame:06d}.jpg")
    return folder


@pytest.fixture
def root(tmp_path):
    put(tmp_path)
    photos(tmp_path)
    return tmp_path


def test_rows_become_scenes_frame_by_frame(root):
    source = UAVDTScenes(root)
    first, empty, third = (source[k] for k in range(3))
    assert first.scene_id == "M0101/000001"
    assert first.size == (120, 90)
    assert first.boxes.tolist() == [[10, 20, 40, 60], [50, 5, 70, 65], [0, 60, 30, 80]]
    assert first.labels == ("car", "bus", "ignore")
    assert first.ignore.tolist() == [False, False, True]
    assert first.target == "vehicle"
    assert first.notes["file"] == str(root / "UAV-benchmark-M/M0101/img000001.jpg")
    assert empty.boxes.shape == (0, 4)
    assert third.labels == ("car", "bus", "truck")
    assert third.image.getpixel((0, 0))[0] == pytest.approx(3, abs=3)


def test_steps_of_occlusion_are_counted_and_shares_stay_one(root):
    source = UAVDTScenes(root)
    first, third = source[0], source[2]
    assert first.visible_share.tolist() == [1, 1, 1]
    assert (first.notes["occluded"], first.notes["out_of_view"]) == (1, 0)
    assert (third.notes["occluded"], third.notes["out_of_view"]) == (1, 2)
    assert (third.notes["group"], third.notes["frame"]) == ("M0101", 3)


def test_everything_seen_is_counted(root):
    assert UAVDTScenes(root).counts == {
        "images": 6,
        "instances": 7,
        "ignored": 2,
        "sequences": 1,
        "empty": 4,
        "car": 2,
        "truck": 1,
        "bus": 2,
        "ignore_regions": 2,
        "other_category": 0,
        "dropped": 0,
        "occluded": 2,
        "out_of_view": 2,
        "skipped_frames": 0,
        "skipped_rows": 0,
        "other_files": 0,
        "other_folders": 0,
        "other_images": 0,
    }


def test_the_contract_holds(root):
    source = UAVDTScenes(root)
    check_dip_env(source, indices=range(6))
    again = pickle.loads(pickle.dumps(source))
    assert repr(again) == repr(source)
    assert again[2].boxes.tolist() == source[2].boxes.tolist()


def test_without_images_only_frames_with_rows_are_known(tmp_path):
    put(tmp_path)
    source = UAVDTScenes(tmp_path)
    assert list(source.table.names) == ["M0101/000001", "M0101/000003", "M0101/000005"]
    assert source.counts["empty"] == 1  # frame 5 has an ignore region only
    with pytest.raises(SceneError, match=r"UAV-benchmark-M: image folder is missing; .*images="):
        source[0]


def test_a_frame_with_rows_but_no_image_is_an_error_on_use(tmp_path):
    put(tmp_path)
    folder = photos(tmp_path, frames=[1, 2])
    (folder / "notes.txt").write_text("no image")
    source = UAVDTScenes(tmp_path)
    assert [name[-1] for name in source.table.names] == ["1", "2", "3", "5"]
    assert [source.has_image(k) for k in range(4)] == [True, True, False, False]
    with pytest.raises(SceneError, match=r"M0101/img000003\.jpg: image file is missing"):
        source[2]


@pytest.mark.parametrize(
    ("every", "frames", "rows"),
    [(1, "123456", 7), (2, "135", 7), (3, "14", 3), (4, "15", 4), (99, "1", 3)],
)
def test_every_keeps_each_kth_frame_from_the_first(root, every, frames, rows):
    source = UAVDTScenes(root, every=every)
    assert "".join(name[-1] for name in source.table.names) == frames
    assert source.counts["instances"] == rows
    assert source.counts["skipped_rows"] == 7 - rows
    assert source.counts["skipped_frames"] == 6 - len(frames)


def test_the_truth_of_tracking_has_vehicles_without_category(root):
    source = UAVDTScenes(root, truth="gt")
    assert source[0].labels == ("vehicle", "ignore")
    assert source.counts["vehicle"] == 2
    assert "occluded" not in source[0].notes
    with pytest.raises(ConfigError, match="expected all with truth='gt', which has none"):
        UAVDTScenes(root, truth="gt", categories=["car"])


def test_other_categories_are_ignored(root):
    source = UAVDTScenes(root, categories=["bus", "car"])
    assert source[2].ignore.tolist() == [False, False, True]
    assert source[2].labels == ("car", "bus", "truck")
    assert source[2].target == "car or bus"
    assert source.counts["other_category"] == 1 and source.counts["ignored"] == 3


def test_splits_share_no_sequence(tmp_path):
    for name in ("M0101", "M0203", "M1401", "M0501"):
        put(tmp_path, name)
    assert UAVDTScenes(tmp_path).sequences == ("M0101", "M0501")
    assert UAVDTScenes(tmp_path, split="test").sequences == ("M0203", "M1401")
    assert UAVDTScenes(tmp_path, split="all").sequences == ("M0101", "M0203", "M0501", "M1401")
    # The number of test sequences in the paper.
    assert len(TEST_SEQUENCES) == 20


def test_a_split_that_is_not_there_is_an_error(root):
    with pytest.raises(ConfigError, match=r"split: UAVDT has no official val; .*HashSplit"):
        UAVDTScenes(root, split="val")
    with pytest.raises(ConfigError, match="split: expected train, test or all, got 'dev'"):
        UAVDTScenes(root, split="dev")
    with pytest.raises(SceneError, match=r"_gt_whole\.txt of split 'test', found 'M0101'"):
        UAVDTScenes(root, split="test")


@pytest.mark.parametrize(
    "options",
    [
        {"every": 0},
        {"every": True},
        {"every": 2.0},
        {"truth": "gt_ignore"},
        {"truth": ["gt"]},
        {"categories": "car"},
        {"categories": []},
        {"categories": ["person"]},
        {"categories": 3},
        {"bad_boxes": "keep"},
    ],
)
def test_unknown_options_are_refused(root, options):
    with pytest.raises(ConfigError, match=f"{next(iter(options))}: expected"):
        UAVDTScenes(root, **options)


@pytest.mark.parametrize("place", ["GT", "."])
def test_files_are_found_in_other_folders(root, place):
    folder = root / "UAV-benchmark-MOTD_v1.0" / "GT"
    (root / place).mkdir(exist_ok=True)
    for file in folder.iterdir():
        file.rename(root / place / file.name)
    folder.rmdir()
    # What a Mac leaves beside a file is none of the set's.
    (root / place / "._M0101_gt_whole.txt").write_bytes(b"\0\5\x16\7")
    assert UAVDTScenes(root).sequences == ("M0101",)


def test_a_sequence_with_half_of_its_files_is_no_sequence_less(root):
    folder = put(root, "M0201")
    put(root, "M0203")
    for name in ("M0201", "M0203"):  # one of train, one of test
        (folder / f"{name}_gt_whole.txt").unlink()
    message = r"M0201_gt_whole\.txt: annotation file is missing, though M0201_gt_ignore\.txt is"
    with pytest.raises(SceneError, match=message):
        UAVDTScenes(root)
    assert UAVDTScenes(root, truth="gt").sequences == ("M0101", "M0201")
    (folder / "M0201_gt_ignore.txt").unlink()
    assert UAVDTScenes(root).sequences == ("M0101",)


def test_what_is_passed_over_is_counted(root):
    folder = put(root, "M0201")
    counts = UAVDTScenes(root, split="all").counts
    names = ("other_files", "other_folders", "other_images")
    assert [counts[name] for name in names] == [0, 0, 0]
    for name in ("0103_gt_whole.txt", "M0101_gt_old.txt", "README.txt", "._M0101_gt.txt"):
        (folder / name).write_text("1")
    for name in ("img000009.JPG", "img000010.png", "img0000011.jpg", ".img000012.png"):
        (root / "UAV-benchmark-M" / "M0101" / name).write_text("1")
    (root / "UAV-benchmark-M" / "M0999").mkdir()
    counts = UAVDTScenes(root, split="all").counts
    assert [counts[name] for name in names] == [3, 1, 3]


def test_folders_can_be_named(root):
    folder, pictures = root / "UAV-benchmark-MOTD_v1.0/GT", root / "UAV-benchmark-M"
    assert len(UAVDTScenes(annotations=folder, images=pictures)) == 6
    with pytest.raises(ConfigError, match="expected root= or images="):
        UAVDTScenes(annotations=folder)
    with pytest.raises(ConfigError, match="expected root= or annotations="):
        UAVDTScenes(images=pictures)
    with pytest.raises(SceneError, match="nowhere: folder of the annotations is missing"):
        UAVDTScenes(annotations=root / "nowhere", images=pictures)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("2,1,10,20,30,40,1,1", "line 2: expected 9 integers frame,target,.*got '2,1,10"),
        ("2,1,10,20,30,40,1,1,1,1", "line 2: expected 9 integers"),
        ("2 1 10 20 30 40 1 1 1", "line 2: expected 9 integers"),
        ("", "line 2: expected 9 integers"),
        ("2,1,x,20,30,40,1,1,1", "line 2: x: expected an integer .*'x'"),
        ("2,1,10,20.0,30,40,1,1,1", r"line 2: y: expected an integer .*'20\.0'"),
        ("2,1,10,20,True,40,1,1,1", "line 2: w: expected an integer .*'True'"),
        ("2,1,10,20,30,nan,1,1,1", "line 2: h: expected an integer .*'nan'"),
        ("2,1,inf,20,30,40,1,1,1", "line 2: x: expected an integer .*'inf'"),
        ("2,1, 10,20,30,40,1,1,1", "line 2: x: expected an integer .*' 10'"),
        ("2,1,10,20,30,,1,1,1", "line 2: h: expected an integer .*''"),
        ("2,1,10,20,9999999999,40,1,1,1", "line 2: w: expected an integer of at most 9 digits"),
        ("0,1,10,20,30,40,1,1,1", "line 2: frame: expected 1 to 999999, got 0"),
        ("2,1,10,20,30,40,4,1,1", "line 2: out_of_view: expected 1 to 3, got 4"),
        ("2,1,10,20,30,40,1,0,1", "line 2: occlusion: expected 1 to 4, got 0"),
        ("2,1,10,20,30,40,1,1,4", "line 2: category: expected 1 to 3, got 4"),
        ("2,1,10,20,30,40,1,1,-1", "line 2: category: expected 1 to 3, got -1"),
        ("1,1,10,20,30,40,1,1,1", "line 2: .* got target 1 of frame 1 as in line 1"),
        ("2,1,10,20,-30,40,1,1,1", r"line 2: expected width and height above 0, got \[10.*-30"),
        ("2,1,10,20,30,0,1,1,1", r"line 2: expected width and height above 0"),
        ("2,1,10,20,30,40,1,1,1\r", "line 2: expected lines that end with LF.*CRLF"),
    ],
)
def test_a_bad_line_is_one_error_naming_file_line_and_field(tmp_path, line, message):
    put(tmp_path, whole=f"1,1,10,20,30,40,1,1,1\n{line}\n3,1,10,20,30,40,1,1,1\n")
    with pytest.raises(SceneError, match=rf"M0101_gt_whole\.txt: {message}"):
        UAVDTScenes(tmp_path)


@pytest.mark.parametrize(
    ("files", "truth", "message"),
    [
        ({"ignore": "1,9,0,6,3,2,1,1,1\n"}, "gt_whole", r"ignore\.txt: line 1: occl.* expected -1"),
        ({"ignore": "1,9,0,6,3,0,1,-1,-1\n"}, "gt_whole", r"ignore\.txt: line 1: expected width"),
        ({"ignore": "\n"}, "gt_whole", r"ignore\.txt: expected annotations, got an empty file"),
        ({"mot": WHOLE}, "gt", r"gt\.txt: line 1: category: expected -1, got 1"),
        ({"mot": ""}, "gt", r"gt\.txt: expected annotations, got an empty file"),
        ({"whole": ""}, "gt_whole", r"whole\.txt: expected annotations, got an empty file"),
        ({"whole": "\ufeff" + WHOLE}, "gt_whole", "expected UTF-8 without a byte order mark"),
        ({"whole": WHOLE[:-4]}, "gt_whole", r"whole\.txt: line 5: expected 9 integers"),
        ({"whole": WHOLE[:-2]}, "gt_whole", r"whole\.txt: line 5: category: .* got ''"),
    ],
)
def test_a_broken_file_is_one_error(tmp_path, files, truth, message):
    put(tmp_path, **files)
    with pytest.raises(SceneError, match=message):
        UAVDTScenes(tmp_path, truth=truth)


def test_an_empty_ignore_file_says_there_are_none_and_a_missing_one_is_an_error(tmp_path):
    folder = put(tmp_path, ignore="")
    assert UAVDTScenes(tmp_path).counts["ignore_regions"] == 0
    (folder / "M0101_gt_ignore.txt").unlink()
    with pytest.raises(SceneError, match=r"M0101_gt_ignore\.txt: annotation file is missing"):
        UAVDTScenes(tmp_path)
    (folder / "M0101_gt_ignore.txt").mkdir()
    with pytest.raises(SceneError, match=r"M0101_gt_ignore\.txt: annotation file cannot be read"):
        UAVDTScenes(tmp_path)


def test_boxes_without_area_or_outside_can_be_dropped_and_are_counted(root):
    put(root, whole=WHOLE + "1,3,5,5,0,9,1,1,1\n1,4,5,5,9,-9,1,2,1\n1,5,120,5,9,9,1,1,1\n")
    source = UAVDTScenes(root, bad_boxes="drop")
    assert source[0].boxes.tolist() == [[10, 20, 40, 60], [50, 5, 70, 65], [0, 60, 30, 80]]
    assert source.counts["instances"] == 8
    assert source.counts["dropped"] == 2
    assert source[0].notes["dropped"] == 3  # one shows only with the size of the image


def test_a_box_outside_its_image_is_an_error_on_use(root):
    put(root, whole=WHOLE + "1,5,120,5,9,9,1,1,1\n")
    source = UAVDTScenes(root)
    with pytest.raises(SceneError, match=r"scene M0101/000001: box .* inside the image of 120x90"):
        source[0]


def test_an_image_before_the_first_frame_is_an_error(root):
    photos(root, frames=[0])
    with pytest.raises(SceneError, match=r"expected images from img000001\.jpg on"):
        UAVDTScenes(root)


@given(st.permutations(WHOLE.splitlines()))
def test_the_order_of_the_rows_changes_no_scene_but_the_order_within(tmp_path_factory, lines):
    root = tmp_path_factory.getbasetemp() / "permuted"
    put(root, whole="\n".join(lines))
    table = UAVDTScenes(root).table
    assert list(table.names) == ["M0101/000001", "M0101/000003", "M0101/000005"]
    assert table.starts.tolist() == [0, 3, 6, 7]
    assert table.boxes[2].tolist() == [0, 60, 30, 80]
    third = table.boxes[3:6]
    wanted = [[12, 20, 42, 60], [52, 5, 72, 65], [80, 10, 92, 40]]
    assert sorted(third.tolist()) == wanted
    in_file = [line for line in lines if line.startswith("3,")]
    assert third[:, 0].tolist() == [float(line.split(",")[2]) for line in in_file]


def test_sequences_do_not_mix(tmp_path):
    put(tmp_path, "M0101")
    put(tmp_path, "M0501", whole="2,1,1,2,3,4,1,1,2\n", ignore="")
    source = UAVDTScenes(tmp_path)
    assert source.table.names[-1] == "M0501/000002"
    assert source.table.files[-1] == "M0501/img000002.jpg"
    np.testing.assert_array_equal(source.table.boxes[-1], [1, 2, 4, 6])
    assert source.table.notes["group"] == ["M0101"] * 3 + ["M0501"]


@pytest.mark.parametrize("index", [-1, 6])
def test_indices_outside_raise(root, index):
    with pytest.raises(IndexError, match=rf"expected 0\.\.5, got {index}"):
        UAVDTScenes(root)[index]
