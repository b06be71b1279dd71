"""Procedural scenes: what is promised about their truth, their chance and their settings."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from dip_env.errors import ConfigError
from dip_env.scenes import Scene, SceneSource
from dip_env.scenes.procedural.drawing.compose import PaintedTruth
from dip_env.scenes.procedural.drawing.scene import Drawing
from dip_env.scenes.procedural.parameters import CAMERAS, LIGHTS, LOOKALIKES, SETTINGS
from dip_env.scenes.procedural.source import (
    LENGTH,
    PRESETS,
    CrowdParameters,
    ProceduralCrowd,
    as_scene,
)

SMALL = (640, 480)


def small(preset: str, **overrides: object) -> ProceduralCrowd:
    """A source whose images are drawn four times faster than those of the default size."""
    return ProceduralCrowd(preset, **{"size": SMALL, **overrides})


def clipped(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.clip(boxes, 0, [*size, *size])


def brightness(scene: Scene) -> float:
    return float(np.asarray(scene.image.convert("L")).mean())


@pytest.fixture(scope="module", params=sorted(PRESETS))
def preset_scenes(request: pytest.FixtureRequest) -> tuple[CrowdParameters, list[Scene]]:
    source = small(request.param, split="val")
    count = 3 if request.param == "dense" else 5
    return source.parameters, [source[index] for index in range(count)]


# --- truth -----------------------------------------------------------------------------------


def test_visible_boxes_lie_inside_the_full_boxes_clipped_to_the_image(preset_scenes) -> None:
    for scene in preset_scenes[1]:
        full = clipped(scene.boxes, scene.size)
        assert (scene.visible_boxes[:, :2] >= full[:, :2]).all()
        assert (scene.visible_boxes[:, 2:] <= full[:, 2:]).all()
        assert (scene.visible_boxes[:, 2:] > scene.visible_boxes[:, :2]).all()


def test_visible_shares_are_shares_and_the_hardly_seen_are_ignored(preset_scenes) -> None:
    parameters, scenes = preset_scenes
    for scene in scenes:
        assert (scene.visible_share > 0).all() and (scene.visible_share <= 1).all()
        person = np.array([label == "person" for label in scene.labels], dtype=bool)
        hardly = scene.visible_share < parameters.hidden_share
        assert (scene.ignore[person] == hardly[person]).all()
        assert scene.ignore[~person].all()


def test_a_smaller_visible_box_goes_with_a_share_below_one(preset_scenes) -> None:
    for scene in preset_scenes[1]:
        smaller = (np.abs(scene.visible_boxes - scene.boxes) > 0).any(axis=1)
        assert (scene.visible_share[smaller] < 1).all()


def test_the_number_of_people_stays_in_the_density_range(preset_scenes) -> None:
    parameters, scenes = preset_scenes
    low, high = parameters.people
    for scene in scenes:
        people = scene.labels.count("person")
        assert low <= scene.notes["drawn"] <= high
        assert people + scene.notes["unseen"] == scene.notes["drawn"]


def test_nobody_is_drawn_smaller_than_the_scale_range_says(preset_scenes) -> None:
    parameters, scenes = preset_scenes
    least = parameters.heights[0] * SMALL[1] / 960
    if parameters.small_extra:
        least = min(least, 0.1 * SMALL[1])
    for scene in scenes:
        person = np.array([label == "person" for label in scene.labels], dtype=bool)
        sides = (scene.boxes[:, 2:] - scene.boxes[:, :2])[person]
        assert (sides.max(axis=1) >= least - 1e-6).all()


def test_the_image_is_rgb_of_the_stated_size(preset_scenes) -> None:
    for scene in preset_scenes[1]:
        assert scene.image.mode == "RGB"
        assert scene.image.size == scene.size == SMALL


def test_the_default_image_is_large_enough_to_look_into() -> None:
    scene = ProceduralCrowd("easy")[1]
    assert scene.size == (1280, 960) and scene.image.size == (1280, 960)


@pytest.mark.parametrize("kind", LOOKALIKES)
def test_lookalikes_are_drawn_and_are_never_in_the_truth(kind: str) -> None:
    options = {"people": (0, 0), "furniture": (0, 0), "far_crowd": 0.0, "settings": ("plaza",)}
    source = small("crowd", lookalikes=(4, 4), lookalike_kinds=(kind,), **options)
    scene = source[0]
    assert scene.notes["things"].count(kind) >= 1
    assert len(scene.labels) == 0 and scene.boxes.shape == (0, 4)


def test_furniture_is_never_in_the_truth() -> None:
    scene = small("crowd", people=(0, 0), lookalikes=(0, 0), furniture=(9, 9), far_crowd=0.0)[3]
    assert len(scene.notes["things"]) >= 3
    assert len(scene.labels) == 0


def test_a_far_crowd_is_one_ignore_region_inside_the_image() -> None:
    source = small("crowd", people=(0, 0), far_crowd=1.0, settings=("plaza", "shore", "park"))
    for index in range(4):
        scene = source[index]
        assert scene.labels == ("crowd",)
        assert scene.ignore.all() and len(scene.truth) == 0
        box = scene.ignore_boxes[0]
        assert (clipped(box[None], scene.size)[0] == box).all()
        assert box[2] - box[0] > 5 * (box[3] - box[1])


def test_people_with_a_visible_sliver_are_ignored_and_the_unseen_are_left_out() -> None:
    truth = PaintedTruth(
        boxes=[(0, 0, 10, 20), (5, 0, 15, 20), (30, 0, 40, 20)],
        visible=[(0, 0, 1, 20), None, (30, 0, 40, 20)],
        shares=[0.04, 0.0, 1.0],
        inside=[1.0, 1.0, 1.0],
    )
    drawing = Drawing(Image.new("RGB", (64, 64)), truth, ((0, 0, 64, 4),), {"drawn": 3})
    scene = as_scene("hand", drawing, hidden_share=0.05)
    assert scene.ignore.tolist() == [True, False, True]
    assert scene.truth.tolist() == [[30, 0, 40, 20]]
    assert scene.labels == ("person", "person", "crowd")
    assert scene.notes["unseen"] == 1


def test_people_in_front_of_people_lower_the_shares() -> None:
    alone = small("crowd", people=(1, 1), furniture=(0, 0), lookalikes=(0, 0), far_crowd=0.0)
    crowded = small("dense", people=(120, 120), furniture=(0, 0), far_crowd=0.0)
    free = np.mean([alone[i].visible_share.mean() for i in range(4)])
    assert crowded[0].visible_share.mean() < free - 0.1


# --- presets ---------------------------------------------------------------------------------


def test_easy_scenes_hold_a_few_large_people_and_now_and_then_a_small_one() -> None:
    source = small("easy", split="test")
    tallest, small_ones, counts = [], 0, set()
    for index in range(24):
        scene = source[index]
        assert not scene.ignore.any()
        heights = (scene.boxes[:, 3] - scene.boxes[:, 1]) / SMALL[1]
        counts.add(len(heights))
        tallest.append(heights.max())
        small_ones += int((heights < 0.2).sum())
    assert counts <= {1, 2, 3, 4, 5} and len(counts) >= 4
    assert min(tallest) > 0.15 and 0.25 < np.median(tallest) < 0.62
    assert 1 <= small_ones <= 14


def test_crowds_reach_from_near_people_to_some_that_the_overview_hides() -> None:
    source = ProceduralCrowd("crowd", split="val", noise=(0, 0), compressed=0.0)
    heights = np.concatenate([np.diff(source[i].boxes[:, 1::2], axis=1)[:, 0] for i in range(3)])
    overview = heights * 448 / 1280
    assert (heights >= 12).all()
    assert (overview < 10).any() and (heights > 200).any()


def test_nights_are_darker_than_days() -> None:
    night = np.mean([brightness(small("night")[i]) for i in range(4)])
    day = np.mean([brightness(small("crowd", lighting=("day",))[i]) for i in range(4)])
    assert night < 0.6 * day


def test_a_drone_sees_people_flatter_than_a_street_camera() -> None:
    def aspect(preset: str) -> float:
        sides = np.concatenate([np.diff(small(preset)[i].boxes.reshape(-1, 2, 2), axis=1)[:, 0]
                                for i in range(3)])  # fmt: skip
        return float(np.median(sides[:, 1] / sides[:, 0]))

    assert aspect("drone") < 0.8 * aspect("crowd")


@pytest.mark.parametrize("camera", CAMERAS)
@pytest.mark.parametrize("setting", SETTINGS)
def test_every_camera_sees_every_setting(camera: str, setting: str) -> None:
    source = ProceduralCrowd(
        "crowd", camera=camera, settings=(setting,), people=(3, 6), size=(320, 240)
    )
    scene = source[0]
    assert scene.notes["setting"] == setting
    assert np.asarray(scene.image).std() > 4


@pytest.mark.parametrize("light", LIGHTS)
def test_every_light_can_be_chosen(light: str) -> None:
    scene = small("crowd", lighting=(light,), settings=("plaza",), people=(2, 3))[0]
    expected = {"day": ("sun", "overcast")}.get(light, (light,))
    assert scene.notes["light"] in expected


# --- chance ----------------------------------------------------------------------------------


def test_an_item_does_not_depend_on_what_was_read_before() -> None:
    first, second = small("crowd", seed=5), small("crowd", seed=5)
    forward = [first[i] for i in (0, 1, 2)]
    backward = [second[i] for i in (2, 1, 0)][::-1]
    for a, b in zip(forward, backward, strict=True):
        assert a.scene_id == b.scene_id and a.labels == b.labels
        assert (a.boxes == b.boxes).all() and (a.visible_share == b.visible_share).all()
        assert a.image.tobytes() == b.image.tobytes()


def test_seeds_splits_and_items_all_give_other_scenes() -> None:
    scenes = [
        small("easy")[0],
        small("easy")[1],
        small("easy", seed=1)[0],
        small("easy", split="val")[0],
        small("easy", split="test")[0],
        small("easy", seed=1, split="val")[0],
    ]
    assert len({scene.scene_id for scene in scenes}) == len(scenes)
    assert len({scene.image.tobytes() for scene in scenes}) == len(scenes)


def test_the_name_of_a_source_tells_what_its_scenes_depend_on() -> None:
    names = {
        repr(source)
        for source in (
            small("easy"),
            small("easy", seed=1),
            small("easy", split="val"),
            small("crowd"),
            small("easy", noise=(0, 1)),
        )
    }
    assert len(names) == 5
    assert repr(small("easy")) == repr(small("easy"))


GOLDEN = {
    ("easy", 3): (
        [[357, 346, 449, 608], [928, 375, 1053, 758], [492, 228, 744, 773]],
        [1.0, 1.0, 0.874],
    ),
    ("crowd", 2): (
        [
            [312, 362, 320, 384],
            [320, 376, 329, 407],
            [1085, 512, 1153, 629],
            [949, 522, 996, 638],
            [466, 500, 522, 661],
            [733, 509, 807, 721],
            [583, 586, 699, 890],
            [753, 585, 834, 900],
            [714, 656, 805, 974],
        ],
        [0.856, 1.0, 0.852, 0.969, 0.792, 0.462, 0.961, 0.614, 0.757],
    ),
}
GOLDEN_GREY = {
    ("easy", 3): [
        [137, 139, 151, 159, 154, 148, 174, 186],
        [133, 143, 158, 184, 181, 164, 192, 199],
        [134, 139, 148, 145, 153, 175, 181, 191],
        [130, 134, 121, 88, 119, 145, 147, 173],
        [110, 104, 98, 85, 105, 106, 129, 110],
        [111, 111, 104, 94, 95, 92, 100, 111],
        [108, 106, 104, 96, 101, 98, 100, 111],
        [110, 107, 108, 111, 110, 110, 109, 107],
    ],
    ("crowd", 2): [
        [201, 201, 201, 201, 201, 201, 201, 201],
        [207, 207, 207, 207, 207, 207, 207, 207],
        [203, 203, 203, 204, 204, 204, 204, 204],
        [144, 144, 144, 142, 139, 144, 144, 144],
        [138, 138, 137, 128, 117, 130, 116, 133],
        [137, 137, 133, 119, 99, 127, 129, 134],
        [134, 138, 135, 118, 110, 128, 135, 137],
        [134, 132, 136, 114, 123, 127, 135, 134],
    ],
}


@pytest.mark.parametrize("item", sorted(GOLDEN))
def test_two_items_stay_as_they_were_first_drawn(item: tuple[str, int]) -> None:
    """A change here changes every stored scene: raise ``DRAWING_VERSION`` with it."""
    preset, index = item
    scene = ProceduralCrowd(preset)[index]
    boxes, shares = GOLDEN[item]
    assert scene.boxes.tolist() == boxes
    np.testing.assert_allclose(scene.visible_share, shares, atol=6e-4)
    grey = np.asarray(scene.image.resize((8, 8), Image.Resampling.BOX).convert("L"))
    difference = np.abs(grey.astype(int) - np.array(GOLDEN_GREY[item]))
    assert difference.max() <= 2


def test_far_people_are_few_and_small_and_stand_together() -> None:
    source = ProceduralCrowd("far", split="val")
    heights, counts, near = [], [], []
    for scene in (source[index] for index in range(12)):
        truth = scene.truth
        heights += (truth[:, 3] - truth[:, 1]).tolist()
        counts.append(len(truth))
        middles = (truth[:, :2] + truth[:, 2:]) / 2
        apart = np.abs(middles[:, None] - middles[None]).max(axis=2) + 1e6 * np.eye(len(truth))
        near += (apart.min(axis=1) < 213).tolist()  # inside one look of 64 of 384 view pixels
    assert min(counts) >= 2 and max(counts) <= 8
    assert min(heights) > 20 and max(heights) < 110
    assert np.mean(near) > 0.7


# --- errors ----------------------------------------------------------------------------------


def test_a_source_is_very_long_and_says_where_it_ends() -> None:
    source = ProceduralCrowd("easy", size=(64, 64))
    assert isinstance(source, SceneSource)
    assert len(source) == LENGTH == 2**31 - 1
    assert source[np.int64(LENGTH - 1)].scene_id == f"easy-0-train-{LENGTH - 1}"
    for index in (-1, LENGTH, 10**12):
        with pytest.raises(IndexError, match=rf"expected 0 to {LENGTH - 1}, got {index}"):
            source[index]
    with pytest.raises(TypeError):
        source["3"]  # type: ignore[index]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"preset": "rush_hour"}, r"preset: expected one of \['crowd', 'dense'.*'rush_hour'"),
        ({"split": "dev"}, r"split: expected one of \['train', 'val', 'test'\], got 'dev'"),
        ({"seed": -1}, "seed: expected an integer >= 0, got -1"),
        ({"seed": True}, "seed: expected an integer >= 0"),
        ({"crowdedness": 3}, r"unknown parameter 'crowdedness'; expected one of \['back.*'size'"),
        ({"people": (5, 2)}, r"people: expected 0 <= low <= high, got \(5, 2\)"),
        ({"people": (1, 900)}, "people: expected at most 250, got 900"),
        ({"people": 7}, "people: expected two numbers, got 7"),
        ({"people": (1.5, 3)}, r"people: expected two integers, got \(1.5, 3\)"),
        ({"heights": (2, 90)}, "heights: expected at least 6 pixels, got 2"),
        ({"heights": ("a", 90)}, "heights: expected two numbers"),
        ({"occlusion": 1.5}, r"occlusion: expected 0..1, got 1.5"),
        ({"size": (10, 960)}, r"size: expected two integers from 64 to 8192, got \(10, 960\)"),
        ({"size": (1280.0, 960)}, "size: expected two integers"),
        ({"camera": "submarine"}, r"camera: expected one of \('portrait', .*got 'submarine'"),
        ({"lighting": ()}, r"lighting: expected some of \('sun'"),
        ({"lighting": "day"}, r"lighting: expected some of \('sun'"),
        ({"settings": ("moon",)}, r"settings: expected some of \('street'"),
        ({"lookalike_kinds": ("robot",)}, r"lookalike_kinds: expected some of \('statue'"),
        ({"noise": (0, 99)}, "noise: expected at most 60, got 99"),
    ],
)
def test_a_wrong_choice_is_named_with_what_was_expected(arguments: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ProceduralCrowd(**arguments)


def test_overrides_replace_single_fields_of_a_preset() -> None:
    source = ProceduralCrowd("night", people=(1, 2))
    assert source.parameters == replace(PRESETS["night"], people=(1, 2))
