"""CityPersons' annotation files, read as they are. Independent of scenes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dip_env.checks import short
from dip_env.errors import SceneError
from dip_env.formats.files import check_file_name, find_files, is_xywh, parse_json, read_text
from dip_env.formats.mat5 import MatCell, MatStruct, MatValue, describe, read_variable

CLASSES = (
    "ignore region",
    "pedestrian",
    "rider",
    "sitting person",
    "person (other)",
    "person group",
)
"""Class names by their number in the MATLAB file."""

_JSON_LABELS = {name: k for k, name in enumerate(("ignore", *CLASSES[1:]))}
_JSON_END = "_gtBboxCityPersons"
_IMAGE_END = "_leftImg8bit"
_COLUMNS = ("class", "x1", "y1", "w", "h", "instance_id", "x1_vis", "y1_vis", "w_vis", "h_vis")
_SIDES = ("imgWidth", "imgHeight")
_WHOLE = "whole numbers below 1e9 in size"


@dataclass
class Annotations:
    """Contents of the files, image after image.

    Args:
        fields: names of the full and the visible box of row {} within an image.
        files: image file of each, ``<city>/<name>``.
        locations: where each image is annotated, for messages.
        sizes: width and height of each in pixels, (0, 0) where not stated.
        parts: rows of each: class, full xywh, visible xywh, float64 (n, 9).
        known: location of each image by its name.
        other_files: number of files that were passed over.
    """

    fields: tuple[str, str]
    files: list[str] = field(default_factory=list)
    locations: list[str] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    parts: list[NDArray[np.float64]] = field(default_factory=list)
    known: dict[str, str] = field(default_factory=dict)
    other_files: int = 0

    def add(self, city: str, image: str, rows: Any, location: str, size: tuple[int, int]) -> None:
        """Add one image; raises SceneError for a duplicate."""
        name = Path(image).stem.removesuffix(_IMAGE_END)
        if name in self.known:
            raise SceneError(
                f"{location}: expected a new image, got {name!r} of {self.known[name]}"
            )
        self.known[name] = location
        self.files.append(f"{city}/{image}")
        self.locations.append(location)
        self.sizes.append(size)
        self.parts.append(np.asarray(rows, np.float64).reshape(-1, 9))

    @property
    def rows(self) -> NDArray[np.float64]:
        """All rows, (N, 9)."""
        return np.vstack([np.zeros((0, 9)), *self.parts])

    def where(self, which: int) -> Callable[[int], str]:
        """Return a function to the location of a row's full (0) or visible (1) box."""
        ends = np.cumsum([len(part) for part in self.parts])

        def where(row: int) -> str:
            image = int(np.searchsorted(ends, row, side="right"))
            k = row - int(ends[image]) + len(self.parts[image])
            return self.locations[image] + self.fields[which].format(k)

        return where


def read_mat(file: Path, key: str) -> Annotations:
    """Read the cells of a MATLAB file, one an image.

    Args:
        file: the file.
        key: its variable, ``anno_train_aligned`` or ``anno_val_aligned``.

    Returns:
        All images in the order of the file; no sizes.

    Raises:
        SceneError: for a file that is missing, damaged, or of another structure.
    """
    cells = read_variable(file, key)
    if not isinstance(cells, MatCell) or len(cells.shape) != 2 or cells.shape[0] != 1:
        raise SceneError(f"{file}: {key}: expected a row of cells, got {describe(cells)}")
    if not cells.items:
        raise SceneError(f"{file}: {key}: expected a row of cells, got none")
    read = Annotations((".bbs[{}]: box", ".bbs[{}]: visible box"))
    for k, cell in enumerate(cells.items):
        location = f"{file}: {key}[{k}]"
        if (
            not isinstance(cell, MatStruct)
            or not {"cityname", "im_name", "bbs"} <= cell.fields.keys()
            or cell.shape != (1, 1)
        ):
            raise SceneError(
                f"{location}: expected a struct of cityname, im_name and bbs, got {describe(cell)}"
            )
        ((city,), (image,), (bbs,)) = (cell.fields[n] for n in ("cityname", "im_name", "bbs"))
        rows = _mat_rows(bbs, f"{location}.bbs")
        read.add(
            _mat_name(city, f"{location}.cityname"),
            _mat_name(image, f"{location}.im_name"),
            np.delete(rows, 5, axis=1),
            location,
            (0, 0),
        )
    return read


def _mat_name(value: MatValue, where: str) -> str:
    """Return a MATLAB string that is one component of a path."""
    if not isinstance(value, str):
        raise SceneError(f"{where}: expected a name, got {describe(value)}")
    name = check_file_name(value, where)
    if name == "." or "/" in name or "\\" in name:
        raise SceneError(f"{where}: expected a name without folders, got {short(name)}")
    return name


def _mat_rows(value: MatValue, where: str) -> NDArray[np.float64]:
    """Return the (n, 10) rows of an image, with a known class each.

    The columns have the smallest type that holds an image's numbers, uint8 or int16, whose sums
    could overflow.
    """
    if not isinstance(value, np.ndarray):
        raise SceneError(f"{where}: expected a matrix of numbers, got {describe(value)}")
    if value.size == 0:
        return np.zeros((0, 10))
    if value.ndim != 2 or value.shape[1] != len(_COLUMNS):
        raise SceneError(f"{where}: expected rows of {', '.join(_COLUMNS)}, got {value.shape}")
    rows = value.astype(np.float64)
    bad = np.argwhere(~((np.abs(rows) < 1e9) & (rows == np.trunc(rows))))
    for row, column in bad[:1]:
        got = value[row, column]
        raise SceneError(f"{where}[{row}]: {_COLUMNS[column]}: expected {_WHOLE}, got {got}")
    for row in np.flatnonzero((rows[:, 0] < 0) | (rows[:, 0] >= len(CLASSES)))[:1]:
        raise SceneError(f"{where}[{row}]: class: expected 0 to 5, got {value[row, 0]}")
    return rows


def read_tree(folder: Path) -> Annotations:
    """Read a folder of cities with a json file an image.

    Args:
        folder: ``gtBboxCityPersons/<split>``.

    Returns:
        All images in the order of their names, with sizes; all other files below the folder are
        counted, but for hidden ones.

    Raises:
        SceneError: for an empty folder, or a file of another structure.
    """
    files = find_files(folder, "*/*.json")
    if not files:
        raise SceneError(f"{folder}: expected <city>/*{_JSON_END}.json, found none")
    read = Annotations((": objects[{}].bbox", ": objects[{}].bboxVis"))
    read.other_files = sum(map(Path.is_file, find_files(folder, "**/*"))) - len(files)
    for file in files:
        if not file.stem.endswith(_JSON_END):
            raise SceneError(f"{file}: expected a name that ends with {_JSON_END}.json")
        data = parse_json(read_text(file), str(file))
        if not isinstance(data, dict) or not isinstance(data.get("objects"), list):
            raise SceneError(f"{file}: expected an object with a list of objects")
        width, height = (_side(data.get(name), f"{file}: {name}") for name in _SIDES)
        rows = [_json_row(row, f"{file}: objects[{k}]") for k, row in enumerate(data["objects"])]
        image = f"{file.stem.removesuffix(_JSON_END)}{_IMAGE_END}.png"
        read.add(file.parent.name, image, rows, str(file), (width, height))
    return read


def _side(value: Any, where: str) -> int:
    """Return a side of an image in pixels."""
    if type(value) is not int or not 0 < value < 1e9:
        raise SceneError(f"{where}: expected a whole number of pixels above 0, got {short(value)}")
    return value


def _json_row(row: Any, where: str) -> list[float]:
    """Return class, full and visible xywh of an object."""
    if not isinstance(row, dict):
        raise SceneError(f"{where}: expected an object, got {short(row)}")
    label = row.get("label")
    if not isinstance(label, str) or label not in _JSON_LABELS:
        raise SceneError(f"{where}.label: expected one of {list(_JSON_LABELS)}, got {short(label)}")
    for name in ("bbox", "bboxVis"):
        box: Any = row.get(name)
        if not is_xywh(box) or any(v % 1 for v in box):
            raise SceneError(f"{where}.{name}: expected [x, y, w, h], {_WHOLE}, got {short(box)}")
    return [_JSON_LABELS[label], *row["bbox"], *row["bboxVis"]]
