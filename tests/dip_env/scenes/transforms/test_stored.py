from dataclasses import replace

import numpy as np
import pytest

from dip_env.errors import SceneError
from dip_env.scenes import ToyScenes
from dip_env.scenes.transforms.stored import StoredScenes
from dip_env.testing import check_dip_env


class Counting(ToyScenes):
    """Counts how often a scene is drawn."""

    drawn = 0

    def __getitem__(self, index):
        Counting.drawn += 1
        return super().__getitem__(index)

    def __repr__(self):
        return "Counting()"


def test_a_scene_is_drawn_once_and_its_truth_is_exact(tmp_path):
    Counting.drawn = 0
    for _ in range(2):
        stored = StoredScenes(Counting(), tmp_path)
        first, again, drawn = stored[1], stored[1], ToyScenes()[1]
        for name in ("boxes", "visible_boxes", "visible_share", "ignore"):
            np.testing.assert_array_equal(getattr(first, name), getattr(drawn, name))
        assert (first.labels, first.scene_id) == (drawn.labels, drawn.scene_id)
        assert np.array_equal(np.asarray(first.image), np.asarray(again.image))
        difference = np.abs(np.asarray(first.image, int) - np.asarray(drawn.image, int))
        assert difference.mean() < 3
    assert Counting.drawn == 1


def test_stored_scenes_keep_the_contract(tmp_path):
    check_dip_env(StoredScenes(ToyScenes(), tmp_path))


def test_the_folder_of_another_source_is_refused(tmp_path):
    StoredScenes(Counting(), tmp_path)
    with pytest.raises(SceneError, match=r"source\.txt: expected .*ToyScenes.*got Counting"):
        StoredScenes(ToyScenes(), tmp_path)


def test_a_source_without_a_name_of_its_own_is_refused(tmp_path):
    class Nameless:
        def __len__(self):
            return 1

        def __getitem__(self, index):
            return ToyScenes()[index]

    with pytest.raises(SceneError, match="Nameless: expected a __repr__"):
        StoredScenes(Nameless(), tmp_path)


def test_a_damaged_file_is_named(tmp_path):
    stored = StoredScenes(ToyScenes(), tmp_path)
    stored[0]
    path = tmp_path / "000000000.npz"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(SceneError, match=r"000000000\.npz: expected a stored scene"):
        stored[0]


def test_target_and_plain_notes_are_kept(tmp_path):
    class Vehicles(Counting):
        def __getitem__(self, index):
            notes = {"group": "M0101", "dropped": 2, "things": ("bench",), "size": {1, 2}}
            return replace(super().__getitem__(index), target="vehicle", notes=notes)

    scene = StoredScenes(Vehicles(), tmp_path)[0]
    assert scene.target == "vehicle"
    assert scene.notes == {"group": "M0101", "dropped": 2, "things": ["bench"]}
