from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dip_env.errors import SceneError
from dip_env.scenes.readers.wider_lines import box_rows, read_named_lines, tell_year

FILE = Path("lines.txt")

sides = st.integers(1, 2000)
places = st.integers(-500, 3000)
people = st.lists(st.tuples(st.integers(1, 2), places, places, sides, sides), max_size=6)


def lines_of(prefix, boxes_per_image, skip):
    """Return lines as they are read, leaving out the first ``skip`` numbers of a box."""
    return {
        f"{prefix}{k:05d}.jpg": [str(v) for box in boxes for v in box[skip:]]
        for k, boxes in enumerate(boxes_per_image)
    }


@given(st.lists(people, max_size=5))
def test_what_is_written_in_the_form_of_2018_is_read_again(boxes_per_image):
    lines = lines_of("img", boxes_per_image, skip=0)
    rows = box_rows(FILE, lines, 2018, list(lines))
    expected = [
        [k, k + 1, label - 1, *box]
        for k, boxes in enumerate(boxes_per_image)
        for label, *box in boxes
    ]
    assert rows.tolist() == expected


@given(st.lists(people, max_size=5))
def test_in_the_form_of_2019_every_label_is_the_first(boxes_per_image):
    lines = lines_of("sur", boxes_per_image, skip=1)
    rows = box_rows(FILE, lines, 2019, list(reversed(lines)))
    last = len(lines) - 1
    expected = [
        [last - k, k + 1, 0, *box] for k, boxes in enumerate(boxes_per_image) for _, *box in boxes
    ]
    assert rows.tolist() == expected


@given(st.lists(people, min_size=1, max_size=5))
def test_the_year_of_well_formed_lines_with_names_of_the_set_is_found(boxes_per_image):
    # Lines of a year always fit it, so they never speak for the other year alone.
    lines = lines_of("img", boxes_per_image, skip=0)
    assert tell_year(FILE, lines) == 2018
    lines = lines_of("ad", boxes_per_image, skip=1)
    assert tell_year(FILE, lines) == 2019


@pytest.mark.parametrize(
    ("lines", "year"),
    [
        ({"a.jpg": ["1", "5", "5", "9", "9"]}, 2018),
        ({"a.jpg": ["5", "5", "9", "9"]}, 2019),
        # Twenty numbers fit both: here every fifth is no label, so it is 2019.
        ({"a.jpg": ["3"] * 20}, 2019),
        # Here it is one, but another line decides.
        ({"a.jpg": ["1"] * 20, "b.jpg": ["1"] * 4}, 2019),
        ({"a.jpg": ["1"] * 20, "b.jpg": ["1"] * 5}, 2018),
        # Or the name does.
        ({"img00001.jpg": ["1"] * 20}, 2018),
        ({"sur00001.jpg": ["1"] * 20}, 2019),
        ({"ad00001.jpg": []}, 2019),
    ],
)
def test_the_year_follows_from_numbers_or_names(lines, year):
    assert tell_year(FILE, lines) == year


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ({"a.jpg": [], "b.jpg": ["1"] * 20}, r"lines that fit both or neither; say .* year="),
        ({"a.jpg": ["1"] * 3}, r"lines that fit both or neither"),
        (
            {"a.jpg": ["1"] * 5, "b.jpg": ["1"] * 4},
            "line 1 has numbers of 2018, line 2 has numbers of 2019",
        ),
        (
            {"img1.jpg": ["3"] * 4},
            "line 1 has numbers of 2019, line 1 has a name of 2018",
        ),
        ({"img1.jpg": [], "sur1.jpg": []}, "line 1 has a name of 2018, line 2 has a name of 2019"),
    ],
)
def test_what_leaves_the_year_open_is_an_error_that_asks_for_it(lines, message):
    with pytest.raises(SceneError, match=message) as caught:
        tell_year(FILE, lines)
    assert "year=" in str(caught.value)


def test_a_name_stands_once_and_numbers_may_end_in_a_space(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("b.jpg 1 2 3 4 \na.jpg\n")
    assert read_named_lines(file) == {"b.jpg": ["1", "2", "3", "4"], "a.jpg": []}
    file.write_text("b.jpg\na.jpg\nb.jpg 1\n")
    with pytest.raises(SceneError, match=r"line 3: name: expected a new image, .* of line 1"):
        read_named_lines(file)
