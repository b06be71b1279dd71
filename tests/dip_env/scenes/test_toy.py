from __future__ import annotations

import numpy as np
import pytest

from dip_env.scenes import ToyScenes


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
