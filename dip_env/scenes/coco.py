"""Scenes from a COCO json file and a folder of images, checked when opened."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dip_env.errors import ConfigError, SceneError
from dip_env.scenes.annotated import AnnotatedScenes, BadBoxes, SceneTable, check_bad_boxes
from dip_env.scenes.files import (
    check_file_name,
    parse_json,
    pick_folder,
    pick_split,
    read_text,
    short,
)
from dip_env.scenes.images import DEFAULT_MAX_PIXELS

Box = tuple[float, ...]
"""x1, y1, x2, y2 in the scene frame."""


@dataclass
class _ImageEntry:
    """What the json says about one image; ``rows`` holds its checked annotations."""

    image_id: int | str
    file_name: str
    size: tuple[int, int]
    rows: list[_Row] = field(default_factory=list)
    clipped: int = 0
    dropped: int = 0


@dataclass(frozen=True, slots=True)
class _Row:
    """One checked annotation, clipped to the image."""

    box: Box
    visible: Box
    ignore: bool
    label: str


class CocoScenes(AnnotatedScenes):
    """A COCO data set as scenes.

    ``bbox`` is the full box; ``vis_bbox`` the visible one where a data set has it (else the
    full box). ``iscrowd`` (or ``ignore``) marks instances that neither reward nor punish. Boxes
    that run over the border are clipped and counted. A box without area, or entirely outside
    its image, is an error, or dropped and counted with ``bad_boxes="drop"`` (COCO's own
    train2017 holds a few). EXIF rotation is not applied, as in the COCO tools. Annotations of
    COCO are CC BY 4.0; the photographs are under their owners' Flickr licences. Layout::

        root/annotations.json            or  root/annotations/instances_val2017.json
        root/images/000000142238.jpg     or  root/val2017/000000142238.jpg

    Args:
        root: folder of the data.
        split: which json to take where ``annotations/`` holds several.
        annotations: path of the json; replaces the search below ``root``.
        images: folder of the images; replaces the search below ``root``.
        categories: names to keep, None for all. They are the target the prompt names.
        max_pixels: larger images are refused before they are decoded.
        bad_boxes: what to do with boxes that have no area inside the image.

    Raises:
        SceneError: for a missing or malformed file; the message names file and field.
        ConfigError: for arguments that cannot work together.
    """

    def __init__(
        self,
        root: str | Path | None = None,
        *,
        split: str = "train",
        annotations: str | Path | None = None,
        images: str | Path | None = None,
        categories: Collection[str] | None = ("person",),
        max_pixels: int = DEFAULT_MAX_PIXELS,
        bad_boxes: BadBoxes = "error",
    ) -> None:
        """Read and check the whole json; images are opened one by one, on use."""
        if isinstance(categories, str):
            raise ConfigError(f"categories: expected a list of names, got {categories!r}")
        check_bad_boxes(bad_boxes)
        self.file = Path(annotations) if annotations else _find_annotations(root, split)
        self.categories = None if categories is None else tuple(categories)
        data = _read_json(self.file)
        names = _category_names(self.file, data, categories)
        entries, counts = _collect(self.file, data, names, bad_boxes == "drop")
        super().__init__(
            _table(entries),
            Path(images) if images else _find_images(root, self.file),
            target=" or ".join(self.categories) if self.categories else "annotated object",
            name=f"CocoScenes({str(self.file)!r}, categories={self.categories!r})",
            counts=counts,
            max_pixels=max_pixels,
            bad_boxes=bad_boxes,
        )


def _find_annotations(root: str | Path | None, split: str) -> Path:
    """Return the json below ``root`` that belongs to ``split``."""
    if root is None:
        raise ConfigError("coco: expected root=, or annotations= and images=")
    folder = Path(root)
    if (folder / "annotations.json").is_file():
        return folder / "annotations.json"
    files = sorted((folder / "annotations").glob("*.json"))
    # The official archive holds captions_* and person_keypoints_* beside instances_*.
    files = [file for file in files if file.stem.startswith("instances")] or files
    return pick_split(files, split, folder, "annotations.json or one annotations/*.json")


def _find_images(root: str | Path | None, annotations: Path) -> Path:
    """Return the image folder that goes with ``annotations``."""
    return pick_folder(root, (annotations.stem.rpartition("_")[2], "images"))


def _table(entries: list[_ImageEntry]) -> SceneTable:
    rows = [row for entry in entries for row in entry.rows]
    labels = tuple(sorted({row.label for row in rows}))
    return SceneTable.of(
        names=[str(entry.image_id) for entry in entries],
        files=[entry.file_name for entry in entries],
        sizes=np.array([entry.size for entry in entries], np.int32).reshape(-1, 2),
        per_image=[len(entry.rows) for entry in entries],
        boxes=[row.box for row in rows],
        visible_boxes=[row.visible for row in rows],
        ignore=[row.ignore for row in rows],
        label=[labels.index(row.label) for row in rows],
        labels=labels,
        notes={
            name: [getattr(entry, name) for entry in entries]
            for name in ("image_id", "clipped", "dropped")
        },
    )


def _read_json(file: Path) -> Mapping[str, Any]:
    """Parse the file and check that its three lists are there."""
    data = parse_json(read_text(file), str(file))
    if not isinstance(data, dict):
        raise SceneError(f"{file}: expected an object, got {type(data).__name__}")
    for key in ("images", "annotations", "categories"):
        rows = data.get(key)
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise SceneError(f"{file}: {key}: expected a list of objects, got {short(rows)}")
    return data


def _category_names(
    file: Path, data: Mapping[str, Any], wanted: Collection[str] | None
) -> dict[Any, str | None]:
    """Return the name of every category id, None for those that are not wanted."""
    names: dict[Any, str | None] = {}
    for k, row in enumerate(data["categories"]):
        where = f"{file}: categories[{k}]"
        category = _identifier(row.get("id"), f"{where}.id")
        if category in names:
            raise SceneError(f"{where}.id: expected ids that differ, got {category!r} twice")
        if not isinstance(row.get("name"), str):
            raise SceneError(f"{where}.name: expected a string, got {short(row.get('name'))}")
        names[category] = row["name"]
    missing = sorted(set(wanted or ()) - set(names.values()))
    if missing:
        known = sorted(str(name) for name in names.values())
        raise SceneError(f"{file}: categories: expected {missing[0]!r} among {known}")
    return {key: name if wanted is None or name in wanted else None for key, name in names.items()}


def _collect(
    file: Path, data: Mapping[str, Any], names: Mapping[Any, str | None], drop: bool
) -> tuple[list[_ImageEntry], dict[str, int]]:
    """Check every image and annotation and hand the annotations to their images."""
    entries: dict[Any, _ImageEntry] = {}
    for k, row in enumerate(data["images"]):
        where = f"{file}: images[{k}]"
        image_id = _identifier(row.get("id"), f"{where}.id")
        if image_id in entries:
            raise SceneError(f"{where}.id: expected ids that differ, got {image_id!r} twice")
        name = check_file_name(row.get("file_name"), f"{where}.file_name")
        size = (_side(row, "width", where), _side(row, "height", where))
        entries[image_id] = _ImageEntry(image_id, name, size)
    counts = Counter({"clipped": 0, "dropped": 0, "other_category": 0})
    for k, row in enumerate(data["annotations"]):
        where = f"{file}: annotations[{k}]"
        entry = entries.get(_identifier(row.get("image_id"), f"{where}.image_id"))
        if entry is None:
            raise SceneError(f"{where}.image_id: expected a known image, got {row['image_id']!r}")
        category = _identifier(row.get("category_id"), f"{where}.category_id")
        if category not in names:
            raise SceneError(f"{where}.category_id: expected a known category, got {category!r}")
        label = names[category]
        if label is None:
            counts["other_category"] += 1
            continue
        checked = _check_row(row, label, entry.size, where, drop)
        if checked is None:
            entry.dropped += 1
            counts["dropped"] += 1
            continue
        kept, clipped = checked
        entry.rows.append(kept)
        entry.clipped += clipped
        counts["clipped"] += clipped
    return list(entries.values()), dict(counts)


def _check_row(
    row: Mapping[str, Any], label: str, size: tuple[int, int], where: str, drop: bool
) -> tuple[_Row, bool] | None:
    """Return the annotation and whether its box was clipped; None where it is to be dropped."""
    full = _xyxy(row.get("bbox"), f"{where}.bbox")
    box = _clip(full, size)
    # float32 is what a scene stores: a sliver can lose its area there.
    if not _has_area(np.array(box, np.float32)):
        if drop:
            return None
        raise SceneError(
            f"{where}.bbox: expected an area inside the image of {size[0]}x{size[1]}, "
            f"got {short(row['bbox'])} (bad_boxes='drop' leaves such boxes out and counts them)"
        )
    flags = [_flag(row.get(name, 0), f"{where}.{name}") for name in ("iscrowd", "ignore")]
    if "vis_bbox" not in row:
        return _Row(box, box, any(flags), label), box != full
    visible = _clip(_xyxy(row["vis_bbox"], f"{where}.vis_bbox"), size)
    return _Row(box, visible, any(flags), label), box != full


def _xyxy(value: Any, where: str) -> tuple[float, ...]:
    """Return xyxy of a COCO xywh box; width and height may be 0 here, never negative."""
    if (
        not isinstance(value, list)
        or len(value) != 4
        or not all(isinstance(v, int | float) and not isinstance(v, bool) for v in value)
        or not all(abs(v) < 1e9 for v in value)  # False for NaN too
    ):
        raise SceneError(f"{where}: expected four finite numbers [x, y, w, h], got {short(value)}")
    x, y, w, h = (float(v) for v in value)
    if w < 0 or h < 0:
        raise SceneError(f"{where}: expected width and height >= 0, got {short(value)}")
    return (x, y, x + w, y + h)


def _clip(box: tuple[float, ...], size: tuple[int, int]) -> tuple[float, ...]:
    """Return the part of an xyxy box inside the image."""
    (x1, y1, x2, y2), (w, h) = box, size
    return (min(max(x1, 0.0), w), min(max(y1, 0.0), h), min(max(x2, 0.0), w), min(max(y2, 0.0), h))


def _has_area(box: np.ndarray) -> bool:
    return bool(box[2] > box[0] and box[3] > box[1])


def _identifier(value: Any, where: str) -> int | str:
    """Return an id: an integer (0 is one) or a string."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise SceneError(f"{where}: expected an integer or a string, got {short(value)}")
    return value


def _side(row: Mapping[str, Any], name: str, where: str) -> int:
    """Return a checked image side in pixels."""
    value = row.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise SceneError(f"{where}.{name}: expected an integer >= 1, got {short(value)}")
    return value


def _flag(value: Any, where: str) -> bool:
    """Return a 0/1 field as a bool."""
    if value not in (0, 1) or not isinstance(value, int):
        raise SceneError(f"{where}: expected 0 or 1, got {short(value)}")
    return bool(value)
