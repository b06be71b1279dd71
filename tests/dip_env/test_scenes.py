from __future__ import annotations

import numpy as np
import pytest

from dip_env.errors import ConfigError, SceneError
from dip_env.scenes import SOURCES, CocoScenes, SceneSource, ToyScenes, make_source
from dip_env.scenes.base import Scene


def test_toy_scenes_have_the_documented_truth(toy):
    assert len(toy) == 4
    assert [len(toy[i].truth) for i in range(4)] == [3, 2, 0, 1]
    assert [len(toy[i].ignore_boxes) for i in range(4)] == [0, 1, 0, 0]
    assert toy[0].truth.tolist()[0] == [40, 100, 120, 340]
    assert toy[1].visible_share.tolist() == [0.5, 1.0, 1.0]
    assert toy[3].truth.tolist() == [[311, 200, 317, 215]]


def test_toy_people_fill_their_boxes(toy):
    scene = toy[0]
    pixels = np.asarray(scene.image)
    x1, _, x2, y2 = (int(v) for v in scene.truth[0])
    trousers = (40, 44, 60)
    assert tuple(pixels[y2 - 1, x1]) == tuple(pixels[y2 - 1, x2 - 1]) == trousers
    assert tuple(pixels[y2, x1]) != trousers
    assert tuple(pixels[y2 - 1, x2]) != trousers


def test_toy_images_never_change(toy):
    for i in range(4):
        assert toy[i].image.tobytes() == ToyScenes()[i].image.tobytes()


@pytest.mark.parametrize("index", [-1, 4])
def test_toy_scenes_end(toy, index):
    with pytest.raises(IndexError, match=rf"expected 0\.\.3, got {index}"):
        toy[index]


def test_readers_are_made_by_name(write_coco):
    assert isinstance(make_source("toy"), ToyScenes)
    assert isinstance(make_source("coco", write_coco([])), CocoScenes)
    assert isinstance(make_source("coco", str(write_coco([])), max_pixels=5), SceneSource)


@pytest.mark.parametrize("name", [n for n in SOURCES if n not in ("coco", "toy")])
def test_every_procedural_name_makes_a_source(name):
    assert isinstance(make_source(name), SceneSource)


def test_unknown_names_and_needless_roots_are_refused():
    with pytest.raises(ConfigError, match=r"expected one of .*coco, toy, got 'cocoo'"):
        make_source("cocoo")
    with pytest.raises(ConfigError, match="root: expected none, as 'easy' reads no files"):
        make_source("easy", root="/tmp")


def scene(**change):
    values = {
        "scene_id": "s",
        "size": (20, 10),
        "boxes": np.array([[1, 1, 5, 5]], np.float32),
        "visible_boxes": np.array([[1, 1, 5, 5]], np.float32),
        "visible_share": np.ones(1, np.float32),
        "ignore": np.zeros(1, bool),
        "labels": ("person",),
        "load_image": lambda: ToyScenes()[0].image,
    }
    return Scene(**values | change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": ()}, r"boxes: expected \(0, 4\), got \(1, 4\)"),
        ({"ignore": np.zeros(2, bool)}, r"ignore: expected \(1,\), got \(2,\)"),
        ({"boxes": np.array([[1, 1, np.nan, 5]])}, "expected finite numbers"),
        ({"boxes": np.array([[5, 1, 5, 5]])}, r"boxes\[0\]: expected x2 > x1"),
    ],
)
def test_a_scene_checks_its_arrays(change, message):
    with pytest.raises(SceneError, match=f"scene s: .*{message}"):
        scene(**change)


def test_a_scene_checks_its_image_on_first_use():
    with pytest.raises(SceneError, match=r"image: expected RGB of \(20, 10\), got RGB of \(640"):
        scene().image.load()
