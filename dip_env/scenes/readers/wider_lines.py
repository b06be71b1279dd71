"""The lines of the WIDER Pedestrian challenge: an image, then its boxes, in two formats.

Independent of folders and scenes. Every line of a file names another image.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dip_env.boxes import box_area
from dip_env.checks import short
from dip_env.errors import SceneError
from dip_env.formats.files import check_file_name, read_lines
from dip_env.scenes.readers.box_checks import xywh_to_xyxy

CLASSES = ("pedestrian", "cyclist")
"""What the labels 1 and 2 of 2018 mean."""
YEARS = (2018, 2019)
FIELDS = {2018: ("label", "x", "y", "w", "h"), 2019: ("x", "y", "w", "h")}
"""The fields of a box; ignore regions have those of 2019 in both years."""

Lines = Mapping[str, list[str]]
"""Image and numbers of every line, as text, in the order of the file."""
Ints = NDArray[np.int64]

_PREFIXES = {"img": 2018, "sur": 2019, "ad": 2019}
_INTEGER = re.compile(r"-?[0-9]{1,9}")
_FILE_NAME = re.compile(r"([A-Za-z]*)[^/\\]*\.[A-Za-z]+")


def read_named_lines(file: Path) -> Lines:
    """Return image and numbers of every line; no number is parsed yet."""
    lines: dict[str, list[str]] = {}
    for number, line in enumerate(read_lines(file), start=1):
        name, *numbers = line.split() or [""]
        where = f"{file}: line {number}: name"
        if not _FILE_NAME.fullmatch(check_file_name(name, where)):
            raise SceneError(
                f"{where}: expected an image file such as img00001.jpg, got {short(name)}"
            )
        if name in lines:
            first = list(lines).index(name) + 1
            raise SceneError(f"{where}: expected a new image, got {short(name)} of line {first}")
        lines[name] = numbers
    return lines


def tell_year(file: Path, lines: Lines) -> int:
    """Return the year on which names and numbers of the lines agree.

    Args:
        file: for the message.
        lines: what it holds.

    Returns:
        2018 or 2019.

    Raises:
        SceneError: where they disagree or are ambiguous.
    """
    # The first line that fits one year only, by its numbers and by its name.
    by_numbers: dict[int, int] = {}
    by_name: dict[int, int] = {}
    for number, (name, numbers) in enumerate(lines.items(), start=1):
        fits = [len(numbers) % 5 == 0 and {*numbers[::5]} <= {"1", "2"}, len(numbers) % 4 == 0]
        if sum(fits) == 1:
            by_numbers.setdefault(YEARS[fits.index(True)], number)
        match = _FILE_NAME.fullmatch(name)
        if match and match[1] in _PREFIXES:
            by_name.setdefault(_PREFIXES[match[1]], number)
    years = {*by_numbers, *by_name}
    if len(years) == 1:
        return years.pop()
    if not years:
        raise SceneError(
            f"{file}: expected lines of 2018 (label x y w h) or of 2019 (x y w h), got lines that "
            "fit both or neither; say which with year="
        )
    found = [
        f"line {by[year]} has {what} of {year}"
        for by, what in ((by_numbers, "numbers"), (by_name, "a name"))
        for year in sorted(by)
    ]
    raise SceneError(
        f"{file}: expected lines of one year, but {', '.join(found)}; mend the line, or say which "
        "with year="
    )


def read_names(file: Path) -> list[str]:
    """Return the images of a list file."""
    lines = read_named_lines(file)
    for number, (name, numbers) in enumerate(lines.items(), start=1):
        if numbers:
            raise SceneError(
                f"{file}: line {number}: expected one name, got {len(numbers)} more after {name!r}"
            )
    return list(lines)


def box_rows(file: Path, lines: Lines, year: int, names: list[str]) -> Ints:
    """Parse and check the boxes of all lines.

    Args:
        file: for the message.
        lines: what it holds.
        year: whose format the lines have.
        names: all images.

    Returns:
        (N, 7) index of the image, number of the line, index into the labels, x, y, w, h.

    Raises:
        SceneError: for the first line of another format.
    """
    fields = FIELDS[year]
    index_of = {name: index for index, name in enumerate(names)}
    heads: list[tuple[int, int]] = []
    values: list[int] = []
    for number, (name, numbers) in enumerate(lines.items(), start=1):
        where = f"{file}: line {number}"
        if name not in index_of:
            raise SceneError(f"{where}: name: expected an image of the set, got {short(name)}")
        if len(numbers) % len(fields):
            form = " ".join(fields)
            raise SceneError(f"{where}: expected ({form}) per box, got {len(numbers)} numbers")
        for k, text in enumerate(numbers):
            if not _INTEGER.fullmatch(text):
                field = f"box {k // len(fields)}: {fields[k % len(fields)]}"
                raise SceneError(
                    f"{where}: {field}: expected an integer of at most 9 digits, got {short(text)}"
                )
        if year == 2018 and not {*numbers[::5]} <= {"1", "2"}:
            wrong = next(text for text in numbers[::5] if text not in ("1", "2"))
            raise SceneError(
                f"{where}: label: expected 1 (pedestrian) or 2 (cyclist), got {wrong!r}"
            )
        heads += [(index_of[name], number)] * (len(numbers) // len(fields))
        values += map(int, numbers)
    boxes = np.array(values, np.int64).reshape(-1, len(fields))
    label = boxes[:, 0] - 1 if year == 2018 else np.zeros(len(boxes), np.int64)
    head = np.array(heads, np.int64).reshape(-1, 2)
    return np.column_stack([head, label, boxes[:, -4:]])


def covered_people(people: Ints, regions: Ints) -> NDArray[np.bool_]:
    """Return who is more than half covered by ignore regions, by the challenge's scorer.

    Args:
        people: (N, 7) rows as ``box_rows`` returns them.
        regions: (M, 7) likewise; those of an image in any order.

    Returns:
        (N,) True where the sum of the areas shared with each region of the image, minus 0.01, is
        more than half of the person's area.
    """
    regions = regions[np.argsort(regions[:, 0], kind="stable")]
    a, b = xywh_to_xyxy(people[:, 3:]), xywh_to_xyxy(regions[:, 3:])
    # Pair each person with all regions of its image, which are now contiguous.
    start = np.searchsorted(regions[:, 0], people[:, 0], "left")
    end = np.searchsorted(regions[:, 0], people[:, 0], "right")
    count = end - start
    person = np.repeat(np.arange(len(people)), count)
    region = np.arange(len(person)) + np.repeat(end - np.cumsum(count), count)
    sides = np.minimum(a[person, 2:], b[region, 2:]) - np.maximum(a[person, :2], b[region, :2])
    shared = np.bincount(person, np.maximum(sides, 0).prod(axis=1), minlength=len(people))
    return np.asarray(shared - 0.01 > 0.5 * box_area(a))
