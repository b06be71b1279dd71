"""Variables of MATLAB 5 files (``save -v6`` or ``-v7``), read within bounds.

Independent of what the variables mean. The format nests elements that state their own length. Here
each must lie inside the one around it, and sizes, depth and memory have limits, since a reader that
trusts the stated lengths (scipy's is one) can be brought to crash the interpreter by one wrong bit.
Source: "MAT-File Format" by The MathWorks, version 5.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from dip_env.checks import short
from dip_env.errors import SceneError
from dip_env.formats.files import read_bytes

MAX_BYTES = 2**26
"""Longest file, and most bytes that its compressed variables may hold together."""
MAX_ARRAYS = 2**18
"""Most arrays of a variable, nested ones included."""
MAX_DEPTH, MAX_DIMENSIONS, MAX_FIELDS = 16, 16, 1024

_HEADER = 128
_INT8, _UINT8, _INT32, _UINT32, _MATRIX, _COMPRESSED = 1, 2, 5, 6, 14, 15
_DTYPES = {
    **{1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4"},
    **{9: "f8", 12: "i8", 13: "u8"},
}
"""NumPy's type of numbers by the type of an element."""
_ENCODINGS = {1: "utf-8", 2: "utf-8", 16: "utf-8", 4: "utf-16", 17: "utf-16"}
"""Encoding of text by the type of an element."""
_CELL, _STRUCT, _CHAR, _NUMBERS = 1, 2, 4, range(6, 16)
_COMPLEX = 0x0800
_OTHER = {3: "object", 5: "sparse matrix", 16: "function", 17: "opaque object"}


@dataclass(frozen=True, eq=False)
class MatCell:
    """A cell array; ``items`` column by column, as MATLAB numbers them."""

    shape: tuple[int, ...]
    items: tuple[MatValue, ...]

    def __str__(self) -> str:
        """Return kind and shape, for messages."""
        return f"cells of {_by(self.shape)}"


@dataclass(frozen=True, eq=False)
class MatStruct:
    """An array of structs; ``fields`` has the items of each field, column by column."""

    shape: tuple[int, ...]
    fields: dict[str, tuple[MatValue, ...]]

    def __str__(self) -> str:
        """Return kind, shape and fields, for messages."""
        return f"structs of {_by(self.shape)} with {', '.join(self.fields) or 'no fields'}"


@dataclass(frozen=True, eq=False)
class MatOther:
    """An array of a kind that is not read."""

    shape: tuple[int, ...]
    kind: str

    def __str__(self) -> str:
        """Return kind and shape, for messages."""
        return f"{self.kind} of {_by(self.shape)}"


MatValue: TypeAlias = "NDArray[np.generic] | str | MatCell | MatStruct | MatOther"
"""Numbers (in the type that they are stored in), one line of text, or one of the classes above."""


def read_variable(file: Path, name: str) -> MatValue:
    """Read one variable of a file.

    Args:
        file: of MATLAB 5, compressed or not, of either byte order.
        name: of the variable.

    Returns:
        Its value; an empty array is a matrix of numbers without rows.

    Raises:
        SceneError: for a file that is missing, damaged, too large or of another format, and for a
            variable that is missing or comes twice.
    """
    data = read_bytes(file, MAX_BYTES)
    if data.startswith((b"MATLAB 7.3", b"\x89HDF")):
        raise SceneError(
            f"{file}: expected a MATLAB 5 file, got one of version 7.3 (HDF5): load it in MATLAB "
            "and save it with -v7"
        )
    try:
        found = _find(data, name)
    except (_DamagedError, zlib.error) as err:
        raise SceneError(f"{file}: expected a whole MATLAB 5 file: {err}") from None
    if isinstance(found, list):
        raise SceneError(f"{file}: expected the variable {name}, got {short(found)}")
    return found


def describe(value: MatValue) -> str:
    """Return what a value is, short enough for a message."""
    if isinstance(value, np.ndarray):
        return f"numbers of {_by(value.shape)}"
    return f"text {short(value)}" if isinstance(value, str) else str(value)


class _DamagedError(Exception):
    """The file is damaged; says what was expected and what came."""


def _find(data: bytes, name: str) -> MatValue | list[str]:
    """Return the value of a variable, or the names of all where it is missing."""
    marks = {b"IM": "<", b"MI": ">"}
    order = marks.get(data[_HEADER - 2 : _HEADER])
    if order is None:
        raise _DamagedError(f"no such header in its {len(data)} bytes")
    version = struct.unpack_from(f"{order}H", data, _HEADER - 4)[0]
    if version != 0x0100:
        raise _DamagedError(f"expected version 0x0100 in the header, got {version:#06x}")
    reader, found = _Reader(order), None
    names: dict[str, None] = {}
    for body in reader.variables(memoryview(data)[_HEADER:]):
        array = reader.open(body)
        if array.name in names:
            raise _DamagedError(f"expected the variable {short(array.name)} once, got it twice")
        names[array.name] = None
        if array.name == name:
            found = reader.value(array, MAX_DEPTH)
    return list(names) if found is None else found


@dataclass(frozen=True)
class _Array:
    """The head of an array, and its further elements (type and contents)."""

    kind: int
    complex: bool
    shape: tuple[int, ...]
    name: str
    rest: Iterator[tuple[int, memoryview]]

    @property
    def count(self) -> int:
        return math.prod(self.shape)


class _Reader:
    """Reads elements of one file and counts what it has read of the limits.

    Args:
        order: byte order, ``<`` or ``>``.
    """

    def __init__(self, order: str) -> None:
        self.order = order
        self.bytes_left, self.arrays_left = MAX_BYTES, MAX_ARRAYS

    def variables(self, data: memoryview) -> Iterator[memoryview]:
        """Yield the contents of the variables, inflated one by one."""
        for kind, body in self._elements(data):
            if kind == _COMPRESSED:
                inner = self._elements(memoryview(self._inflate(body)))
                kind, body = next(inner, (_COMPRESSED, body))
                if next(inner, None):
                    raise _DamagedError("expected one array in a compressed part, got more")
            if kind != _MATRIX:
                raise _DamagedError(f"expected an array, got an element of type {kind}")
            yield body

    def _inflate(self, body: memoryview) -> bytes:
        """Return the contents of a compressed part whose checksum is right."""
        stream = zlib.decompressobj()
        data = stream.decompress(body, self.bytes_left + 1)
        self.bytes_left -= len(data)
        if self.bytes_left < 0:
            raise _DamagedError(f"expected at most {MAX_BYTES} bytes after inflation, got more")
        if not stream.eof or stream.unused_data:
            raise _DamagedError("expected a compressed part of the stated length")
        return data

    def _elements(self, data: memoryview) -> Iterator[tuple[int, memoryview]]:
        """Yield type and contents of the elements side by side."""
        at = 0
        while at < len(data):
            if at + 8 > len(data):
                raise _DamagedError(f"expected at least {at + 8 - len(data)} bytes more")
            kind, size = struct.unpack_from(f"{self.order}II", data, at)
            start = at + 8
            if kind >> 16:  # up to 4 bytes stand in the place of the length
                kind, size, start = kind & 0xFFFF, kind >> 16, at + 4
                if size > 4:
                    raise _DamagedError(f"expected a small element of at most 4 bytes, got {size}")
            end = start + size
            if end > len(data):
                raise _DamagedError(f"expected at least {end - len(data)} bytes more")
            yield kind, data[start:end]
            at = end if kind == _COMPRESSED else -(-end // 8) * 8

    def open(self, body: memoryview) -> _Array:
        """Read the head of an array."""
        self.arrays_left -= 1
        if self.arrays_left < 0:
            raise _DamagedError(f"expected at most {MAX_ARRAYS} arrays, got more")
        if not len(body):  # what an unset cell holds: an empty matrix
            empty = iter([(_UINT8, memoryview(b""))])
            return _Array(_NUMBERS[0], False, (0, 0), "", empty)
        rest = self._elements(body)
        flags = self._integers(rest, _UINT32, 2, "flags")
        shape = self._integers(rest, _INT32, MAX_DIMENSIONS, "dimensions")
        name = self._ascii(rest, "name")
        sides = math.prod(side for side in shape if side)
        if len(shape) < 2 or min(shape) < 0 or sides > MAX_BYTES:
            raise _DamagedError(f"expected the dimensions of an array, got {short(shape)}")
        return _Array(flags[0] & 0xFF, bool(flags[0] & _COMPLEX), tuple(shape), name, rest)

    def value(self, array: _Array, depth: int) -> MatValue:
        """Read an array and what is nested in it, ``depth`` levels at most."""
        made: MatValue
        if array.complex or array.kind in _OTHER:
            return MatOther(array.shape, _OTHER.get(array.kind, "complex matrix"))
        if array.kind == _CELL:
            made = MatCell(array.shape, self._items(array, array.count, depth))
        elif array.kind == _STRUCT:
            made = self._struct(array, depth)
        elif array.kind == _CHAR:
            made = self._text(array)
        elif array.kind in _NUMBERS:
            made = self._numbers(array)
        else:
            raise _DamagedError(f"expected the class of an array, got {array.kind}")
        if not isinstance(made, MatOther) and (more := next(array.rest, None)):
            raise _DamagedError(f"expected the end of an array, got an element of type {more[0]}")
        return made

    def _items(self, array: _Array, count: int, depth: int) -> tuple[MatValue, ...]:
        if not depth:
            raise _DamagedError(f"expected at most {MAX_DEPTH} levels of nested arrays, got more")
        bodies = (self._next(array.rest, (_MATRIX,), "nested array")[1] for _ in range(count))
        return tuple(self.value(self.open(body), depth - 1) for body in bodies)

    def _struct(self, array: _Array, depth: int) -> MatStruct:
        (length,) = self._integers(array.rest, _INT32, 1, "length of field names")
        text = self._next(array.rest, (_INT8,), "field names")[1].tobytes()
        if length < 1 or len(text) % length or len(text) > length * MAX_FIELDS:
            raise _DamagedError(f"expected field names of {len(text)} bytes, got {length} for each")
        starts = range(0, len(text), length)
        names = [_decode(text[at : at + length].split(b"\0")[0], "ascii") for at in starts]
        if len(set(names)) != len(names):
            raise _DamagedError(f"expected field names that differ, got {short(names)}")
        items = self._items(array, array.count * len(names), depth)
        return MatStruct(array.shape, {n: items[k :: len(names)] for k, n in enumerate(names)})

    def _numbers(self, array: _Array) -> NDArray[np.generic]:
        kind, data = self._next(array.rest, tuple(_DTYPES), "numbers")
        dtype = np.dtype(self.order + _DTYPES[kind])
        if len(data) != array.count * dtype.itemsize:
            raise _DamagedError(
                f"expected {array.count} numbers of {dtype.itemsize} bytes, got {len(data)} bytes"
            )
        stored = np.frombuffer(data, dtype).reshape(array.shape, order="F")
        return stored.astype(dtype.newbyteorder("="))

    def _text(self, array: _Array) -> str | MatOther:
        if len(array.shape) != 2 or array.shape[0] > 1:
            return MatOther(array.shape, "text")
        kind, data = self._next(array.rest, tuple(_ENCODINGS), "text")
        ends = {"<": "-le", ">": "-be"}[self.order] if _ENCODINGS[kind] == "utf-16" else ""
        text = _decode(data.tobytes(), _ENCODINGS[kind] + ends)
        if len(text) != array.count:
            raise _DamagedError(f"expected text of {array.count} characters, got {len(text)}")
        return text

    def _integers(
        self, rest: Iterator[tuple[int, memoryview]], kind: int, most: int, what: str
    ) -> list[int]:
        data = self._next(rest, (kind,), what)[1]
        if not data or len(data) % 4 or len(data) > 4 * most:
            raise _DamagedError(f"expected {what} of at most {4 * most} bytes, got {len(data)}")
        return [int(value) for value in np.frombuffer(data, self.order + _DTYPES[kind])]

    def _ascii(self, rest: Iterator[tuple[int, memoryview]], what: str) -> str:
        return _decode(self._next(rest, (_INT8,), what)[1].tobytes(), "ascii")

    def _next(
        self, rest: Iterator[tuple[int, memoryview]], kinds: tuple[int, ...], what: str
    ) -> tuple[int, memoryview]:
        """Return the next element, which has to be of one of some types."""
        kind, data = next(rest, (None, memoryview(b"")))
        if kind not in kinds:
            came = "nothing" if kind is None else f"an element of type {kind}"
            raise _DamagedError(f"expected {what}, got {came}")
        return kind, data


def _decode(data: bytes, encoding: str) -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as err:
        raise _DamagedError(f"expected text in {encoding}: {err.reason}") from None


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
