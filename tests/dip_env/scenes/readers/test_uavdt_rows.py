from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dip_env.errors import SceneError
from dip_env.scenes.readers.uavdt_rows import read_rows

row = st.tuples(
    st.integers(1, 30),
    st.integers(0, 1000),
    *[st.integers(-2000, 2000)] * 4,
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(1, 3),
)
rows = st.lists(row, min_size=1, max_size=20, unique_by=lambda values: values[:2])


def text_of(rows):
    return "".join(",".join(map(str, values)) + "\n" for values in rows)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tmp_path_factory.mktemp("rows") / "M0101_gt_whole.txt"


@given(rows)
def test_what_is_written_is_read_again_in_its_order(file, rows):
    file.write_text(text_of(rows))
    assert read_rows(file, "gt_whole").tolist() == [list(values) for values in rows]


@given(rows)
def test_the_last_line_may_lack_its_end(file, rows):
    file.write_text(text_of(rows)[:-1])
    assert len(read_rows(file, "gt_whole")) == len(rows)


@given(rows, st.data())
def test_a_changed_character_is_read_as_python_would_or_refused(file, rows, data):
    text = text_of(rows)
    place = data.draw(st.integers(0, len(text) - 2))
    text = text[:place] + data.draw(st.sampled_from("0,-. \nx+_")) + text[place + 1 :]
    file.write_text(text)
    try:
        read = read_rows(file, "gt_whole")
    except SceneError:
        return
    assert read.tolist() == [[int(value) for value in line.split(",")] for line in text.split()]


def test_of_two_repeated_targets_the_first_in_the_file_is_named(file):
    row = "{},{},1,1,5,5,1,1,1\n"
    file.write_text("".join(row.format(*pair) for pair in [(9, 1), (2, 7), (9, 1), (2, 7)]))
    with pytest.raises(SceneError, match=r"line 3: .* got target 1 of frame 9 as in line 1"):
        read_rows(file, "gt_whole")


def test_a_region_may_be_stated_twice(tmp_path):
    file = tmp_path / "M0101_gt_ignore.txt"
    file.write_text("1,2,3,4,5,6,1,-1,-1\n" * 2)
    np.testing.assert_array_equal(read_rows(file, "gt_ignore")[0], read_rows(file, "gt_ignore")[1])
