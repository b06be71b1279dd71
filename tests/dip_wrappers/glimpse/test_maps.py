import numpy as np
import pytest

from dip_wrappers.glimpse.maps import looked_map, padded, weight_inside, weight_map


def test_a_cell_is_looked_at_as_far_as_one_region_covers_it():
    # A scene of 80 x 40 in 4 x 4 cells of 20 x 10.
    regions = np.array([[0, 0, 30, 10], [0, 30, 20, 35], [0, 32, 20, 40]])
    assert looked_map(regions, (80, 40), 4).tolist() == [
        [1, 0.5, 0, 0],
        [0, 0, 0, 0],
        [0, 0, 0, 0],
        [pytest.approx(0.8), 0, 0, 0],
    ]


def test_weights_are_summed_where_centres_lie():
    boxes = np.array([[0, 0, 10, 10], [2, 2, 4, 4], [70, 30, 90, 50], [-20, -20, -10, 60]])
    found = weight_map(boxes, [1.0, 2.0, 1.0, 0.0], (80, 40), 2)
    assert found == pytest.approx(np.array([[0.75, 0], [0, 0.5]]))


def test_a_centre_counts_for_every_region_that_it_lies_in():
    places = np.array([[0, 0, 10, 10], [5, 0, 20, 10], [30, 0, 40, 10]])
    # Their centres: (2, 4), (10, 4) and (10, 10).
    boxes = np.array([[0, 0, 4, 8], [4, 2, 16, 6], [8, 0, 12, 20]])
    assert weight_inside(places, boxes, [1.0, 2.0, 4.0]).tolist() == [7.0, 6.0, 0.0]
    assert weight_inside(places, np.zeros((0, 4)), []).tolist() == [0.0, 0.0, 0.0]


def test_nothing_is_seen_where_nothing_is():
    assert not looked_map(np.zeros((0, 4)), (80, 40), 3).any()
    assert not weight_map(np.zeros((0, 4)), [], (80, 40), 3).any()


@pytest.mark.parametrize(("shape", "filled"), [((20, 40), (8, 16)), ((40, 20), (16, 8))])
def test_images_keep_their_form_in_a_square(shape, filled):
    square = padded(np.full((*shape, 3), 200, np.uint8), 16)
    assert square.shape == (16, 16, 3)
    assert (square[: filled[0], : filled[1]] == 200).all()
    assert square.sum() == 200 * 3 * filled[0] * filled[1]
