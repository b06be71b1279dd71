import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from dip_env.errors import ConfigError
from dip_wrappers.glimpse import BoxLooks, GridLooks


def test_cells_are_numbered_level_by_level_and_row_by_row():
    grid = GridLooks((1, 2), overlap=0.0)
    assert grid.space == spaces.Discrete(6)
    assert [grid.regions(n).tolist() for n in range(5)] == [
        [[0, 0, 1, 1]],
        [[0, 0, 0.5, 0.5]],
        [[0.5, 0, 1, 0.5]],
        [[0, 0.5, 0.5, 1]],
        [[0.5, 0.5, 1, 1]],
    ]
    assert grid.regions(5).shape == (0, 4)


@given(st.integers(2, 7), st.floats(0.01, 1))
def test_cells_of_a_level_cover_the_image_and_overlap(count, overlap):
    cells = GridLooks((count,), overlap).cells
    assert cells.min() == 0
    assert cells.max() == pytest.approx(1)
    row = cells[:count]
    assert (row[1:, 0] < row[:-1, 2]).all()
    assert np.ptp(cells[:, 2] - cells[:, 0]) == pytest.approx(0)


def test_several_regions_are_looked_at_once_each():
    grid = GridLooks((2,), overlap=0.0, at_once=3)
    assert grid.space == spaces.MultiDiscrete([5, 5, 5])
    assert grid.regions(np.array([3, 4, 3])).tolist() == [[0.5, 0.5, 1, 1]]
    assert grid.regions(np.array([4, 4, 4])).shape == (0, 4)


@pytest.mark.parametrize("action", [-1, 22, 1.5, [0, 1], None])
def test_what_is_no_action_is_refused(action):
    with pytest.raises(ConfigError, match=r"expected one of Discrete\(21\)"):
        GridLooks((2, 4)).regions(action)


@given(st.lists(st.floats(-2, 2), min_size=3, max_size=3))
def test_a_box_lies_in_the_image_and_has_a_size_in_its_range(action):
    ((x1, y1, x2, y2),) = BoxLooks(0.1, 0.5).regions(action)
    assert min(x1, y1) >= 0
    assert max(x2, y2) <= 1 + 1e-9
    assert x2 - x1 == pytest.approx(y2 - y1)
    assert 0.1 - 1e-9 <= x2 - x1 <= 0.5 + 1e-9


def test_the_corners_of_the_action_are_corners_of_the_image():
    assert BoxLooks(0.2, 0.5).regions([-1, 1, -1]) == pytest.approx(np.array([[0, 0.8, 0.2, 1]]))
    assert BoxLooks(0.2, 0.5).regions([0, 0, 1]) == pytest.approx(
        np.array([[0.25, 0.25, 0.75, 0.75]])
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GridLooks(()), "levels"),
        (lambda: GridLooks((2, 0)), "levels"),
        (lambda: GridLooks(overlap=-0.1), "overlap"),
        (lambda: GridLooks(at_once=0), "at_once"),
        (lambda: BoxLooks(0.5, 0.2), "smallest <= largest"),
        (lambda: BoxLooks(0.5, float("nan")), "smallest <= largest"),
        (lambda: BoxLooks().regions([0, float("nan"), 0]), "three finite numbers"),
    ],
)
def test_values_out_of_range_are_named(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
