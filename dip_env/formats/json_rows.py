"""Lists of objects in a json file as checked columns. Independent of formats.

A detector's file has hundreds of thousands of rows. Each key is read as one column and checked at
the speed of C; only a column that fails is checked row by row, to name the row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import itemgetter
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from dip_env.checks import short
from dip_env.errors import SceneError
from dip_env.formats.box_sets import Floats, Indices

LIMIT = 1e9
"""Coordinates stay below this, so that no area leaves the range of a double."""

NEEDED: Any = object()
"""Marks a required key in place of its defaults."""

Column = TypeVar("Column")


@dataclass(frozen=True)
class Rows:
    """Objects of a list in a file.

    Args:
        rows: the objects.
        indices: index of each in the list.
        file: name of the file in messages.
        name: of the list in the file.
    """

    rows: list[dict[str, Any]]
    indices: Sequence[int]
    file: str
    name: str

    @classmethod
    def of(cls, rows: Any, file: str, name: str) -> Rows:
        """Require a list of objects."""
        if not isinstance(rows, list):
            came = "nothing" if rows is None else short(rows)
            raise SceneError(f"{file}: {name}: expected a list of objects, got {came}")
        if not set(map(type, rows)) <= {dict}:
            k = next(k for k, row in enumerate(rows) if type(row) is not dict)
            raise SceneError(f"{file}: {name}[{k}]: expected an object, got {short(rows[k])}")
        return cls(rows, range(len(rows)), file, name)

    def having(self, key: str) -> Rows:
        """Return the rows that have a key."""
        indices = [k for k, row in enumerate(self.rows) if key in row]
        return Rows([self.rows[k] for k in indices], indices, self.file, self.name)

    def column(
        self,
        key: str,
        parse: Callable[[list[Any]], Column | None],
        expected: str,
        defaults: Any = NEEDED,
    ) -> Column:
        """Return a checked column.

        Args:
            key: name of the field.
            parse: returns the column, or None if any value is invalid; a value is invalid by itself
                exactly if it invalidates a column.
            expected: what a value should be.
            defaults: values for rows without the key, one per row; without them it is required.
        """
        if defaults is NEEDED:
            try:
                values = list(map(itemgetter(key), self.rows))
            except KeyError:
                k = next(k for k, row in enumerate(self.rows) if key not in row)
                raise self.error(k, key, f"expected {expected}, got nothing") from None
        else:
            values = [row.get(key, other) for row, other in zip(self.rows, defaults, strict=True)]
        column = parse(values)
        if column is None:
            k = next(k for k, value in enumerate(values) if parse([value]) is None)
            raise self.error(k, key, f"expected {expected}, got {short(values[k])}")
        return column

    def check_differ(self, key: str, values: Sequence[Any]) -> None:
        """Require distinct values."""
        if len(set(values)) == len(values):
            return
        first: dict[Any, int] = {}
        for k, value in enumerate(values):
            if value in first:
                came = f"{short(value)} as in {self.name}[{self.indices[first[value]]}]"
                raise self.error(k, key, f"expected ids that differ, got {came}")
            first[value] = k

    def error(self, k: int, key: str, message: str) -> SceneError:
        """Return an error about one field."""
        return SceneError(f"{self.file}: {self.name}[{self.indices[k]}].{key}: {message}")


def identifiers(values: list[Any]) -> list[int | str] | None:
    """Accept integers and strings."""
    return values if set(map(type, values)) <= {int, str} else None


def strings(values: list[Any]) -> list[str] | None:
    """Accept strings."""
    return values if set(map(type, values)) <= {str} else None


def flags(values: list[Any]) -> NDArray[np.bool_] | None:
    """Accept 0, 1 and json's true and false."""
    fine = set(map(type, values)) <= {int, bool} and set(values) <= {0, 1}
    return np.array(values, dtype=bool) if fine else None


def integers(values: list[Any]) -> Indices | None:
    """Accept integers of 64 bits."""
    if not set(map(type, values)) <= {int}:
        return None
    try:
        return np.array(values, dtype=np.int64)
    except OverflowError:
        return None


def sides(values: list[Any]) -> Floats | None:
    """Accept the sides of an image: integers >= 1 below ``LIMIT``."""
    column = integers(values)
    if column is None or not np.all((column >= 1) & (column < LIMIT)):
        return None
    return column.astype(np.float64)


def numbers(values: list[Any]) -> Floats | None:
    """Accept finite numbers."""
    if not set(map(type, values)) <= {int, float}:
        return None
    try:
        column = np.array(values, dtype=np.float64)
    except OverflowError:
        return None
    return column if np.isfinite(column).all() else None


def amounts(values: list[Any]) -> Floats | None:
    """Accept finite numbers >= 0."""
    column = numbers(values)
    return column if column is not None and np.all(column >= 0) else None


def boxes(values: list[Any]) -> Floats | None:
    """Accept lists [x, y, width, height] of finite numbers below ``LIMIT``, sides >= 0."""
    xywh = signed_boxes(values)
    return xywh if xywh is not None and np.all(xywh[:, 2:] >= 0) else None


def signed_boxes(values: list[Any]) -> Floats | None:
    """Accept lists [x, y, width, height] of finite numbers below ``LIMIT`` in size."""
    if not (set(map(type, values)) <= {list} and set(map(len, values)) <= {4}):
        return None
    column = numbers(list(chain.from_iterable(values)))
    if column is None or not np.all(np.abs(column) < LIMIT):
        return None
    return column.reshape(-1, 4)
