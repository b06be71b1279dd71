from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dip_env.errors import SceneError
from dip_env.formats import json_rows
from dip_env.formats.json_rows import Rows

pytestmark = pytest.mark.filterwarnings("error")

ACCEPTED = {
    "identifiers": [0, -3, 10**30, "7", ""],
    "strings": ["person", ""],
    "flags": [0, 1, True, False],
    "integers": [0, -(2**63), 2**63 - 1],
    "sides": [1, 999_999_999],
    "numbers": [0, -1.5, 1e300, 2**70],
    "amounts": [0, 0.0, 1e300],
    "boxes": [[0, -1.5, 0, 0], [1, 2, 3.0, 4], [-999_999_999, 0, 1, 1]],
}
NEVER = [None, [], {}, [1], math.nan, math.inf, -math.inf]
REFUSED = {
    "identifiers": [True, 1.0],
    "strings": [1, True],
    "flags": [2, -1, "1", 1.0],
    "integers": [True, 1.0, "1", 2**63],
    "sides": [0, -1, 10**9, 640.0, True, "640"],
    "numbers": [True, "1", 10**400],
    "amounts": [-1, -0.5, True, "1"],
    "boxes": [
        [1, 2, 3],
        [1, 2, 3, 4, 5],
        [1, 2, "3", 4],
        [1, 2, 3, True],
        [1, 2, 3, None],
        [1, 2, -3, 4],
        [1, 2, 3, -0.1],
        [math.nan, 2, 3, 4],
        [1, math.inf, 3, 4],
        [1e9, 2, 3, 4],
        [10**400, 2, 3, 4],
        [[1], 2, 3, 4],
        (1, 2, 3, 4),
        "1234",
    ],
}


@pytest.mark.parametrize("name", ACCEPTED)
@given(data=st.data())
def test_a_column_is_refused_exactly_when_one_of_its_values_is_wrong(name, data):
    marked = [(value, False) for value in ACCEPTED[name]]
    marked += [(value, True) for value in REFUSED[name] + NEVER]
    drawn = data.draw(st.lists(st.sampled_from(marked), max_size=6))
    column = getattr(json_rows, name)([value for value, _ in drawn])
    assert (column is None) == any(wrong for _, wrong in drawn)


@pytest.mark.parametrize("name", ACCEPTED)
def test_every_fine_value_is_accepted_and_every_wrong_one_refused_alone(name):
    parse = getattr(json_rows, name)
    assert [value for value in ACCEPTED[name] if parse([value]) is None] == []
    assert [value for value in REFUSED[name] + NEVER if parse([value]) is not None] == []


def test_numbers_come_as_they_are():
    assert json_rows.boxes([[1, 2.5, 3, 0]]).tolist() == [[1.0, 2.5, 3.0, 0.0]]
    assert json_rows.boxes([]).shape == (0, 4)
    assert json_rows.flags([0, True, 1]).tolist() == [False, True, True]
    assert json_rows.integers([2**63 - 1]).dtype == np.int64


def test_the_first_wrong_row_is_named_by_its_index():
    rows = Rows.of([{"x": 1}, {"x": 2}, {"x": "3"}, {"x": None}], "f.json", "things")
    with pytest.raises(SceneError, match=r"^f.json: things\[2\].x: expected a number, got '3'$"):
        rows.column("x", json_rows.numbers, "a number")


def test_indices_are_those_of_the_file_where_only_some_rows_have_the_key():
    rows = Rows.of([{}, {"id": 4}, {}, {"id": 4}], "f.json", "things").having("id")
    assert rows.column("id", json_rows.integers, "an integer").tolist() == [4, 4]
    expected = r"^f.json: things\[3\].id: expected ids that differ, got 4 as in things\[1\]$"
    with pytest.raises(SceneError, match=expected):
        rows.check_differ("id", [4, 4])


def test_a_missing_key_is_named_unless_there_are_defaults():
    rows = Rows.of([{"x": 1}, {}], "f.json", "things")
    with pytest.raises(SceneError, match=r"^f.json: things\[1\].x: expected a number, got nothing"):
        rows.column("x", json_rows.numbers, "a number")
    assert rows.column("x", json_rows.numbers, "a number", [7, 8]).tolist() == [1, 8]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (None, "expected a list of objects, got nothing"),
        ({"0": {}}, "expected a list of objects, got {'0': {}}"),
        ("rows", "expected a list of objects, got 'rows'"),
    ],
)
def test_only_a_list_holds_rows(rows, message):
    with pytest.raises(SceneError, match=f"^f.json: things: {message}$"):
        Rows.of(rows, "f.json", "things")


def test_only_objects_are_rows():
    with pytest.raises(SceneError, match=r"^f.json: things\[1\]: expected an object, got \[1\]$"):
        Rows.of([{}, [1]], "f.json", "things")
