import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dip_env.errors import ConfigError, SceneError
from dip_env.scenes.base import Scene
from dip_env.scenes.procedural.source import ProceduralCrowd
from dip_env.scenes.toy import ToyScenes
from dip_env.scenes.transforms.filtered import FilteredScenes, hard_people, ignore_hard_people
from dip_env.testing import check_dip_env


def make_scene(rows, name="a", **notes):
    """Return a scene of (height, visible share, ignored?) rows, each person 10 pixels wide."""
    boxes = [(20 * k, 5, 20 * k + 10, 5 + height) for k, (height, _, _) in enumerate(rows)]
    return Scene(
        scene_id=name,
        size=(400, 300),
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        visible_boxes=np.array(boxes, np.float32).reshape(-1, 4),
        visible_share=np.array([share for _, share, _ in rows], np.float32),
        ignore=np.array([ignored for _, _, ignored in rows], bool),
        labels=("person",) * len(rows),
        load_image=lambda: Image.new("RGB", (400, 300)),
        notes=notes,
    )


def test_who_is_too_short_or_too_hidden_is_ignored_and_stays():
    scene = make_scene(
        [(60, 0.7, False), (49, 0.7, False), (60, 0.6, False), (30, 0.1, True)], kept="yes"
    )
    seen = ignore_hard_people(scene, 50, 0.65)
    assert seen.ignore.tolist() == [False, True, True, True]
    np.testing.assert_array_equal(seen.boxes, scene.boxes)
    assert dict(seen.notes) == {"kept": "yes", "turned_ignored": 2}
    assert not scene.ignore[1]


def test_a_limit_belongs_to_those_who_count():
    # 0.65 is 0.64999998 as float32; 173.4 - 123.4 is 49.999992 from float32 corners.
    scene = make_scene([(50, 0.65, False)])
    scene.boxes[0, 1::2] = (123.4, 173.4)
    assert scene.boxes[0, 3] - scene.boxes[0, 1] < 50
    assert hard_people(scene, 50, 0.65).tolist() == [False]
    assert hard_people(scene, 50.01, 0.65).tolist() == [True]
    assert hard_people(scene, 50, 0.66).tolist() == [True]


def test_scenes_are_kept_by_the_people_that_count():
    # Toy scenes hold 3, 2 (and a region), 0 and 1 people.
    kept = FilteredScenes(ToyScenes(), min_people=1, max_people=2)
    assert [scene.scene_id for scene in kept] == ["toy-1", "toy-3"]
    assert kept.counts == {"kept": 2, "left_out": 2, "beyond_among": 0, "turned_ignored": 0}
    # Scene 0 holds people 240, 180 and 320 pixels tall, scene 1 two of 300, scene 3 one of 15.
    tall = FilteredScenes(ToyScenes(), min_people=2, min_height=200)
    assert [scene.scene_id for scene in tall] == ["toy-0", "toy-1"]
    assert tall.counts == {"kept": 2, "left_out": 2, "beyond_among": 0, "turned_ignored": 1}
    assert [scene.notes["turned_ignored"] for scene in tall] == [1, 0]


def test_filters_one_after_the_other_add_up_what_they_turned():
    first = FilteredScenes(ToyScenes(), min_height=200)
    second = FilteredScenes(first, min_height=300)
    assert second[0].ignore.tolist() == [True, True, False]
    assert second[0].notes["turned_ignored"] == 2


def test_only_the_first_scenes_are_looked_at():
    kept = FilteredScenes(ToyScenes(), min_people=1, among=2)
    assert kept.counts == {"kept": 2, "left_out": 0, "beyond_among": 2, "turned_ignored": 0}
    assert len(FilteredScenes(ToyScenes(), among=3)) == 3
    assert len(FilteredScenes(ToyScenes(), among=30)) == 4


def test_an_endless_source_is_only_gone_through_up_to_among():
    endless = ProceduralCrowd("easy")
    with pytest.raises(ConfigError, match=r"among: .* got None; ProceduralCrowd\(.* is endless"):
        FilteredScenes(endless, min_people=2)
    kept = FilteredScenes(endless, min_people=3, among=3)
    assert kept.counts["kept"] + kept.counts["left_out"] == 3
    # No scene needs to be read where the number of people is not limited.
    without = FilteredScenes(endless, min_visible=0.5)
    assert len(without) == len(endless)
    assert without.counts == {"kept": len(endless), "left_out": 0, "beyond_among": 0}


def test_the_source_is_gone_through_when_opened_only():
    class Counting(ToyScenes):
        opened = 0

        def __getitem__(self, index):
            Counting.opened += 1
            return super().__getitem__(index)

    kept = FilteredScenes(Counting(), min_people=1)
    assert Counting.opened == 4
    kept[2]
    assert Counting.opened == 5
    FilteredScenes(Counting(), min_height=20)
    assert Counting.opened == 5


def test_filtered_scenes_keep_the_contract_and_can_be_pickled():
    kept = FilteredScenes(ToyScenes(), min_people=1, min_height=20, min_visible=0.3)
    check_dip_env(kept)
    again = pickle.loads(pickle.dumps(kept))
    assert repr(again) == repr(kept)
    assert again[1].scene_id == kept[1].scene_id


def test_the_name_tells_every_limit():
    assert repr(FilteredScenes(ToyScenes(), min_people=1, max_people=3, among=4)) == (
        "FilteredScenes(ToyScenes(), min_people=1, max_people=3, min_height=0.0, "
        "min_visible=0.0, among=4)"
    )


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"min_people": -1}, "min_people: expected an integer >= 0, got -1"),
        ({"min_people": True}, "min_people: expected an integer >= 0, got True"),
        ({"max_people": 1.5}, "max_people: expected an integer >= 0, got 1.5"),
        ({"min_people": 3, "max_people": 2}, "max_people: expected at least min_people = 3, got 2"),
        ({"min_height": float("nan")}, "min_height: expected a number of pixels >= 0, got nan"),
        ({"min_height": -1}, "min_height: expected a number of pixels >= 0, got -1"),
        ({"min_visible": 65}, r"min_visible: expected a share in \[0, 1\], got 65"),
        ({"among": 0}, "among: expected an integer >= 1, got 0"),
    ],
)
def test_limits_that_cannot_work_are_refused(limits, message):
    with pytest.raises(ConfigError, match=message):
        FilteredScenes(ToyScenes(), **limits)


def test_a_filter_that_leaves_nothing_is_an_error():
    with pytest.raises(
        SceneError,
        match=r"ToyScenes\(\): expected a scene with 9 or more non-ignored people, found none",
    ):
        FilteredScenes(ToyScenes(), min_people=9)


def test_indices_outside_are_refused():
    kept = FilteredScenes(ToyScenes(), min_people=1)
    for index in (-1, 3):
        with pytest.raises(IndexError, match=rf"expected 0\.\.2, got {index}"):
            kept[index]


ROW = st.tuples(st.integers(1, 100), st.floats(0, 1, width=32), st.booleans())


@given(
    crowds=st.lists(st.lists(ROW, max_size=5), min_size=1, max_size=5),
    least=st.integers(0, 3),
    more=st.none() | st.integers(0, 3),
    height=st.integers(0, 100),
    visible=st.floats(0, 1),
)
def test_exactly_the_scenes_with_allowed_numbers_of_people_are_kept(
    crowds, least, more, height, visible
):
    most = None if more is None else least + more
    source = [make_scene(rows, str(k)) for k, rows in enumerate(crowds)]
    expected = []
    for k, rows in enumerate(crowds):
        people = sum(
            not ignored and tall >= height and share >= np.float32(visible)
            for tall, share, ignored in rows
        )
        if people >= least and (most is None or people <= most):
            expected.append((str(k), people))
    limits = {"min_people": least, "max_people": most, "min_height": height, "min_visible": visible}
    if not expected:
        with pytest.raises(SceneError, match="found none"):
            FilteredScenes(source, **limits)
        return
    kept = FilteredScenes(source, **limits)
    assert [(scene.scene_id, len(scene.truth)) for scene in kept] == expected
    assert kept.counts["kept"] + kept.counts["left_out"] == len(crowds)
