from __future__ import annotations

import json
import shutil

import pytest
from PIL import Image

from dip_agents.cli.arguments import SceneArgs, split_arguments
from dip_env.errors import ConfigError
from dip_env.scenes import FilteredScenes


def test_the_contact_sheet_is_a_picture_and_the_counts_are_json(run, tmp_path):
    code, shown, error = run("scenes", "--n", 2, "--columns", 2, "--out", tmp_path / "sheet.png")
    assert code == 0
    assert json.loads(shown)["images"] == 2
    assert "sheet.png" in error
    assert Image.open(tmp_path / "sheet.png").width > 400


def test_a_reader_is_counted_whole_whatever_the_sheet_shows(run, write_coco, tmp_path):
    names = ["a.png", "b.png", "c.png"]
    images = [
        {"id": k, "file_name": name, "width": 100, "height": 80} for k, name in enumerate(names)
    ]
    box = {"id": 0, "image_id": 2, "category_id": 1, "bbox": [0, 0, 20, 60]}
    root = write_coco([box, {**box, "id": 1, "iscrowd": 1}], images=images)
    out = tmp_path / "sheet.png"
    words = ("scenes", "--scenes", "coco", "--root", root, "--n", 1, "--out", out)
    code, shown, _ = run(*words)
    counts = json.loads(shown)
    assert code == 0
    assert (counts["images"], counts["people"], counts["ignored"]) == (3, 1, 1)
    assert counts["empty_images"] == 2
    assert counts["sizes"] == {"100x80": 3}
    assert counts["height_px"]["50-75"] == 1
    # Annotations alone can be counted; that there is no sheet is said aloud.
    out.unlink()
    shutil.rmtree(root / "images")
    code, shown, error = run(*words)
    assert (code, json.loads(shown)["images_missing"]) == (0, 3)
    assert "no image file is there: counts only" in error
    assert not out.exists()


def test_one_missing_image_is_an_error_naming_it(run, write_coco, tmp_path):
    images = [
        {"id": k, "file_name": name, "width": 100, "height": 80}
        for k, name in enumerate(["a.png", "b.png"])
    ]
    root = write_coco([], images=images)
    (root / "images" / "a.png").unlink()
    out = tmp_path / "sheet.png"
    code, _, error = run("scenes", "--scenes", "coco", "--root", root, "--out", out)
    assert code == 2
    assert "a.png: image file is missing" in error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--first", 4, "--scenes", "toy"], "--first: expected under 4, got 4"),
        (["--scenes", "nowhere"], "--scenes: expected one of easy"),
        (["--scenes", "coco"], "expected root="),
        (["--source-arg", "people"], "--source-arg: expected name=value, got 'people'"),
        (["--scenes", "coco", "--root", ".", "--source-arg", "year=1"], "unknown argument 'year'"),
    ],
)
def test_bad_input_is_one_clear_line_and_exit_2(run, tmp_path, words, message):
    code, shown, error = run("scenes", *words, "--out", tmp_path / "sheet.png")
    assert (code, shown) == (2, "")
    assert message in error
    assert len(error.strip().splitlines()) == 1


def test_reader_arguments_and_filters_reach_the_source(write_coco):
    box = {"id": 0, "image_id": 0, "category_id": 2, "bbox": [0, 0, 20, 60]}
    args = SceneArgs("coco", write_coco([box]), source_arg=('categories=["dog"]', "bad_boxes=drop"))
    assert args.open("train")[0].target == "dog"
    filtered = SceneArgs("coco", args.root, source_arg=args.source_arg, min_height=70).open("train")
    assert isinstance(filtered, FilteredScenes)
    assert filtered[0].ignore.tolist() == [True]
    with pytest.raises(ConfigError, match="name=value"):
        SceneArgs("coco", args.root, source_arg=("=3",)).open("train")


def test_a_source_argument_is_split_at_its_first_equals_sign():
    assert split_arguments(["every=10", "images=a=b"]) == {"every": "10", "images": "a=b"}
    with pytest.raises(ConfigError, match="source_arg: expected every once, got '10' and '2'"):
        split_arguments(["every=10", "every=2"])


@pytest.mark.parametrize("name", ["root", "split", "seed", "name"])
def test_an_argument_that_has_an_option_of_its_own_is_refused(name):
    with pytest.raises(ConfigError, match=f"source_arg: expected {name} as an option of its own"):
        SceneArgs("easy", source_arg=(f"{name}=1",)).open("train")


@pytest.mark.parametrize(
    "typed", ["dog", "[dog]", '["dog"]', "['dog']", "person,dog", "[person, dog]"]
)
def test_a_list_of_names_may_be_typed_in_any_natural_way(write_coco, typed):
    root = write_coco([])
    source = SceneArgs("coco", root, source_arg=(f"categories={typed}",)).open("train")
    assert source.categories == (("person", "dog") if "person" in typed else ("dog",))


def test_a_path_may_be_a_number(write_coco, monkeypatch):
    root = write_coco([])
    (root / "images").rename(root / "2024")
    monkeypatch.chdir(root)
    args = SceneArgs("coco", root, source_arg=("images=2024",))
    assert args.open("train")[0].image.size == (100, 80)


@pytest.mark.parametrize("words", [["--n", 0], ["--columns", 0], ["--first", -1]])
def test_a_number_that_cannot_be_is_named_before_anything_is_opened(run, words):
    code, shown, error = run("scenes", *words)
    assert (code, shown) == (2, "")
    assert error.startswith(f"dip scenes: {words[0]}: expected at least")


@pytest.mark.parametrize("name", ["sheet", "sheet.foo", "sheet.toml"])
def test_a_name_that_tells_no_image_format_is_refused_before_anything_is_drawn(run, tmp_path, name):
    code, shown, error = run("scenes", "--scenes", "toy", "--out", tmp_path / name)
    assert (code, shown) == (2, "")
    assert error.startswith("dip scenes: --out: expected a name that ends in .png, .jpg or .webp")


@pytest.mark.parametrize("out", ["file/x.png", "folder.png", "x" * 300 + ".png"])
def test_a_sheet_that_cannot_be_written_is_said_before_anything_is_counted(run, tmp_path, out):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.png").mkdir()
    code, shown, error = run("scenes", "--scenes", "toy", "--out", tmp_path / out)
    assert (code, shown) == (2, "")
    assert error.startswith("dip scenes: --out: expected a f") and "can be written, got" in error
    assert len(error.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.png"]
