"""Scenes from the text files of the WIDER Pedestrian challenge, 2018 or 2019."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dip_env.checks import short
from dip_env.errors import ConfigError, SceneError
from dip_env.scenes.readers.arguments import check_arguments
from dip_env.scenes.readers.base import DatasetScenes
from dip_env.scenes.readers.box_checks import (
    BadBoxes,
    boxes_with_area,
    xywh_to_xyxy,
)
from dip_env.scenes.readers.images import DEFAULT_MAX_PIXELS, ExifRotation, ImageOptions
from dip_env.scenes.readers.table import AnnotationTable
from dip_env.scenes.readers.wider_lines import (
    CLASSES,
    YEARS,
    Ints,
    Lines,
    box_rows,
    covered_people,
    read_named_lines,
    read_names,
    tell_year,
)

Covered = Literal["ignore", "count"]
"""What to do with people more than half covered by ignore regions."""

_LABELS = (*CLASSES, "ignore")
_REGION = len(CLASSES)
_FOLDERS = {
    2018: ("{split}", "images"),
    2019: (
        *("sur_{split}", "ad_{split}", "{split}_data", "images"),
        *("ad_{split}/ad_01", "ad_{split}/ad_02", "ad_{split}/ad_03"),
    ),
}


class WiderPedestrianScenes(DatasetScenes):
    """The WIDER Pedestrian challenge of 2018 or of 2019 as scenes.

    A line is an image and its boxes: ``label x y w h`` each in 2018 (1 pedestrian, 2 cyclist),
    ``x y w h`` each in 2019; an image without boxes is a scene without people. The year is
    inferred from the lines: from their number of values, from these, and from the names (img*, or
    sur* and ad*), which must agree. Where the lines are ambiguous or contradictory, ``year`` must
    be given. No file states sizes: they are read from the images' headers, on use.

    The challenge's mAP merges both labels, so both are targets by default; a class left out of
    ``classes`` is ignored. 2019 has one class: its boxes are those of 2018, cyclists included,
    without labels, so there ``classes`` only sets what the prompt names. Ignore regions become
    ignored instances with the label ``ignore``. Many annotated people are inside such regions;
    the mAP removes those covered by more than half, so they are ignored too, unless
    ``covered="count"``. The images are for research, under the challenge's terms. Layout::

        2018  root/{train,val}_annotations.txt   root/pedestrian_ignore_part_{train,val}.txt
              root/{train,val}/img18169.jpg      or  root/images/img18169.jpg
        2019  root/Annotations/{train,val}_{bbox,ignore,list}.txt  or the same files in root
              root/sur_train/   root/ad_train/ad_{01,02,03}/   root/val_data/sur00604.jpg

    ``counts`` holds: images without people (``empty``), people by class
    (all of 2019 as pedestrians), ``ignore_regions``, people of an ``other_class``, people
    ``covered`` by regions, and ``dropped``.

    Args:
        root: folder of the data.
        split: ``train`` or ``val``; the test images have no annotations.
        annotations: path of the file with the boxes; replaces the search below ``root``. The
            ignore and list files are looked for beside it.
        ignore_file: path of the ignore regions; ``"none"`` to do without.
        list_file: path of the list of all images of 2019, some of which may have no line among
            the boxes; ``"none"`` to do without those.
        images: folder of the images, or of the folders of images named above.
        year: 2018 or 2019; ``"auto"`` to infer it from the lines.
        classes: target classes; the other class is ignored.
        covered: ``ignore`` or ``count`` people more than half covered by ignore regions.
        max_pixels: larger images are refused before they are decoded.
        exif_rotation: what to do with an image that its EXIF data turn: ``error``, ``ignore`` (take
            it as it is stored) or ``apply`` (turn it upright).
        bad_boxes: what to do with boxes without area, or outside their image.

    Raises:
        SceneError: for a missing or malformed file; the message names file, line and field.
        ConfigError: for arguments that cannot work together.
    """

    def __init__(
        self,
        root: str | Path | None = None,
        *,
        split: str = "train",
        annotations: str | Path | None = None,
        ignore_file: str | Path | None = None,
        list_file: str | Path | None = None,
        images: str | Path | None = None,
        year: int | str = "auto",
        classes: Collection[str] = CLASSES,
        covered: Covered = "ignore",
        max_pixels: int = DEFAULT_MAX_PIXELS,
        exif_rotation: ExifRotation = "error",
        bad_boxes: BadBoxes = "error",
    ) -> None:
        """Read and check the text files; images are looked for and opened on use."""
        check_arguments(
            split,
            bad_boxes,
            root=root,
            annotations=annotations,
            images=images,
            ignore_file=ignore_file,
            list_file=list_file,
        )
        options = ImageOptions(max_pixels, exif_rotation)
        if covered not in ("ignore", "count"):
            raise ConfigError(f"covered: expected ignore or count, got {covered!r}")
        self.classes, stated = _check_classes(classes), _check_year(year)
        if root is None and (annotations is None or images is None):
            raise ConfigError("wider_pedestrian: expected root=, or annotations= and images=")
        self.file = Path(annotations) if annotations else _find(Path(root or ""), split, stated)
        lines = read_named_lines(self.file)
        self.year = stated or tell_year(self.file, lines)
        if self.year == 2019 and CLASSES[0] not in self.classes:
            raise ConfigError("classes: expected pedestrian, the only class of 2019, got cyclist")
        self.ignore_file = _beside(self.file, self.year, "ignore_file", ignore_file)
        self.list_file = _beside(self.file, self.year, "list_file", list_file)
        boxes = _read_boxes(self.file, self.year, lines, self.ignore_file, self.list_file)
        good = boxes_with_area(boxes.rows[:, 3:].astype(np.float64), boxes.where, bad_boxes)
        hidden = boxes.covered()
        ignore = np.array([name not in self.classes for name in _LABELS])[boxes.rows[:, 2]]
        ignore |= hidden & (covered == "ignore")
        folders = _image_folders(root, images, self.year, self.file.stem.partition("_")[0])
        files = f"{_quoted(self.file)}, ignore_file={_quoted(self.ignore_file)}"
        files += f", list_file={_quoted(self.list_file)}" if self.year == 2019 else ""
        settings = f"year={self.year}, classes={self.classes!r}, covered={covered!r}"
        super().__init__(
            _table(boxes.names, boxes.rows, good, ignore),
            folders,
            target=" or ".join(self.classes),
            name=f"WiderPedestrianScenes({files}, {settings})",
            counts={
                **_count(boxes.names, boxes.rows, self.classes),
                "covered": int(hidden.sum()),
                "dropped": int((~good).sum()),
            },
            options=options,
            bad_boxes=bad_boxes,
        )


@dataclass(frozen=True, eq=False)
class _Boxes:
    """Boxes of people, then of ignore regions, with the files they come from.

    Args:
        names: all images.
        file: the file with the people.
        ignore_file: the file with the ignore regions, None without.
        people: (P, 7) rows as ``box_rows`` returns them.
        regions: (R, 7) rows, likewise.
    """

    names: list[str]
    file: Path
    ignore_file: Path | None
    people: Ints
    regions: Ints

    @cached_property
    def rows(self) -> Ints:
        """(P + R, 7) people, then regions."""
        return np.concatenate([self.people, self.regions])

    def where(self, row: int) -> str:
        """Return the file and the line of a row, for messages."""
        file = self.file if row < len(self.people) else self.ignore_file
        return f"{file}: line {self.rows[row, 1]}"

    def covered(self) -> NDArray[np.bool_]:
        """Return which rows, (P + R,), are people more than half covered by regions."""
        hidden = covered_people(self.people, self.regions)
        return np.append(hidden, np.zeros(len(self.regions), bool))


def _read_boxes(
    file: Path, year: int, lines: Lines, ignore_file: Path | None, list_file: Path | None
) -> _Boxes:
    """Read the boxes of people and of ignore regions in all images."""
    names = list(lines) if list_file is None else read_names(list_file)
    people = box_rows(file, lines, year, names)
    regions = np.zeros((0, 7), np.int64)
    # A part of the set may have no region at all, and an empty file then, as in UAVDT.
    if ignore_file is not None and not (ignore_file.is_file() and not ignore_file.stat().st_size):
        regions = box_rows(ignore_file, read_named_lines(ignore_file), 2019, names)
        regions[:, 2] = _REGION
    return _Boxes(names, file, ignore_file, people, regions)


def _image_folders(
    root: str | Path | None, images: str | Path | None, year: int, split: str
) -> tuple[Path, ...]:
    """Return the folders in which images may be."""
    base = Path(images or root or "")
    below = [base / name.format(split=split) for name in _FOLDERS[year]]
    return (base, *below) if images else tuple(below)


def _check_classes(classes: Collection[str]) -> tuple[str, ...]:
    """Return the checked target classes, pedestrians first."""
    listed = isinstance(classes, Collection) and not isinstance(classes, str)
    names = list(classes) if listed else []
    if not names or not all(name in CLASSES for name in names):
        raise ConfigError(f"classes: expected names among {CLASSES}, got {short(classes)}")
    return tuple(name for name in CLASSES if name in classes)


def _check_year(year: int | str) -> int | None:
    """Return the year, None if it is to be inferred."""
    if str(year) not in ("auto", *map(str, YEARS)):
        raise ConfigError(f"year: expected 2018, 2019 or 'auto', got {year!r}")
    return None if year == "auto" else int(year)


def _find(root: Path, split: str, year: int | None) -> Path:
    """Return the file below ``root`` that holds the boxes of a split."""
    by_year = {
        2018: (f"{split}_annotations.txt",),
        2019: (f"Annotations/{split}_bbox.txt", f"{split}_bbox.txt"),
    }
    wanted = [root / name for y in YEARS if year in (None, y) for name in by_year[y]]
    found = [file for file in wanted if file.is_file()]
    if len(found) == 1:
        return found[0]
    names = " or ".join(str(file.relative_to(root)) for file in found or wanted)
    if found:
        raise SceneError(f"{root}: found {names}; say which with year= or annotations=")
    raise SceneError(f"{root}: expected {names}, found none; name the file with annotations=")


def _beside(file: Path, year: int, option: str, given: str | Path | None) -> Path | None:
    """Return the ignore or list file that goes with the boxes, None to do without."""
    if str(given) == "none" or (year == 2018 and option == "list_file" and given is None):
        return None
    if year == 2018 and option == "list_file":
        raise ConfigError("list_file: expected none for 2018, whose lines name every image")
    if given is not None:
        return Path(given)
    kind = option.removesuffix("_file")
    name, count = {
        2018: re.subn(r"^(.+)_annotations\.txt$", r"pedestrian_ignore_part_\1.txt", file.name),
        2019: re.subn(r"^(.+)_bbox\.txt$", rf"\1_{kind}.txt", file.name),
    }[year]
    beside = file.with_name(name)
    if not count or not beside.is_file():
        looked = f"{beside} is missing" if count else f"the name {file.name} tells none"
        raise SceneError(
            f"{file}: expected {option} beside it, {looked}; name it, or do without by "
            f"{option}='none'"
        )
    return beside


def _table(
    names: list[str], rows: Ints, good: NDArray[np.bool_], ignore: NDArray[np.bool_]
) -> AnnotationTable:
    """Make the table of the valid rows: of every image its people, then its ignore regions."""
    order = np.argsort(rows[:, 0], kind="stable")
    order = order[good[order]]
    all_rows, kept = (
        np.bincount(part, minlength=len(names)) for part in (rows[:, 0], rows[order, 0])
    )
    return AnnotationTable.of(
        names=names,
        files=names,
        per_image=kept.tolist(),
        boxes=xywh_to_xyxy(rows[order, 3:]),
        ignore=ignore[order],
        label=rows[order, 2],
        labels=_LABELS,
        notes={"dropped": (all_rows - kept).tolist()},
    )


def _count(names: list[str], rows: Ints, classes: tuple[str, ...]) -> dict[str, int]:
    """Count images and boxes by kind."""
    by_label = np.bincount(rows[:, 2], minlength=len(_LABELS)).tolist()
    by_class = dict(zip(CLASSES, by_label, strict=False))
    return {
        "empty": len(names) - len(np.unique(rows[rows[:, 2] != _REGION, 0])),
        **by_class,
        "ignore_regions": by_label[_REGION],
        "other_class": sum(by_class[name] for name in CLASSES if name not in classes),
    }


def _quoted(file: Path | None) -> str:
    """Return the repr of a file argument."""
    return repr("none" if file is None else str(file))
