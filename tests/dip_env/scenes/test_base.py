from __future__ import annotations

import numpy as np
import pytest

from dip_env.errors import SceneError
from dip_env.scenes import ProceduralCrowd, Scene, ToyScenes
from dip_env.scenes.base import is_endless
from dip_env.views import View, overview


def test_procedural_sources_are_endless_and_hand_made_ones_are_not():
    assert is_endless(ProceduralCrowd("easy"))
    assert not is_endless(ToyScenes())


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


def test_a_scene_makes_its_overview_once_for_all_episodes_and_keeps_the_last():
    kept = ToyScenes()[0]
    small, large = (View.of(kept.size, side, 32) for side in (96, 448))
    first = kept.overview(small)
    assert np.array_equal(first, np.asarray(overview(kept.image, small)))
    assert kept.overview(View.of(kept.size, 96, 32)) is first
    assert kept.overview(large).shape == (*large.view_size[::-1], 3)
    again = kept.overview(small)
    assert again is not first and np.array_equal(again, first)


def test_an_overview_that_is_kept_cannot_be_changed():
    shown = ToyScenes()[0].overview(View.of((640, 480), 96, 32))
    with pytest.raises(ValueError, match="read-only"):
        shown[0, 0] = 0
