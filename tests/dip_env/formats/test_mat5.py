from __future__ import annotations

import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
import scipy.io
from hypothesis import given
from hypothesis import strategies as st

from dip_env.errors import SceneError
from dip_env.formats import mat5
from dip_env.formats.mat5 import MatCell, MatOther, MatStruct, describe, read_variable

pytestmark = pytest.mark.filterwarnings("error")

HEADER = b"MATLAB 5.0 MAT-file".ljust(124) + b"\0\1IM"
CELL, STRUCT, CHAR, DOUBLE, UINT8 = 1, 2, 4, 6, 9


def element(kind, data, end="<"):
    return struct.pack(f"{end}II", kind, len(data)) + data + bytes(-len(data) % 8)


def array(kind, shape, *rest, name=b"", end="<"):
    """Return an array as the format has it: flags, dimensions, name and contents."""
    parts = [
        element(6, struct.pack(f"{end}II", kind, 0), end),
        element(5, struct.pack(f"{end}{len(shape)}i", *shape), end),
        element(1, name, end),
        *rest,
    ]
    return element(14, b"".join(parts), end)


@pytest.fixture
def read(tmp_path):
    """Return a function that writes elements behind a header and reads the variable x."""

    def read(*parts, name="x", header=HEADER):
        (tmp_path / "a.mat").write_bytes(header + b"".join(parts))
        return read_variable(tmp_path / "a.mat", name)

    return read


def test_a_matrix_by_hand_is_read_column_by_column(read):
    numbers = element(3, struct.pack("<6h", 1, -2, 3, 4, 5, 6))
    found = read(array(DOUBLE, (2, 3), numbers, name=b"x"))
    assert found.tolist() == [[1, 3, 5], [-2, 4, 6]]
    assert found.dtype == np.int16  # stored in the smallest type that holds them


def test_a_small_element_holds_up_to_four_bytes_in_its_tag(read):
    small = struct.pack("<HH", 2, 3) + b"\7\x08\x09\0"
    assert read(array(UINT8, (1, 3), small, name=b"x")).tolist() == [[7, 8, 9]]


def test_both_byte_orders_give_the_same(read):
    numbers = element(4, struct.pack(">2H", 258, 3), ">")
    header = HEADER[:124] + b"\1\0MI"
    found = read(array(DOUBLE, (1, 2), numbers, name=b"x", end=">"), header=header)
    assert found.tolist() == [[258, 3]]
    assert found.dtype.isnative


VALUES = st.recursive(
    st.one_of(
        st.text(st.characters(min_codepoint=32, max_codepoint=0x2FFF), min_size=1, max_size=5),
        st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=4).map(
            lambda row: np.array([row], np.int32)
        ),
        st.lists(st.floats(width=64, allow_nan=False), max_size=4).map(
            lambda row: np.array(row).reshape(-1, 1)
        ),
    ),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3),
        st.dictionaries(st.sampled_from("abc"), inner, min_size=1, max_size=3),
    ),
    max_leaves=6,
)


def to_mat(value):
    """Return a value as scipy writes it: lists as rows of cells."""
    if isinstance(value, dict):
        return {name: to_mat(one) for name, one in value.items()}
    if not isinstance(value, list):
        return value
    row = np.empty((1, len(value)), object)
    for k, one in enumerate(value):
        row[0, k] = to_mat(one)
    return row


def from_mat(value):
    if isinstance(value, MatStruct):
        assert value.shape == (1, 1)
        return {name: from_mat(one) for name, (one,) in value.fields.items()}
    return [from_mat(one) for one in value.items] if isinstance(value, MatCell) else value


def equal(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[name], b[name]) for name in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(equal, a, b))
    return np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b


@given(VALUES, st.booleans())
def test_what_scipy_writes_is_read_back(tmp_path_factory, value, packed):
    file = tmp_path_factory.getbasetemp() / "x.mat"
    scipy.io.savemat(file, {"other": 1.5, "x": to_mat(value)}, do_compression=packed)
    assert equal(from_mat(read_variable(file, "x")), value)


def test_kinds_that_are_not_read_are_named_and_do_not_hide_the_others(tmp_path):
    file = tmp_path / "a.mat"
    scipy.io.savemat(
        file, {"c": np.ones((1, 2), complex), "s": scipy.sparse.eye(3).tocsc(), "x": "text"}
    )
    assert read_variable(file, "x") == "text"
    for name, kind in (("c", "complex matrix of 1x2"), ("s", "sparse matrix of 3x3")):
        found = read_variable(file, name)
        assert isinstance(found, MatOther)
        assert describe(found) == kind


def test_a_variable_that_is_missing_is_told_with_those_that_are_there(read):
    with pytest.raises(SceneError, match=r"a\.mat: expected the variable y, got \['x'\]"):
        read(array(UINT8, (0, 0), element(2, b""), name=b"x"), name="y")


@pytest.mark.parametrize("start", [b"MATLAB 7.3 MAT-file, Platform", b"\x89HDF\r\n\x1a\n"])
def test_a_file_of_version_7_3_is_told_how_to_be_saved(tmp_path, start):
    (tmp_path / "a.mat").write_bytes(start.ljust(124) + b"\0\2IM" + bytes(600))
    with pytest.raises(SceneError, match=r"a\.mat: expected a MATLAB 5 file.*7\.3.*with -v7"):
        read_variable(tmp_path / "a.mat", "x")


ONE = element(2, b"\1")
INNER = array(UINT8, (1, 1), ONE)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (array(DOUBLE, (1, 2), ONE, name=b"x"), "expected 2 numbers of 1 bytes, got 1 bytes"),
        (array(DOUBLE, (1, 1), element(77, b"\1"), name=b"x"), "expected numbers, got an element"),
        (array(DOUBLE, (1, 1), name=b"x"), "expected numbers, got nothing"),
        (array(DOUBLE, (1, 1), ONE, ONE, name=b"x"), "expected the end of an array, got an el"),
        (array(DOUBLE, (1,), ONE, name=b"x"), r"expected the dimensions of an array, got \[1\]"),
        (array(DOUBLE, (1, -1), ONE, name=b"x"), "expected the dimensions of an array"),
        (array(DOUBLE, (2**30, 2**30), ONE, name=b"x"), "expected the dimensions of an array"),
        (array(DOUBLE, (0, 2**30, 2**30), ONE, name=b"x"), "expected the dimensions of an array"),
        (array(DOUBLE, (1,) * 17, ONE, name=b"x"), "expected dimensions of at most 64 bytes"),
        (array(18, (1, 1), ONE, name=b"x"), "expected the class of an array, got 18"),
        (array(CELL, (1, 2), INNER, name=b"x"), "expected nested array, got nothing"),
        (array(CELL, (1, 1), ONE, name=b"x"), "expected nested array, got an element of type 2"),
        (array(CHAR, (1, 2), element(2, b"abc"), name=b"x"), "expected text of 2 char.*, got 3"),
        (array(CHAR, (1, 2), element(16, b"\xff\xff"), name=b"x"), "expected text in utf-8"),
        (array(CHAR, (1, 1), element(4, b"\0\xd8"), name=b"x"), "expected text in utf-16"),
        (
            array(STRUCT, (1, 1), element(5, bytes(4)), element(1, b"ab"), name=b"x"),
            "expected field names of 2 bytes, got 0 for each",
        ),
        (
            array(STRUCT, (1, 1), element(5, b"\1\0\0\0"), element(1, b"aa"), name=b"x"),
            r"expected field names that differ, got \['a', 'a'\]",
        ),
        (element(5, bytes(8)), "expected an array, got an element of type 5"),
        (struct.pack("<HH", 2, 5) + bytes(4), "expected a small element of at most 4 bytes"),
        (b"\1\2\3", "expected at least 5 bytes more"),
        (element(14, b"")[:6], "expected at least 2 bytes more"),
    ],
)
def test_a_broken_element_is_one_error(read, part, message):
    with pytest.raises(SceneError, match=r"a\.mat: expected a whole MATLAB 5 file: .*" + message):
        read(part)


def test_a_variable_that_comes_twice_is_an_error(read):
    one = array(UINT8, (1, 1), ONE, name=b"x")
    with pytest.raises(SceneError, match="expected the variable 'x' once, got it twice"):
        read(one, one)


def packed(data):
    body = zlib.compress(data)
    return struct.pack("<II", 15, len(body)) + body


def test_a_compressed_part_is_one_array_and_whole(read):
    one = array(UINT8, (1, 1), ONE, name=b"x")
    assert read(packed(one)).tolist() == [[1]]
    wrong = bytearray(packed(one))
    wrong[-1] ^= 1
    long = packed(one) + b"\0"
    for part, message in (
        (packed(one + one), "expected one array in a compressed part, got more"),
        (packed(packed(one)), "expected an array, got an element of type 15"),
        (packed(b""), "expected an array, got an element of type 15"),
        (bytes(wrong), "incorrect data check"),
        (struct.pack("<II", 15, len(long) - 8) + long[8:], "part of the stated length"),
    ):
        with pytest.raises(SceneError, match=message):
            read(part)


def test_what_inflates_without_end_is_refused_early(read, monkeypatch):
    monkeypatch.setattr(mat5, "MAX_BYTES", 2**20)
    data = packed(bytes(2**26))
    tracemalloc.start()
    with pytest.raises(SceneError, match="expected at most 1048576 bytes after inflation"):
        read(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**23


def test_depth_and_number_of_arrays_have_a_limit(read, monkeypatch):
    nested = INNER
    for _ in range(mat5.MAX_DEPTH):
        nested = array(CELL, (1, 1), nested)
    with pytest.raises(SceneError, match="expected at most 16 levels of nested arrays"):
        read(array(CELL, (1, 1), nested, name=b"x"))
    monkeypatch.setattr(mat5, "MAX_ARRAYS", 5)
    with pytest.raises(SceneError, match="expected at most 5 arrays, got more"):
        read(array(CELL, (1, 5), *[element(14, b"")] * 5, name=b"x"))
    found = read(array(CELL, (1, 4), *[element(14, b"")] * 4, name=b"x"))
    assert [item.shape for item in found.items] == [(0, 0)] * 4


def test_a_file_that_is_too_long_is_not_read(read, monkeypatch):
    monkeypatch.setattr(mat5, "MAX_BYTES", 200)
    with pytest.raises(SceneError, match=r"a\.mat: expected at most 200 bytes, got more"):
        read(bytes(200))


@given(st.binary(max_size=400), st.booleans())
def test_any_bytes_behind_a_header_give_a_value_or_an_error(tmp_path_factory, data, compress):
    file = tmp_path_factory.getbasetemp() / "b.mat"
    file.write_bytes(HEADER + (packed(data) if compress else data))
    with pytest.raises(SceneError):
        read_variable(file, "x")


def test_every_change_of_a_byte_gives_a_value_or_an_error(tmp_path):
    kept = io.BytesIO()
    scipy.io.savemat(kept, {"x": to_mat([{"a": "text", "b": np.arange(6.0)}, "t"])})
    whole, refused = kept.getvalue(), 0
    for k in range(128, len(whole)):
        value = (0, 1, 127, 128, 255)[k % 5]
        (tmp_path / "a.mat").write_bytes(whole[:k] + bytes([value]) + whole[k + 1 :])
        try:
            read_variable(tmp_path / "a.mat", "x")
        except SceneError:
            refused += 1
    assert refused > len(whole) / 4
