"""Scenes from CityPersons, whose annotations come as one MATLAB file or as a tree of json files."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np

from dip_env.errors import ConfigError, SceneError
from dip_env.formats.files import find_files, pick_folder, pick_split
from dip_env.scenes.readers.arguments import check_arguments, check_names
from dip_env.scenes.readers.base import DatasetScenes
from dip_env.scenes.readers.box_checks import (
    BadBoxes,
    boxes_with_area,
    check_boxes,
    xywh_to_xyxy,
)
from dip_env.scenes.readers.citypersons_files import CLASSES, Annotations, read_mat, read_tree
from dip_env.scenes.readers.images import DEFAULT_MAX_PIXELS, ExifRotation, ImageOptions
from dip_env.scenes.readers.table import AnnotationTable


class CityPersonsScenes(DatasetScenes):
    """CityPersons as scenes.

    Instances of ``classes`` are targets; all others are ignored, as are the ignore regions (people
    on posters, reflections). The benchmark evaluates pedestrians only. Full boxes are amodal and
    kept as annotated; only pedestrians and riders have one that differs from the visible box. The
    authors' ``anno_*.mat`` is read where there is one for the split, else the json tree that
    Cityscapes distributes: repr and ``counts`` (``mat_files``, ``json_files``) show which, and how
    many ``other_files`` were passed over in the tree. The json states the size of its image; for
    the MATLAB file it is read from the image, on use. The city is the ``group`` of a scene.
    Cityscapes is for non-commercial use only, under its own terms. Layout::

        root/anno_train.mat    root/anno_val.mat    (or in root/annotations/), or else
        root/gtBboxCityPersons/val/frankfurt/frankfurt_000000_000294_gtBboxCityPersons.json
        root/leftImg8bit/val/frankfurt/frankfurt_000000_000294_leftImg8bit.png

    Args:
        root: folder of the data.
        split: ``train`` or ``val``; the test split has no annotations.
        annotations: path of the .mat, or of the folder ``gtBboxCityPersons``; replaces the search
            below ``root``.
        images: the folder ``leftImg8bit``, or its part for the split; replaces the search.
        classes: targets, names from ``CLASSES``; the prompt names them.
        max_pixels: larger images are refused before they are decoded.
        exif_rotation: what to do with an image that its EXIF data turn: ``error``, ``ignore`` (take
            it as it is stored) or ``apply`` (turn it upright).
        bad_boxes: what to do with boxes without area, or outside their image.

    Raises:
        SceneError: for a missing or malformed file; the message names location and field.
        ConfigError: for arguments that cannot work together.
    """

    def __init__(
        self,
        root: str | Path | None = None,
        *,
        split: str = "train",
        annotations: str | Path | None = None,
        images: str | Path | None = None,
        classes: Collection[str] = ("pedestrian",),
        max_pixels: int = DEFAULT_MAX_PIXELS,
        exif_rotation: ExifRotation = "error",
        bad_boxes: BadBoxes = "error",
    ) -> None:
        """Read and check all annotations; images are opened one by one, on use."""
        check_arguments(split, bad_boxes, root=root, annotations=annotations, images=images)
        options = ImageOptions(max_pixels, exif_rotation)
        self.classes = _check_classes(classes)
        self.file = _find_annotations(root, split, annotations)
        tree = self.file.is_dir()
        read = read_tree(self.file) if tree else read_mat(self.file, f"anno_{split}_aligned")
        table = _table(read, self.classes, bad_boxes)
        parts = (f"leftImg8bit_trainvaltest/leftImg8bit/{split}", f"leftImg8bit/{split}")
        super().__init__(
            table,
            _part_for(Path(images), split) if images else pick_folder(root, parts),
            target=" or ".join(self.classes),
            name=f"CityPersonsScenes({str(self.file)!r}, classes={self.classes!r})",
            counts={
                **{name: int((read.rows[:, 0] == k).sum()) for k, name in enumerate(CLASSES)},
                "dropped": len(read.rows) - len(table.boxes),
                **(
                    {"json_files": len(read.files), "other_files": read.other_files}
                    if tree
                    else {"mat_files": 1}
                ),
            },
            options=options,
            bad_boxes=bad_boxes,
        )


def _check_classes(classes: Collection[str]) -> tuple[str, ...]:
    """Return the checked target classes."""
    names = check_names("classes", classes)
    for name in names:
        if name not in CLASSES[1:]:
            raise ConfigError(f"classes: expected some of {', '.join(CLASSES[1:])}, got {name!r}")
    return names


def _find_annotations(root: str | Path | None, split: str, annotations: str | Path | None) -> Path:
    """Return the .mat of the split, or the folder that holds its cities."""
    if annotations:
        part = _part_for(Path(annotations), split)
        if part.name in {"train", "val", "test"} - {split}:
            raise SceneError(f"{part}: expected annotations of split {split!r}")
        return part
    if root is None:
        raise ConfigError("citypersons: expected root=, or annotations= and images=")
    folder = Path(root)
    mats = find_files(folder, "*.mat") or find_files(folder, "annotations/*.mat")
    above = ("gtBbox_cityPersons_trainval/gtBboxCityPersons", "gtBboxCityPersons")
    tree = pick_folder(root, [f"{name}/{split}" for name in above])
    if tree.is_dir() and not any(split in file.stem for file in mats):
        return tree
    return pick_split(mats, split, folder, "anno_*.mat, or a folder gtBboxCityPersons,")


def _part_for(path: Path, split: str) -> Path:
    """Return the part of a folder that belongs to the split, if it is divided by splits."""
    return path / split if (path / split).is_dir() else path


def _table(read: Annotations, classes: tuple[str, ...], bad_boxes: BadBoxes) -> AnnotationTable:
    """Make the table of the valid boxes."""
    rows, per_image = read.rows, np.array([len(part) for part in read.parts], int)
    image = np.repeat(np.arange(len(per_image)), per_image)
    full, visible = rows[:, 1:5], rows[:, 5:9]
    good = boxes_with_area(full, read.where(0), bad_boxes)
    sides = (visible[:, 2:] >= 0).all(axis=1)  # an instance may be fully hidden
    good &= check_boxes(sides, visible, "width and height of at least 0", read.where(1), bad_boxes)
    sizes = np.array(read.sizes, np.int32).reshape(-1, 2)
    if sizes.any():
        x1, y1, x2, y2 = xywh_to_xyxy(full).T
        width, height = sizes[image].T
        inside = (x1 < width) & (y1 < height) & (x2 > 0) & (y2 > 0)
        good &= check_boxes(inside, full, "an area inside the image", read.where(0), bad_boxes)
    label = rows[good, 0].astype(np.uint8)
    kept = np.bincount(image[good], minlength=len(per_image))
    return AnnotationTable.of(
        names=list(read.known),
        files=read.files,
        sizes=sizes,
        per_image=kept.tolist(),
        boxes=xywh_to_xyxy(full[good]),
        visible_boxes=xywh_to_xyxy(visible[good]),
        ignore=~np.isin(label, [CLASSES.index(name) for name in classes]),
        label=label,
        labels=CLASSES,
        notes={
            "group": [file.split("/")[0] for file in read.files],
            "dropped": (per_image - kept).tolist(),
        },
    )
