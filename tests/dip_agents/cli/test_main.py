from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
from PIL import Image

from dip_agents.cli.main import SceneArgs
from dip_env.errors import ConfigError
from dip_env.scenes import FilteredScenes


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


def test_scoring_and_counting_load_no_torch(files, tmp_path):
    script = (
        "import sys\n"
        "from dip_agents.cli.main import main\n"
        "try:\n    main(sys.argv[1:])\n"
        "except SystemExit as stop:\n    assert stop.code == 0, stop.code\n"
        "assert 'dip_env.metrics.score' in sys.modules\n"
        "assert 'torch' not in sys.modules\n"
    )
    for words in (
        ["score", *map(str, files)],
        ["scenes", "--scenes", "toy", "--n", "1", "--out", str(tmp_path / "sheet.png")],
    ):
        subprocess.run(
            [sys.executable, "-c", script, *words], check=True, stdout=subprocess.DEVNULL
        )


def test_a_missing_package_is_named_with_the_extra_that_has_it(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "dip_agents.cli.run", None)
    monkeypatch.delattr("dip_agents.cli.run", raising=False)
    code, shown, error = run("train")
    assert (code, shown) == (2, "")
    assert 'pip install "dip-env[train]"' in error


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
        (["--first", 4, "--scenes", "toy"], "first: expected under 4, got 4"),
        (["--scenes", "nowhere"], "scenes: expected one of easy"),
        (["--scenes", "coco"], "expected root="),
        (["--reader", "people"], "reader: expected name=value, got 'people'"),
        (["--scenes", "coco", "--root", ".", "--reader", "year=1"], "unknown argument 'year'"),
    ],
)
def test_bad_input_is_one_clear_line_and_exit_2(run, tmp_path, words, message):
    code, shown, error = run("scenes", *words, "--out", tmp_path / "sheet.png")
    assert (code, shown) == (2, "")
    assert message in error
    assert len(error.strip().splitlines()) == 1


def test_reader_arguments_and_filters_reach_the_source(write_coco):
    box = {"id": 0, "image_id": 0, "category_id": 2, "bbox": [0, 0, 20, 60]}
    args = SceneArgs("coco", write_coco([box]), reader=('categories=["dog"]', "bad_boxes=drop"))
    assert args.open("train")[0].target == "dog"
    filtered = SceneArgs("coco", args.root, reader=args.reader, min_height=70).open("train")
    assert isinstance(filtered, FilteredScenes)
    assert filtered[0].ignore.tolist() == [True]
    with pytest.raises(ConfigError, match="name=value"):
        SceneArgs("coco", args.root, reader=("=3",)).open("train")
