from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from PIL import Image

from dip_env.errors import ConfigError
from dip_env.scenes import (
    CocoScenes,
    HashSplit,
    MixedScenes,
    SceneSource,
    ToyScenes,
    make_source,
)
from dip_env.scenes.procedural.parameters import PRESETS
from dip_env.scenes.sources import READERS, read_arguments
from dip_env.testing import check_dip_env


def test_readers_are_made_by_name(write_coco):
    assert isinstance(make_source("toy"), ToyScenes)
    assert isinstance(make_source("coco", write_coco([])), CocoScenes)
    assert isinstance(make_source("coco", str(write_coco([])), max_pixels=5), SceneSource)


@pytest.mark.parametrize("name", [*PRESETS, "procedural"])
def test_every_procedural_name_makes_a_source(name):
    assert isinstance(make_source(name), SceneSource)


@pytest.fixture
def data_set(tmp_path, write_coco):
    """Return a function that writes one image with one instance as a reader wants it."""

    def text(name, *lines):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(f"{line}\n" for line in lines))

    def image(name):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 48), (9, 9, 9)).save(tmp_path / name)

    def write(name):
        if name == "crowdhuman":
            box = [4, 4, 20, 40]
            person = {"tag": "person", "fbox": box, "vbox": box, "hbox": box, "head_attr": {}}
            text("annotation_train.odgt", json.dumps({"ID": "a,b", "gtboxes": [person | _EXTRA]}))
            image("Images/a,b.jpg")
        elif name == "citypersons":
            box = {"bbox": [4, 4, 20, 40], "bboxVis": [4, 4, 20, 20], "label": "pedestrian"}
            city = {"imgWidth": 64, "imgHeight": 48, "objects": [box | {"instanceId": 24000}]}
            text("gtBboxCityPersons/train/ulm/ulm_0_1_gtBboxCityPersons.json", json.dumps(city))
            image("leftImg8bit/train/ulm/ulm_0_1_leftImg8bit.png")
        elif name == "wider_pedestrian":
            text("train_annotations.txt", "img00001.jpg 1 4 4 20 40")
            text("pedestrian_ignore_part_train.txt", "img00001.jpg 30 4 20 20 ")
            image("train/img00001.jpg")
        elif name == "uavdt":
            text("UAV-benchmark-MOTD_v1.0/GT/M0101_gt_whole.txt", "1,1,4,4,20,40,1,1,1")
            text("UAV-benchmark-MOTD_v1.0/GT/M0101_gt_ignore.txt")
            image("UAV-benchmark-M/M0101/img000001.jpg")
        else:
            write_coco([{"image_id": 0, "category_id": 1, "bbox": [4, 4, 20, 40]}])
        return str(tmp_path)

    return write


_EXTRA = {"extra": {"box_id": 0, "occ": 0}}
TARGETS = {
    "crowdhuman": "person",
    "citypersons": "pedestrian",
    "wider_pedestrian": "pedestrian or cyclist",
    "uavdt": "vehicle",
    "coco": "person",
}


@pytest.mark.parametrize("name", READERS)
def test_every_reader_is_an_environment_that_names_what_to_find(data_set, name):
    root = data_set(name)
    check_dip_env(make_source(name, root))
    env = gym.make("DIPCrowd-v0", scenes=name, root=root, split="train")
    again = gym.make(EnvSpec.from_json(env.spec.to_json()))
    for made in (env, again):
        observation, _ = made.reset(seed=0)
        assert f"Find every {TARGETS[name]} in the image" in observation["text"]
        scaled = made.unwrapped.episode.view.scene_to_text(np.array([[4, 4, 24, 44]]))[0]
        answer = f"<answer>[{[float(v) for v in scaled]}]</answer>"
        *_, info = made.step(answer)
        assert info["reward_terms"]["accuracy"] == pytest.approx(1.0)


@pytest.mark.parametrize("name", READERS)
def test_a_reader_without_a_root_or_with_a_strange_argument_says_so(data_set, name):
    with pytest.raises(ConfigError, match="expected root="):
        make_source(name)
    with pytest.raises(ConfigError, match=f"{name}: unknown argument 'colour'; expected one of"):
        make_source(name, data_set(name), colour="red")


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("value", [5, "", [], {}, True, b"a", 1.5])
def test_a_path_of_another_type_is_one_error(data_set, name, value):
    root = data_set(name)
    for argument in ("annotations", "images"):
        with pytest.raises(ConfigError, match=f"{argument}: expected a path, got"):
            make_source(name, root, **{argument: value})
    with pytest.raises(ConfigError, match="split: expected a name, got"):
        make_source(name, root, [])


@pytest.mark.parametrize(
    ("name", "argument", "value"),
    [
        ("crowdhuman", "boxes", []),
        ("crowdhuman", "boxes", 1),
        ("citypersons", "classes", 5),
        ("citypersons", "classes", [5]),
        ("coco", "categories", 5),
        ("coco", "categories", [["person"]]),
        ("coco", "categories", []),
        ("uavdt", "every", 10**30),
        ("uavdt", "every", True),
        ("uavdt", "categories", [[]]),
        ("uavdt", "truth", {}),
        ("wider_pedestrian", "classes", [[]]),
        ("wider_pedestrian", "ignore_file", 5),
        ("wider_pedestrian", "list_file", []),
        ("wider_pedestrian", "covered", []),
        ("wider_pedestrian", "year", []),
        *((name, "max_pixels", value) for name in READERS for value in ("x", -1, None)),
        *((name, "bad_boxes", []) for name in READERS),
        *((name, "exif_rotation", []) for name in READERS),
    ],
)
def test_an_argument_of_another_type_is_one_error_naming_it(data_set, name, argument, value):
    with pytest.raises(ConfigError, match=f"^{argument}: expected"):
        make_source(name, data_set(name), **{argument: value})


def test_typed_arguments_are_read_by_what_their_source_takes():
    coco = read_arguments("coco", {"annotations": "5", "images": "a,b", "max_pixels": "10"})
    assert coco == {"annotations": "5", "images": "a,b", "max_pixels": 10}
    for text in ("Person,dog", "[Person, dog]", '["Person", "dog"]', "'Person','dog'"):
        assert read_arguments("coco", {"categories": text}) == {"categories": ["Person", "dog"]}
    assert read_arguments("coco", {"categories": "7"}) == {"categories": ["7"]}
    assert read_arguments("coco", {"categories": "null"}) == {"categories": None}
    assert read_arguments("uavdt", {"every": "10", "truth": "gt"}) == {"every": 10, "truth": "gt"}
    wider = read_arguments("wider_pedestrian", {"year": "2018", "ignore_file": "none"})
    assert wider == {"year": 2018, "ignore_file": "none"}
    drawn = {"people": "60,90", "settings": "plaza,street", "size": "[640,480]", "night": "true"}
    assert read_arguments("crowd", drawn) == {
        "people": [60, 90],
        "settings": ["plaza", "street"],
        "size": [640, 480],
        "night": True,
    }


def test_readers_can_be_split_by_hash_and_mixed(data_set):
    crowd = make_source("coco", data_set("coco"))
    parts = [HashSplit(crowd, part, {"train": 0.5, "val": 0.5}) for part in ("train", "val")]
    assert sorted(len(part) for part in parts) == [0, 1]
    mixed = MixedScenes([(crowd, 1), (ToyScenes(), 3)])
    check_dip_env(mixed)
    assert sum(mixed[i].size == (100, 80) for i in range(4)) == 1


@pytest.mark.parametrize("name", READERS)
def test_a_root_may_be_written_in_any_way_a_path_is(data_set, name, monkeypatch):
    root = Path(data_set(name))
    monkeypatch.setenv("HOME", str(root.parent))
    monkeypatch.chdir(root)
    link = root.parent / f"{root.name} by link"
    link.symlink_to(root)
    written = (root, f"{root}/", ".", f"../{root.name}", f"~/{root.name}", link)
    assert len({make_source(name, way)[0].labels for way in written}) == 1
    with pytest.raises(ConfigError, match="root: expected a path, got 5"):
        make_source(name, 5)


def test_unknown_names_and_needless_roots_are_refused():
    with pytest.raises(ConfigError, match=r"expected one of .*coco, toy, got 'cocoo'"):
        make_source("cocoo")
    with pytest.raises(ConfigError, match="got 'crowdhumn'; did you mean 'crowdhuman'"):
        make_source("crowdhumn", root="/nowhere")
    with pytest.raises(ConfigError, match=r"got 'zzz'$"):
        make_source("zzz")
    with pytest.raises(ConfigError, match="root: expected none, as 'easy' reads no files"):
        make_source("easy", root="/tmp")


def test_a_process_that_only_unpickles_a_source_draws_the_same_scene():
    source = make_source("easy", seed=3)
    code = (
        "import pickle, sys; source = pickle.loads(sys.stdin.buffer.read()); "
        "sys.stdout.write(repr(source[0].boxes.tolist()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=pickle.dumps(source), stdout=subprocess.PIPE, check=True
    )
    assert done.stdout.decode() == repr(source[0].boxes.tolist())
