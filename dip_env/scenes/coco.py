"""Scenes from a COCO json file and a folder of images, checked when opened."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from operator import index as as_index
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from dip_env.errors import ConfigError, SceneError
from dip_env.scenes.base import Scene

DEFAULT_MAX_PIXELS = 50_000_000


@dataclass
class _ImageEntry:
    """What the json says about one image; ``rows`` holds its checked annotations."""

    image_id: int | str
    path: Path
    size: tuple[int, int]
    rows: list[_Row] = field(default_factory=list)
    clipped: int = 0
    dropped: int = 0


@dataclass(frozen=True)
class _Row:
    """One checked annotation, xyxy in the scene frame."""

    box: tuple[float, ...]
    visible: tuple[float, ...]
    share: float
    ignore: bool
    label: str


class CocoScenes:
    """A COCO data set as scenes.

    ``bbox`` is the full box; ``vis_bbox`` the visible one where a data set has it (else the
    full box). ``iscrowd`` (or ``ignore``) marks instances that neither reward nor punish. Boxes
    that run over the border are clipped and counted. A box without area, or entirely outside
    its image, is an error, or dropped and counted with ``bad_boxes="drop"`` (COCO's own
    train2017 holds a few). EXIF rotation is not applied, as in the COCO tools.

    Args:
        root: folder with ``annotations.json`` or ``annotations/*.json``, and ``images/`` (or a
            folder named like the split of the json, such as ``val2017/``).
        split: which json to take where ``annotations/`` holds several; one file serves any split.
        annotations: path of the json; replaces the search below ``root``.
        images: folder of the images; replaces the search below ``root``.
        categories: names to keep, None for all.
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
        bad_boxes: Literal["error", "drop"] = "error",
    ) -> None:
        """Read and check the whole json; images are opened one by one, on use."""
        if isinstance(categories, str):
            raise ConfigError(f"categories: expected a list of names, got {categories!r}")
        if bad_boxes not in ("error", "drop"):
            raise ConfigError(f"bad_boxes: expected error or drop, got {bad_boxes!r}")
        self.file = Path(annotations) if annotations else _find_annotations(root, split)
        self.images = Path(images) if images else _find_images(root, self.file)
        self.categories = None if categories is None else tuple(categories)
        self.max_pixels = max_pixels
        data = _read_json(self.file)
        names = _category_names(self.file, data, categories)
        self._entries, counts = _collect(self.file, self.images, data, names, bad_boxes == "drop")
        self.counts: Mapping[str, int] = counts
        """Images, instances, ignored, clipped, dropped and other_category, over all scenes."""

    def __repr__(self) -> str:
        """Name the files and what is kept of them."""
        return f"CocoScenes({str(self.file)!r}, categories={self.categories!r})"

    def __len__(self) -> int:
        """Return the number of images in the json, with or without people."""
        return len(self._entries)

    def __getitem__(self, index: int) -> Scene:
        """Return the scene of the json's image ``index``; raises IndexError outside the range."""
        index = as_index(index)
        if not 0 <= index < len(self._entries):
            raise IndexError(f"{self.file}: expected 0..{len(self) - 1}, got {index}")
        entry = self._entries[index]
        rows = entry.rows
        return Scene(
            scene_id=str(entry.image_id),
            size=entry.size,
            boxes=np.array([row.box for row in rows], np.float32).reshape(-1, 4),
            visible_boxes=np.array([row.visible for row in rows], np.float32).reshape(-1, 4),
            visible_share=np.array([row.share for row in rows], np.float32),
            ignore=np.array([row.ignore for row in rows], bool),
            labels=tuple(row.label for row in rows),
            load_image=partial(load_rgb, entry.path, entry.size, self.max_pixels),
            notes={
                "image_id": entry.image_id,
                "file": str(entry.path),
                "clipped": entry.clipped,
                "dropped": entry.dropped,
            },
        )


def load_rgb(path: Path, size: tuple[int, int], max_pixels: int) -> Image.Image:
    """Read an image file after checking its header.

    Args:
        path: the file.
        size: (width, height) the annotations state, in pixels.
        max_pixels: upper limit of width x height, checked before any pixel is decoded.

    Returns:
        The decoded image, RGB.

    Raises:
        SceneError: for a file that is missing, too large, of another size, or cut short.
    """
    if size[0] * size[1] > max_pixels:
        raise SceneError(f"{path}: expected at most {max_pixels} pixels, got {size[0]}x{size[1]}")
    try:
        with Image.open(path) as image:
            if image.size != size:
                raise SceneError(f"{path}: size: expected {size} as annotated, got {image.size}")
            return image.convert("RGB")
    except FileNotFoundError:
        raise SceneError(f"{path}: image file is missing") from None
    # Pillow reports broken files with OSError, SyntaxError (PNG) and ValueError; SceneError is one.
    except SceneError:
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as err:
        raise SceneError(f"{path}: image cannot be read: {err}") from err


def _find_annotations(root: str | Path | None, split: str) -> Path:
    """Return the json below ``root`` that belongs to ``split``."""
    if root is None:
        raise ConfigError("coco: expected root=, or annotations= and images=")
    folder = Path(root)
    if (folder / "annotations.json").is_file():
        return folder / "annotations.json"
    files = sorted((folder / "annotations").glob("*.json"))
    # The official archive holds captions_* and person_keypoints_* beside instances_*.
    mine = [file for file in files if split in file.stem]
    mine = [file for file in mine if file.stem.startswith("instances")] or mine
    candidates = files if len(files) == 1 else mine
    if len(candidates) != 1:
        found = ", ".join(file.name for file in files) or "none"
        raise SceneError(
            f"{folder}: expected annotations.json or one annotations/*{split}*.json, "
            f"found {found}; name the file with annotations="
        )
    return candidates[0]


def _find_images(root: str | Path | None, annotations: Path) -> Path:
    """Return the image folder that goes with ``annotations``."""
    if root is None:
        raise ConfigError("coco: expected root= or images=, got neither")
    for name in (annotations.stem.rpartition("_")[2], "images"):
        if (Path(root) / name).is_dir():
            return Path(root) / name
    raise SceneError(f"{root}: expected a folder images/; name another one with images=")


def _read_json(file: Path) -> Mapping[str, Any]:
    """Parse the file and check that its three lists are there."""
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SceneError(f"{file}: annotation file is missing") from None
    except (OSError, ValueError, RecursionError) as err:
        raise SceneError(f"{file}: expected JSON: {err}") from err
    if not isinstance(data, dict):
        raise SceneError(f"{file}: expected an object, got {type(data).__name__}")
    for key in ("images", "annotations", "categories"):
        rows = data.get(key)
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise SceneError(f"{file}: {key}: expected a list of objects, got {_short(rows)}")
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
            raise SceneError(f"{where}.name: expected a string, got {_short(row.get('name'))}")
        names[category] = row["name"]
    missing = sorted(set(wanted or ()) - set(names.values()))
    if missing:
        known = sorted(str(name) for name in names.values())
        raise SceneError(f"{file}: categories: expected {missing[0]!r} among {known}")
    return {key: name if wanted is None or name in wanted else None for key, name in names.items()}


def _collect(
    file: Path, folder: Path, data: Mapping[str, Any], names: Mapping[Any, str | None], drop: bool
) -> tuple[list[_ImageEntry], dict[str, int]]:
    """Check every image and annotation and hand the annotations to their images."""
    entries: dict[Any, _ImageEntry] = {}
    for k, row in enumerate(data["images"]):
        where = f"{file}: images[{k}]"
        image_id = _identifier(row.get("id"), f"{where}.id")
        if image_id in entries:
            raise SceneError(f"{where}.id: expected ids that differ, got {image_id!r} twice")
        name = row.get("file_name")
        if not isinstance(name, str) or not name:
            raise SceneError(f"{where}.file_name: expected a name, got {_short(name)}")
        size = (_side(row, "width", where), _side(row, "height", where))
        entries[image_id] = _ImageEntry(image_id, folder / name, size)
    counts = Counter(dict.fromkeys(("instances", "ignored", "clipped", "dropped"), 0))
    counts.update(images=len(entries), other_category=0)
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
        counts.update(instances=1, ignored=int(kept.ignore), clipped=int(clipped))
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
            f"got {_short(row['bbox'])} (bad_boxes='drop' leaves such boxes out and counts them)"
        )
    flags = [_flag(row.get(name, 0), f"{where}.{name}") for name in ("iscrowd", "ignore")]
    if "vis_bbox" not in row:
        return _Row(box, box, 1.0, any(flags), label), box != full
    visible = _clip(_xyxy(row["vis_bbox"], f"{where}.vis_bbox"), size)
    share = min(1.0, _area(visible) / _area(box))
    return _Row(box, visible, share, any(flags), label), box != full


def _xyxy(value: Any, where: str) -> tuple[float, ...]:
    """Return xyxy of a COCO xywh box; width and height may be 0 here, never negative."""
    if (
        not isinstance(value, list)
        or len(value) != 4
        or not all(isinstance(v, int | float) and not isinstance(v, bool) for v in value)
        or not all(abs(v) < 1e9 for v in value)  # False for NaN too
    ):
        raise SceneError(f"{where}: expected four finite numbers [x, y, w, h], got {_short(value)}")
    x, y, w, h = (float(v) for v in value)
    if w < 0 or h < 0:
        raise SceneError(f"{where}: expected width and height >= 0, got {_short(value)}")
    return (x, y, x + w, y + h)


def _clip(box: tuple[float, ...], size: tuple[int, int]) -> tuple[float, ...]:
    """Return the part of an xyxy box inside the image."""
    (x1, y1, x2, y2), (w, h) = box, size
    return (min(max(x1, 0.0), w), min(max(y1, 0.0), h), min(max(x2, 0.0), w), min(max(y2, 0.0), h))


def _area(box: tuple[float, ...]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _has_area(box: np.ndarray) -> bool:
    return bool(box[2] > box[0] and box[3] > box[1])


def _identifier(value: Any, where: str) -> int | str:
    """Return an id: an integer (0 is one) or a string."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise SceneError(f"{where}: expected an integer or a string, got {_short(value)}")
    return value


def _side(row: Mapping[str, Any], name: str, where: str) -> int:
    """Return a checked image side in pixels."""
    value = row.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise SceneError(f"{where}.{name}: expected an integer >= 1, got {_short(value)}")
    return value


def _flag(value: Any, where: str) -> bool:
    """Return a 0/1 field as a bool."""
    if value not in (0, 1) or not isinstance(value, int):
        raise SceneError(f"{where}: expected 0 or 1, got {_short(value)}")
    return bool(value)


def _short(value: Any) -> str:
    """Return a value as it came, cut to a readable length."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
