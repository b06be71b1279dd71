from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

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


def test_files_damaged_in_any_way_are_one_error_or_the_scene(tmp_path):
    rng = np.random.default_rng(0)
    stored = StoredScenes(ToyScenes(), tmp_path)
    whole_scene, path, refused = stored[0], tmp_path / "000000000.npz", 0
    whole = path.read_bytes()
    heads = [at for at in range(len(whole)) if whole.startswith((b"PK", b"\x93NUMPY"), at)]
    for _ in range(150):  # most of the bytes are the image: aim at the rest
        data = bytearray(whole)
        at = (int(rng.choice(heads)) + rng.integers(0, 120, 2)) % len(data)
        data[at[0]] ^= 1 << rng.integers(8)
        data[at[1]] = rng.integers(256)
        path.write_bytes(data if rng.random() < 0.8 else data[: at[0]])
        try:
            scene = stored[0]
            scene.image.load()
            assert np.array_equal(scene.boxes, whole_scene.boxes)
        except SceneError as error:
            refused += "000000000.npz" in str(error)
    assert refused > 75


def test_a_folder_is_claimed_in_one_move_and_by_one_source(tmp_path, monkeypatch):
    StoredScenes(Counting(), tmp_path)
    # As seen by a process that looked just before the other wrote.
    monkeypatch.setattr(Path, "exists", lambda path: False)
    with pytest.raises(SceneError, match=r"source\.txt: expected .*ToyScenes.*got Counting"):
        StoredScenes(ToyScenes(), tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["source.txt"]


def test_many_may_open_a_new_folder_at_once(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        for k in range(40):
            folders = [tmp_path / str(k)] * 8
            list(pool.map(lambda folder: StoredScenes(ToyScenes(), folder), folders))


def test_a_folder_that_cannot_be_one_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(SceneError, match=r"file.*: expected a folder to store in"):
            StoredScenes(ToyScenes(), folder)
    (tmp_path / "source.txt").write_bytes(b"\xff")
    with pytest.raises(SceneError, match="expected a folder to store in"):
        StoredScenes(ToyScenes(), tmp_path)


def test_target_and_plain_notes_are_kept(tmp_path):
    class Vehicles(Counting):
        def __getitem__(self, index):
            notes = {"group": "M0101", "dropped": 2, "things": ("bench",), "size": {1, 2}}
            return replace(super().__getitem__(index), target="vehicle", notes=notes)

    scene = StoredScenes(Vehicles(), tmp_path)[0]
    assert scene.target == "vehicle"
    assert scene.notes == {"group": "M0101", "dropped": 2, "things": ["bench"]}
