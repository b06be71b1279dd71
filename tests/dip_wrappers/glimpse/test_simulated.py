from dataclasses import replace

import numpy as np
import pytest

from dip_env.ambiguity import detectability
from dip_env.scenes import ToyScenes, make_source
from dip_env.scenes.base import Scene
from dip_wrappers.glimpse import DetectorInput, SimulatedDetector

PLAIN = SimulatedDetector(clutter=0.0, jitter=0.0, mistaken=0.0, stray=0.0, lowest_score=0.0)


def crowd(count=400, height=16, **changes):
    """People of one height in rows, each 100 pixels from the next, in a scene of 4000 x 4000."""
    x, y = np.meshgrid(np.arange(20) * 100 + 20, np.arange(20) * 100 + 20)
    corner = np.stack([x.ravel(), y.ravel()], axis=1)[:count]
    boxes = np.hstack([corner, corner + np.array([height // 2, height])]).astype(np.float32)
    plain = Scene("rows", (4000, 4000), boxes, boxes, np.ones(count, np.float32),
                  np.zeros(count, bool), ("person",) * count, lambda: None)  # fmt: skip
    return replace(plain, **changes)


def picture(scene, side, region=None):
    region = (0, 0, *scene.size) if region is None else region
    return DetectorInput(np.zeros((side, side, 3), np.uint8), np.array(region, np.float64), scene)


def found(detector, one):
    return detector(one).above(0.5)


@pytest.mark.parametrize("height", [8, 16, 32])
def test_the_share_of_people_found_is_their_chance(height):
    # 400 people: four standard errors of a share are at most 0.1.
    share = len(found(PLAIN, picture(crowd(height=height), 4000))) / 400
    assert share == pytest.approx(detectability([height], [1.0])[0], abs=0.1)


def test_more_pixels_find_the_same_people_and_more():
    scene = crowd(height=64)
    far = found(PLAIN, picture(scene, 1000))
    near = found(PLAIN, picture(scene, 2000))
    assert 0 < len(far) < len(near) < 400
    places = {tuple(np.round(box).tolist()) for box in near.boxes / 2}
    assert {tuple(np.round(box).tolist()) for box in far.boxes} <= places


def test_enlarging_beyond_the_pixels_of_the_scene_finds_nobody_new():
    scene = crowd(height=8)
    assert len(found(PLAIN, picture(scene, 4000))) == len(found(PLAIN, picture(scene, 8000))) > 0


def test_the_same_region_gives_the_same_detections():
    one = picture(make_source("crowd")[0], 300)
    first, again = SimulatedDetector()(one), SimulatedDetector()(one)
    assert first.boxes.tolist() == again.boxes.tolist()
    assert first.scores.tolist() == again.scores.tolist()
    assert first.scores.tolist() != SimulatedDetector(seed=1)(one).scores.tolist()


def test_nobody_is_found_outside_the_region():
    scene = crowd(height=64)
    boxes = found(PLAIN, picture(scene, 1000, (0, 0, 1000, 1000))).boxes
    assert len(boxes) > 50
    assert boxes.min() >= 0
    assert boxes.max() <= 1000


def test_who_overlaps_others_is_found_less_often():
    boxes = crowd().boxes
    pairs = np.repeat(boxes[::2], 2, axis=0)
    scene = crowd(boxes=pairs, visible_boxes=pairs)
    apart = len(found(replace(PLAIN, clutter=1.0), picture(crowd(), 4000)))
    assert len(found(replace(PLAIN, clutter=1.0), picture(scene, 4000))) < 0.8 * apart


def test_ignored_people_are_not_looked_for():
    assert len(PLAIN(picture(crowd(ignore=np.ones(400, bool)), 4000))) == 0
    assert len(PLAIN(picture(ToyScenes()[2], 640))) == 0


def test_lookalikes_are_taken_for_people_until_they_are_seen_well():
    lookalikes = tuple(map(tuple, crowd(height=64).boxes.tolist()))
    scene = crowd(count=0, notes={"lookalikes": lookalikes})
    detector = replace(PLAIN, mistaken=0.8)
    far, near = (len(found(detector, picture(scene, side))) for side in (1600, 4000))
    assert far > 150  # 26 pixels tall
    assert near < 100  # 64 pixels tall


def test_drawn_scenes_say_where_their_lookalikes_are():
    scene = make_source("crowd", lookalikes=(3, 3))[0]
    assert len(scene.notes["lookalikes"]) >= 2
    width, height = scene.size
    for x1, y1, x2, y2 in scene.notes["lookalikes"]:
        assert x1 < min(x2, width)
        assert y1 < min(y2, height)
    assert make_source("crowd", lookalikes=(0, 0))[0].notes["lookalikes"] == ()


def test_strays_are_as_many_as_asked_for():
    counts = [
        len(replace(PLAIN, stray=3.0, mistaken=0.8)(picture(crowd(count=0, scene_id=str(k)), 4000)))
        for k in range(200)
    ]
    assert np.mean(counts) == pytest.approx(3.0, abs=0.5)
