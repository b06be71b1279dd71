import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dip_env.errors import ConfigError
from dip_env.scenes import ToyScenes
from dip_wrappers.glimpse import DetectorInput, ImageDetector


def picture(region, size=(40, 20)):
    image = np.zeros((size[1], size[0], 3), np.uint8)
    return DetectorInput(image, np.array(region, dtype=np.float64), ToyScenes()[0])


@given(st.lists(st.floats(0, 300), min_size=4, max_size=4))
def test_boxes_come_back_from_the_scene_and_back(numbers):
    one = picture([20, 10, 100, 50])
    box = np.array([numbers])
    assert one.from_scene(one.to_scene(box)) == pytest.approx(box, abs=1e-9)


def test_pixels_of_a_picture_are_positions_in_the_scene():
    # 80 x 40 pixels of the scene in 40 x 20.
    one = picture([20, 10, 100, 50])
    assert one.scale == (0.5, 0.5)
    assert one.to_scene(np.array([[0, 0, 40, 20], [10, 5, 20, 10]])).tolist() == [
        [20, 10, 100, 50],
        [40, 20, 60, 30],
    ]


def test_the_scene_goes_on_where_the_region_ends_inside_it():
    width, height = ToyScenes()[0].size
    assert picture([0, 10, width, 50]).open_sides == (False, True, False, True)
    assert picture([0, 0, width, height]).open_sides == (False,) * 4


def test_a_function_of_an_image_is_a_detector():
    seen = []

    def find(image):
        seen.append(image.shape)
        return [[1, 2, 3, 4]], [0.5]

    found = ImageDetector(find)(picture([20, 10, 100, 50]))
    assert (seen, found.boxes.tolist(), found.scores.tolist()) == (
        [(20, 40, 3)], [[1, 2, 3, 4]], [0.5]
    )  # fmt: skip
    with pytest.raises(ConfigError, match="expected 1 scores, got 2"):
        ImageDetector(lambda image: ([[1, 2, 3, 4]], [0.5, 0.6]))(picture([20, 10, 100, 50]))
