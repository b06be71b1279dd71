"""Scenes from CrowdHuman's .odgt files: one JSON object a line, one line an image."""

from __future__ import annotations

import re
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dip_env.boxes import box_area
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
)
from dip_env.scenes.readers.arguments import check_arguments
from dip_env.scenes.readers.base import DatasetScenes
from dip_env.scenes.readers.box_checks import (
    BadBoxes,
    boxes_with_area,
    check_boxes,
    xywh_to_xyxy,
)
from dip_env.scenes.readers.images import DEFAULT_MAX_PIXELS, ExifRotation, ImageOptions
from dip_env.scenes.readers.table import AnnotationTable

BoxKind = Literal["full", "visible", "head"]
"""Which of a person's three boxes is the target."""

# The target box comes first; the second one serves to compute the visible share.
_FIELDS: Mapping[str, tuple[str, ...]] = {
    "full": ("fbox", "vbox"),
    "visible": ("vbox", "fbox"),
    "head": ("hbox",),
}
_ALL_FIELDS = ("fbox", "vbox", "hbox")
_TAGS = ("person", "mask")
_KEYS = {"ignore", "occ", "unsure", "box_id"}
"""Keys of ``extra`` and ``head_attr``."""


class CrowdHumanScenes(DatasetScenes):
    """CrowdHuman as scenes.

    Full boxes are amodal and kept as annotated: they may begin left of the image and end below it.
    The visible share is the area of ``vbox`` over that of ``fbox``; heads have no visible box, so
    a head is taken to be fully visible. Ignored are ``mask`` regions (crowds, reflections,
    posters), persons with ``extra.ignore``, and with ``boxes="head"`` also those with
    ``head_attr.ignore``, which does not refer to the body. A line without boxes is a scene without
    people. Images have no size in the file; it is read from their headers, on use. CrowdHuman is
    for non-commercial research and education only, under its own terms. Layout, the archives
    unzipped in one folder (or as they unpack: ``CrowdHuman_train01/Images`` to
    ``CrowdHuman_train03/Images`` together, ``CrowdHuman_val/Images``; also ``images``)::

        root/annotation_train.odgt    root/annotation_val.odgt
        root/Images/273271,c9db000d5146c15.jpg    (or .png)

    ``counts`` holds ``persons`` and ``masks`` as in the file; of the persons, those ignored by
    ``extra.ignore`` (``ignored_persons``) and only by ``head_attr`` (``ignored_heads``); and
    ``dropped``.

    Args:
        root: folder of the data.
        split: ``train`` or ``val``; the test split has no annotations.
        annotations: path of the .odgt; replaces the search below ``root``.
        images: folder of the images, or of the folders of a split named above; replaces the search
            below ``root``.
        boxes: ``full``, ``visible`` or ``head``.
        max_pixels: larger images are refused before they are decoded.
        exif_rotation: what to do with an image that its EXIF data turn: ``error``, ``ignore`` (take
            it as it is stored) or ``apply`` (turn it upright).
        bad_boxes: what to do with boxes without area, or outside their image.

    Raises:
        SceneError: for a missing or malformed file; the message names line and field.
        ConfigError: for arguments that cannot work together.
    """

    def __init__(
        self,
        root: str | Path | None = None,
        *,
        split: str = "train",
        annotations: str | Path | None = None,
        images: str | Path | None = None,
        boxes: BoxKind = "full",
        max_pixels: int = DEFAULT_MAX_PIXELS,
        exif_rotation: ExifRotation = "error",
        bad_boxes: BadBoxes = "error",
    ) -> None:
        """Read and check the whole file; images are opened one by one, on use."""
        check_arguments(split, bad_boxes, root=root, annotations=annotations, images=images)
        options = ImageOptions(max_pixels, exif_rotation, suffixes=(".jpg", ".png"))
        if not isinstance(boxes, str) or boxes not in _FIELDS:
            raise ConfigError(f"boxes: expected one of {', '.join(_FIELDS)}, got {boxes!r}")
        self.file = Path(annotations) if annotations else _find_annotations(root, split)
        self.boxes = boxes
        lines = _read(self.file, boxes)
        super().__init__(
            _table(self.file, lines, boxes, bad_boxes),
            _image_folders(root, images, split),
            target="head" if boxes == "head" else "person",
            name=f"CrowdHumanScenes({str(self.file)!r}, boxes={boxes!r})",
            options=options,
            bad_boxes=bad_boxes,
        )
        seen = len(lines.mask)
        self.counts = {
            **self.counts,
            "persons": seen - sum(lines.mask),
            "masks": sum(lines.mask),
            "ignored_persons": sum(lines.ignored_person),
            "ignored_heads": sum(lines.ignored_head),
            "dropped": seen - self.counts["instances"],
        }


@dataclass
class _Lines:
    """Contents of the lines: a value per image, or per box, in the order of the file."""

    ids: list[str] = field(default_factory=list)
    per_image: list[int] = field(default_factory=list)
    mask: bytearray = field(default_factory=bytearray)
    ignored_person: bytearray = field(default_factory=bytearray)
    ignored_head: bytearray = field(default_factory=bytearray)
    xywh: dict[str, array[float]] = field(default_factory=dict)


def _find_annotations(root: str | Path | None, split: str) -> Path:
    """Return the .odgt below ``root`` that belongs to ``split``."""
    if root is None:
        raise ConfigError("crowdhuman: expected root=, or annotations= and images=")
    folder = Path(root)
    files = find_files(folder, "*.odgt") or find_files(folder, "annotations/*.odgt")
    return pick_split(files, split, folder, "one annotation_*.odgt")


def _image_folders(
    root: str | Path | None, images: str | Path | None, split: str
) -> tuple[Path, ...]:
    """Return the folders of a split's images: all parts of the archives, or one folder."""
    if root is None and images is None:
        raise ConfigError("expected root= or images=, got neither")
    base = Path(images or root or "")
    name = re.compile(rf"CrowdHuman_{re.escape(split)}\d*")
    parts = sorted(path for path in base.glob("CrowdHuman_*") if name.fullmatch(path.name))
    parts = [part / "Images" if (part / "Images").is_dir() else part for part in parts]
    if images is not None:
        return (base, *parts)
    return tuple(part for part in parts if part.is_dir()) or (
        pick_folder(root, ("images", "Images")),
    )


def _read(file: Path, boxes: BoxKind) -> _Lines:
    """Parse and check every line."""
    lines = _Lines(xywh={name: array("d") for name in _FIELDS[boxes]})
    first: dict[PurePosixPath, int] = {}
    for number, line in enumerate(read_lines(file), start=1):
        where = f"{file}: line {number}"
        data = parse_json(line, where)
        if not isinstance(data, dict) or not data.keys() >= {"ID", "gtboxes"}:
            got = sorted(data) if isinstance(data, dict) else data
            raise SceneError(f"{where}: expected an object with ID and gtboxes, got {short(got)}")
        name, rows = check_file_name(data["ID"], f"{where}: ID"), data["gtboxes"]
        line_of_file = first.setdefault(PurePosixPath(name), number)  # ./a is the file a
        if line_of_file != number:
            raise SceneError(f"{where}: ID: expected a new one, got that of line {line_of_file}")
        if not isinstance(rows, list):
            raise SceneError(f"{where}: gtboxes: expected a list, got {short(rows)}")
        for k, row in enumerate(rows):
            try:
                _add(row, lines, boxes == "head")
            except SceneError as err:
                raise SceneError(f"{where}: gtboxes[{k}]{err}") from None
        lines.ids.append(name)
        lines.per_image.append(len(rows))
    return lines


def _add(row: Any, lines: _Lines, head: bool) -> None:
    """Check one box of a line and append it to the columns; errors name the field only."""
    if not isinstance(row, dict):
        raise SceneError(f": expected an object, got {short(row)}")
    tag = row.get("tag")
    if tag not in _TAGS:
        raise SceneError(f".tag: expected person or mask, got {short(tag)}")
    for name in _ALL_FIELDS:
        if (name in row or name in lines.xywh) and not is_xywh(row.get(name)):
            got = short(row[name]) if name in row else "none"
            raise SceneError(f".{name}: expected four finite numbers [x, y, w, h], got {got}")
    body, head_only = _ignore(row, "extra"), _ignore(row, "head_attr")
    for name, column in lines.xywh.items():
        column.extend(row[name])
    mask = tag == "mask"
    lines.mask.append(mask)
    lines.ignored_person.append(body and not mask)
    lines.ignored_head.append(head and head_only and not body and not mask)


def _ignore(row: Mapping[str, Any], name: str) -> bool:
    """Return the ignore flag of ``extra`` or ``head_attr``, both of which may be absent."""
    part = row.get(name, {})
    if not isinstance(part, dict):
        raise SceneError(f".{name}: expected an object, got {short(part)}")
    for key in part.keys() - _KEYS:
        if get_close_matches(key.lower(), ("ignore",), cutoff=0.8):
            raise SceneError(f".{name}: expected the key ignore, got {short(key)}")
    value = part.get("ignore", 0)
    if type(value) is not int or value not in (0, 1):
        raise SceneError(f".{name}.ignore: expected 0 or 1, got {short(value)}")
    return value == 1


def _table(file: Path, lines: _Lines, boxes: BoxKind, bad_boxes: BadBoxes) -> AnnotationTable:
    """Make the table of the valid boxes."""
    image = np.repeat(np.arange(len(lines.ids)), lines.per_image)
    xywh = {name: np.frombuffer(column).reshape(-1, 4) for name, column in lines.xywh.items()}
    good = _good_rows(file, xywh, image, bad_boxes)
    kept = {name: xywh_to_xyxy(box[good]) for name, box in xywh.items()}
    mask = np.frombuffer(lines.mask, np.uint8)[good]
    flags = [np.frombuffer(flag, bool)[good] for flag in (lines.ignored_person, lines.ignored_head)]
    per_image = np.bincount(image[good], minlength=len(lines.ids))
    table = AnnotationTable.of(
        names=lines.ids,
        files=lines.ids,
        per_image=per_image.tolist(),
        boxes=kept[_FIELDS[boxes][0]],
        visible_boxes=kept.get("vbox"),
        ignore=(mask == 1) | flags[0] | flags[1],
        label=mask,
        labels=_TAGS,
        notes={"dropped": (np.array(lines.per_image, int) - per_image).tolist()},
    )
    if boxes != "visible":
        return table
    share = np.minimum(1.0, box_area(kept["vbox"]) / box_area(kept["fbox"]))
    return replace(table, visible_share=share.astype(np.float32))


def _good_rows(
    file: Path, xywh: Mapping[str, NDArray[np.float64]], image: NDArray[np.int64], bad: BadBoxes
) -> NDArray[np.bool_]:
    """Return which boxes are valid, or raise for the first that is not."""
    starts = np.searchsorted(image, image)  # the first box of each box's own line
    good = np.ones(len(image), bool)
    for name, box in xywh.items():

        def where(row: int, name: str = name) -> str:
            return f"{file}: line {image[row] + 1}: gtboxes[{row - starts[row]}].{name}"

        if name == "vbox" and next(iter(xywh)) == "fbox":  # a person may be fully hidden
            sides = (box[:, 2:] >= 0).all(axis=1)
            good &= check_boxes(sides, box, "width and height of at least 0", where, bad)
        else:
            good &= boxes_with_area(box, where, bad)
    return good
