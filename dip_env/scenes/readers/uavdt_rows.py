"""The rows of UAVDT's text files: nine integers, checked a column at a time.

Independent of folders and scenes. Every line is a row, so row i is line i + 1.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dip_env.checks import short
from dip_env.errors import SceneError
from dip_env.formats.files import read_lines, read_text

Kind = Literal["gt_whole", "gt", "gt_ignore"]
Ints = NDArray[np.int64]

FIELDS = ("frame", "target", "x", "y", "w", "h", "out_of_view", "occlusion", "category")
FRAME, TARGET, BOX, OUT_OF_VIEW, OCCLUSION, CATEGORY = 0, 1, slice(2, 6), 6, 7, 8

MOST_FRAMES = 999_999
"""Frames are named from img000001.jpg on."""

_LIMITS: Mapping[Kind, Mapping[int, tuple[int, int]]] = {
    "gt_whole": {OUT_OF_VIEW: (1, 3), OCCLUSION: (1, 4), CATEGORY: (1, 3)},
    "gt": {OUT_OF_VIEW: (1, 1), OCCLUSION: (1, 1), CATEGORY: (-1, -1)},
    "gt_ignore": {OUT_OF_VIEW: (1, 1), OCCLUSION: (-1, -1), CATEGORY: (-1, -1)},
}
_INTEGER = re.compile(r"-?[0-9]{1,9}")
# Possessive, as a good file never needs a second try: else the memory grows with the file.
_GOOD_TEXT = re.compile(r"(?:-?[0-9]{1,9}+(?:,-?[0-9]{1,9}+){8}+\n)*+")


def read_rows(file: Path, kind: Kind) -> Ints:
    """Read and check one file.

    Args:
        file: comma-separated values without a header; only one of ``gt_ignore`` may be empty.
        kind: which of the three files of a sequence.

    Returns:
        (N, 9) rows in the order of the file, columns as in ``FIELDS``; sides may be negative.

    Raises:
        SceneError: for the first row that is not nine integers, has a value out of range, or
            repeats a target of ``gt_whole`` or ``gt`` in a frame.
    """
    if kind == "gt_ignore" and file.is_file() and not file.stat().st_size:
        return np.zeros((0, len(FIELDS)), np.int64)
    text = read_text(file)
    text = text if text.endswith("\n") else text + "\n"
    if not _GOOD_TEXT.fullmatch(text):
        raise _first_bad_line(file)
    rows = np.fromstring(text.replace("\n", ","), np.int64, sep=",").reshape(-1, len(FIELDS))
    _check_values(file, rows, {FRAME: (1, MOST_FRAMES), **_LIMITS[kind]})
    if kind != "gt_ignore":
        _check_pairs(file, rows)
    return rows


def _first_bad_line(file: Path) -> SceneError:
    """Return an error with line and field of the first row that is not nine integers."""
    for number, line in enumerate(read_lines(file), start=1):
        where, values = f"{file}: line {number}", line.split(",")
        if len(values) != len(FIELDS):
            return SceneError(
                f"{where}: expected {len(FIELDS)} integers {','.join(FIELDS)}, got {short(line)}"
            )
        for field, value in zip(FIELDS, values, strict=True):
            if not _INTEGER.fullmatch(value):
                return SceneError(
                    f"{where}: {field}: expected an integer of at most 9 digits, got {short(value)}"
                )
    return SceneError(f"{file}: expected lines of {len(FIELDS)} integers; it changed while read")


def _check_values(file: Path, rows: Ints, limits: Mapping[int, tuple[int, int]]) -> None:
    """Require the values of some columns to be in their ranges, both ends included."""
    columns = list(limits)
    low, high = np.array(list(limits.values())).T
    bad = (rows[:, columns] < low) | (rows[:, columns] > high)
    if bad.any():
        row, k = np.argwhere(bad)[0]
        expected = str(low[k]) if low[k] == high[k] else f"{low[k]} to {high[k]}"
        value = rows[row, columns[k]]
        raise SceneError(
            f"{file}: line {row + 1}: {FIELDS[columns[k]]}: expected {expected}, got {value}"
        )


def _check_pairs(file: Path, rows: Ints) -> None:
    """Require that no target repeats in a frame."""
    key = rows[:, FRAME] * 10**9 + rows[:, TARGET]
    order = np.argsort(key, kind="stable")
    again = np.flatnonzero(np.diff(key[order]) == 0)
    if again.size:
        k = again[np.argmin(order[again + 1])]
        first, second = order[k], order[k + 1]
        frame, target = rows[second, [FRAME, TARGET]]
        raise SceneError(
            f"{file}: line {second + 1}: expected a target once in a frame, got target {target} of "
            f"frame {frame} as in line {first + 1}"
        )
