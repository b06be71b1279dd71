from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dip_env.checks import short
from dip_env.errors import ConfigError, SceneError
from dip_env.formats.files import (
    check_file_name,
    find_files,
    is_xywh,
    parse_json,
    pick_folder,
    pick_split,
    read_lines,
    read_text,
)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "expected annotations, got an empty file"),
        (b" \n\t", "expected annotations, got an empty file"),
        (b"\xef\xbb\xbf{}", "expected UTF-8 without a byte order mark"),
        ("{}".encode("utf-16"), "expected UTF-8 without a byte order mark"),
        (b"{}\xff", "line 1: expected UTF-8, got byte 0xff"),
    ],
)
def test_a_file_that_is_no_text_is_one_error(tmp_path, data, message):
    (tmp_path / "a.json").write_bytes(data)
    with pytest.raises(SceneError, match=rf"a\.json: {message}"):
        read_text(tmp_path / "a.json")


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(SceneError, match=r"none\.json: annotation file is missing"):
        read_text(tmp_path / "none.json")
    with pytest.raises(SceneError, match="annotation file cannot be read: Is a directory"):
        read_text(tmp_path)


def test_lines_come_without_their_ends_and_carriage_returns_are_refused(tmp_path):
    file = tmp_path / "a.txt"
    file.write_bytes(b"one\ntwo\n\n")
    assert read_lines(file) == ["one", "two", ""]
    file.write_bytes(b"one\ntwo\r\n")
    with pytest.raises(SceneError, match=r"a\.txt: line 2: expected lines that end with LF"):
        read_lines(file)


@pytest.mark.parametrize("text", ["{", "[1,]", "[" * 100_000])
def test_what_is_no_json_is_one_error(text):
    with pytest.raises(SceneError, match=r"^here: expected JSON"):
        parse_json(text, "here")


def test_where_json_breaks_is_named_by_the_column_and_by_the_line_where_there_are_several():
    with pytest.raises(SceneError, match=r"^f: line 7: expected JSON: Extra data at column 4$"):
        parse_json("{} {}", "f: line 7")
    with pytest.raises(SceneError, match=r"^f: expected JSON: Extra data at line 2 column 1$"):
        parse_json("{}\n{}", "f")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1, "a": 2}', r"f: expected each key once in an object: got 'a' twice at column 10"),
        (
            '{"a": {"b": 1},\n "c": [{"b": 2, "a": 3,\n  "b": 4}]}',
            r"got 'b' twice at line 3 column 3",
        ),
        ('{"a":"\\"a\\": {",\n"a" : 1}', r"got 'a' twice at line 2 column 1"),
        ('{"a": 1,\n"\\u0061": 1}', r"got 'a' twice at line 2 column 1"),
    ],
)
def test_a_key_that_comes_twice_is_an_error_with_its_place(text, message):
    with pytest.raises(SceneError, match=message):
        parse_json(text, "f")


def test_equal_keys_of_different_objects_are_fine():
    text = '{"a": {"a": [{"a": 1}, {"a": 2}]}, "b": "a", "c": {"b": 1}}'
    assert parse_json(text, "f")["a"]["a"] == [{"a": 1}, {"a": 2}]


def test_a_byte_that_is_not_utf_8_is_named_with_its_line(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"one\ntwo \xff\n")
    with pytest.raises(SceneError, match=r"a\.txt: line 2: expected UTF-8, got byte 0xff"):
        read_text(tmp_path / "a.txt")


def test_files_are_found_by_name_without_hidden_ones(tmp_path):
    for name in ("b.mat", "a.mat", "._a.mat", ".mat", "a.txt"):
        (tmp_path / name).touch()
    assert find_files(tmp_path, "*.mat") == [tmp_path / "a.mat", tmp_path / "b.mat"]
    assert find_files(tmp_path / "none", "*.mat") == []


def paths(*names):
    return [Path(name) for name in names]


@pytest.mark.parametrize(
    ("names", "split", "chosen"),
    [
        (["anno_train.mat", "anno_val.mat"], "val", "anno_val.mat"),
        (["instances_val2017.json", "instances_train2017.json"], "val", "instances_val2017.json"),
        (["sample.odgt"], "val", "sample.odgt"),
        (["sample.odgt", "a_val.odgt"], "val", "a_val.odgt"),
    ],
)
def test_the_file_that_names_the_split_serves_it_or_the_only_one_that_names_none(
    names, split, chosen
):
    assert pick_split(paths(*names), split, Path("root"), "a file").name == chosen


@pytest.mark.parametrize(
    ("names", "split"),
    [
        (["anno_val.mat"], "train"),
        (["sample.odgt", "a_val.odgt"], "train"),
        (["a.odgt", "b.odgt"], "train"),
        (["a_val.odgt", "b_val.odgt"], "val"),
        ([], "train"),
    ],
)
def test_no_file_serves_a_split_it_does_not_hold(names, split):
    found = ", ".join(sorted(names)) or "none"
    message = f"root: expected a file of split '{split}', found {found}; name the file"
    with pytest.raises(SceneError, match=message):
        pick_split(paths(*names), split, Path("root"), "a file")


def test_the_first_folder_that_is_there_is_taken_else_the_usual_one(tmp_path):
    assert pick_folder(tmp_path, ("a", "b")) == tmp_path / "b"
    (tmp_path / "a").mkdir()
    assert pick_folder(tmp_path, ("a", "b")) == tmp_path / "a"
    with pytest.raises(ConfigError, match="expected root= or images=, got neither"):
        pick_folder(None, ("a",))


@pytest.mark.parametrize("name", ["a.jpg", "ulm/a.jpg", "..a.jpg", "273271,c9db.jpg"])
def test_names_inside_the_folder_are_fine(name):
    assert check_file_name(name, "here") == name


@pytest.mark.parametrize("name", ["../a", "a/../../b", "/a", "\\a", "..\\a", "C:/a"])
def test_names_that_lead_out_of_the_folder_are_refused(name):
    with pytest.raises(SceneError, match=r"^here: expected a path inside the image folder"):
        check_file_name(name, "here")


@pytest.mark.parametrize("name", ["a\0b", "a\nb", "\x1b[31ma", "a" * 251, "ä" * 126, "a/" * 600])
def test_names_that_no_file_can_have_are_refused_in_one_short_line(name):
    with pytest.raises(SceneError, match=r"^here: expected a name that a file can have") as caught:
        check_file_name(name, "here")
    assert len(str(caught.value)) < 150
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", [None, 3, "", "  "])
def test_what_is_no_name_is_refused(name):
    with pytest.raises(SceneError, match=r"^here: expected a name, got"):
        check_file_name(name, "here")


@pytest.mark.parametrize(
    ("value", "is_box"),
    [
        ([1, 2, 3, 4], True),
        ([-1.5, 0, 0, -4], True),
        ([1, 2, 3], False),
        ([1, 2, 3, True], False),
        ([1, 2, 3, "4"], False),
        ([1, 2, 3, float("nan")], False),
        ([1, 2, 3, float("inf")], False),
        ([1, 2, 3, 10**400], False),
        ((1, 2, 3, 4), False),
        (None, False),
    ],
)
def test_a_box_is_a_list_of_four_finite_numbers(value, is_box):
    assert is_xywh(value) is is_box


def test_values_of_several_lines_become_one():
    assert short(np.eye(2)) == "array([[1., 0.], [0., 1.]])"
    assert short("a\n b") == r"'a\n b'"


def test_long_values_are_cut():
    assert short("a" * 100) == "'" + "a" * 56 + "..."
    assert len(short(list(range(1000)))) == 60
