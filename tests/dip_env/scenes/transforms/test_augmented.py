from dataclasses import replace

import numpy as np
import pytest

from dip_env.errors import ConfigError
from dip_env.scenes import ToyScenes
from dip_env.scenes.transforms.augmented import AugmentedScenes, window_scene
from dip_env.testing import check_dip_env


def test_view_zero_is_the_scene_and_items_depend_on_their_number_only():
    views = AugmentedScenes(ToyScenes(), 2, 5)
    assert len(views) == 10
    np.testing.assert_array_equal(views[1].boxes, ToyScenes()[1].boxes)
    late = AugmentedScenes(ToyScenes(), 2, 5)[7]
    np.testing.assert_array_equal(late.boxes, views[7].boxes)
    assert np.array_equal(np.asarray(late.image), np.asarray(views[7].image))
    assert late.scene_id == "toy-1/3"
    with pytest.raises(IndexError, match=r"expected 0\.\.9, got 10"):
        views[10]


def test_views_keep_the_contract():
    check_dip_env(AugmentedScenes(ToyScenes(), 4, 3))


def test_a_window_moves_cuts_and_mirrors_the_truth():
    # Scene 0 holds (40,100,120,340), (280,140,340,320) and (500,80,600,400).
    seen = window_scene(ToyScenes()[0], (80, 100, 560, 460), mirror=True)
    assert seen.size == (480, 360)
    # The first person lies half inside; mirrored x is 480 - x.
    np.testing.assert_allclose(
        seen.boxes, [[440, 0, 520, 240], [220, 40, 280, 220], [-40, -20, 60, 300]]
    )
    np.testing.assert_allclose(
        seen.visible_boxes, [[440, 0, 480, 240], [220, 40, 280, 220], [0, 0, 60, 300]]
    )
    # 40 of 80 columns; all; 60 of 100 columns times 300 of 320 rows.
    np.testing.assert_allclose(seen.visible_share, [0.5, 1.0, 0.6 * 300 / 320], rtol=1e-6)
    assert not seen.ignore.any()
    source = np.asarray(ToyScenes()[0].image)[100:460, 80:560][:, ::-1]
    np.testing.assert_array_equal(np.asarray(seen.image), source)


def test_who_is_mostly_outside_is_ignored_and_who_is_outside_is_gone():
    # Of the first person (40..120) a quarter is left; the second and third are gone.
    seen = window_scene(ToyScenes()[0], (0, 0, 60, 480))
    assert seen.ignore.tolist() == [True]
    np.testing.assert_allclose(seen.visible_share, [0.25])


def test_views_of_a_scene_share_its_group_and_lose_its_image_id():
    scene = replace(ToyScenes()[0], notes={"image_id": 7, "clipped": 1}, target="vehicle")
    seen = window_scene(scene, (80, 100, 560, 460), suffix="/1")
    assert seen.notes == {"clipped": 1, "group": "toy-0"}
    assert seen.target == "vehicle"
    again = window_scene(replace(scene, notes={"group": "M0101"}), (80, 100, 560, 460))
    assert again.notes["group"] == "M0101"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"views": 0}, "views: expected an integer >= 1, got 0"),
        ({"count": -1}, "count: expected an integer >= 0, got -1"),
        ({"smallest": 0.0}, r"smallest: expected a share in \(0, 1\], got 0.0"),
    ],
)
def test_settings_that_cannot_work_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        AugmentedScenes(ToyScenes(), **({"count": 4, "views": 2} | change))
