"""Annotations of many images as columns, and the scenes they make; knows no file format.

A reader checks its files once and leaves a table of a few arrays; scenes and images are made one
by one, on use. So a set of 15,000 images takes megabytes, and copies to worker processes fast.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from operator import index as as_index
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dip_env.boxes import box_area
from dip_env.errors import ConfigError, SceneError
from dip_env.formats.files import short
from dip_env.scenes.base import Scene
from dip_env.scenes.readers.images import DEFAULT_MAX_PIXELS, find_image, image_size, load_rgb

BadBoxes = Literal["error", "drop"]
"""What to do with a box that has no area inside its image: refuse the file, or count it."""


@dataclass(frozen=True, eq=False)
class SceneTable:
    """Checked annotations of I images with N boxes in all, image after image.

    Args:
        names: scene id of each image, I strings that differ.
        files: image file of each, relative to the image folder.
        sizes: int32 (I, 2) width and height in pixels; 0 where only the image's header knows.
        starts: int64 (I + 1,), rows ``starts[i]:starts[i + 1]`` belong to image i.
        boxes: float32 (N, 4) full boxes, xyxy, scene frame.
        visible_boxes: float32 (N, 4) boxes of the visible part.
        visible_share: float32 (N,) in [0, 1].
        ignore: bool (N,).
        label: uint16 (N,) index into ``labels``.
        labels: names of the categories.
        notes: further columns, I values each, handed to the scenes as notes.
        visible_known: whether the data set says which part of an instance is seen.
    """

    names: Sequence[str]
    files: Sequence[str]
    sizes: NDArray[np.int32]
    starts: NDArray[np.int64]
    boxes: NDArray[np.float32]
    visible_boxes: NDArray[np.float32]
    visible_share: NDArray[np.float32]
    ignore: NDArray[np.bool_]
    label: NDArray[np.uint16]
    labels: tuple[str, ...]
    notes: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    visible_known: bool = True

    @classmethod
    def of(
        cls,
        *,
        names: Sequence[str],
        files: Sequence[str],
        per_image: Sequence[int],
        boxes: Any,
        ignore: Any,
        label: Any,
        labels: tuple[str, ...],
        sizes: Any = None,
        visible_boxes: Any = None,
        notes: Mapping[str, Sequence[Any]] | None = None,
    ) -> SceneTable:
        """Make a table and measure the visible shares.

        Args:
            names: see the class.
            files: see the class.
            per_image: boxes of each image.
            boxes: (N, 4) xyxy full boxes, with area.
            ignore: (N,) flags.
            label: (N,) indices into ``labels``.
            labels: names of the categories.
            sizes: (I, 2), none known by default.
            visible_boxes: (N, 4) xyxy; None where the data set has none, then all is taken to be
                seen.
            notes: see the class.

        Returns:
            The table; a visible share is the ratio of the areas, at most 1.
        """
        full = np.asarray(boxes, np.float64).reshape(-1, 4)
        seen = full if visible_boxes is None else np.asarray(visible_boxes, float).reshape(-1, 4)
        share = np.minimum(1.0, box_area(seen) / box_area(full))
        count = len(names)
        return cls(
            names=names,
            files=files,
            sizes=np.zeros((count, 2), np.int32) if sizes is None else np.asarray(sizes, np.int32),
            starts=np.concatenate([[0], np.cumsum(per_image, dtype=np.int64)]).astype(np.int64),
            boxes=full.astype(np.float32),
            visible_boxes=seen.astype(np.float32),
            visible_share=share.astype(np.float32),
            ignore=np.asarray(ignore, bool).reshape(-1),
            label=np.asarray(label, np.uint16).reshape(-1),
            labels=labels,
            notes=notes or {},
            visible_known=visible_boxes is not None,
        )


class AnnotatedScenes:
    """Scenes from a table of annotations and a folder of images.

    Args:
        table: checked annotations.
        images: folder of the image files.
        target: what is to be found, a singular noun.
        name: repr of the source; names the files and all choices that change scenes.
        counts: further counts worth reporting.
        suffixes: endings to try where ``table.files`` has none.
        max_pixels: larger images are refused before they are decoded.
        bad_boxes: what to do with a box outside an image whose size only its header tells.
    """

    def __init__(
        self,
        table: SceneTable,
        images: Path,
        *,
        target: str,
        name: str,
        counts: Mapping[str, int] | None = None,
        suffixes: Sequence[str] = ("",),
        max_pixels: int = DEFAULT_MAX_PIXELS,
        bad_boxes: BadBoxes = "error",
    ) -> None:
        """Keep the table; no image is opened."""
        self.table, self.images, self.target = table, Path(images), target
        self.suffixes, self.max_pixels, self.bad_boxes = tuple(suffixes), max_pixels, bad_boxes
        self._name = name
        self.counts: Mapping[str, int] = {
            "images": len(table.names),
            "instances": len(table.boxes),
            "ignored": int(table.ignore.sum()),
            **(counts or {}),
        }
        """Images, instances, ignored (instances all the same), and what else was counted."""

    def __repr__(self) -> str:
        """Name the files and what is kept of them."""
        return self._name

    def __len__(self) -> int:
        """Return the number of images, with or without instances."""
        return len(self.table.names)

    def has_image(self, index: int) -> bool:
        """Return whether the image file of a scene is there."""
        stem = self.images / self.table.files[index]
        return any(stem.with_name(stem.name + suffix).is_file() for suffix in self.suffixes)

    def image_path(self, index: int) -> Path:
        """Return the image file of a scene.

        Raises:
            SceneError: when the file is missing.
        """
        return find_image(self.images, self.table.files[index], self.suffixes)

    def __getitem__(self, index: int) -> Scene:
        """Return a scene; raises IndexError outside the range.

        Raises:
            SceneError: for an image that is missing or too small for its boxes, where the
                annotations state no size.
        """
        index = as_index(index)
        if not 0 <= index < len(self):
            raise IndexError(f"{self!r}: expected 0..{len(self) - 1}, got {index}")
        table = self.table
        size = (int(table.sizes[index, 0]), int(table.sizes[index, 1]))
        path = self.images / table.files[index]
        rows = np.arange(table.starts[index], table.starts[index + 1])
        dropped = 0
        if size == (0, 0):
            path = self.image_path(index)
            size = image_size(path)
            inside = self._inside(rows, size, f"{path}: scene {table.names[index]}")
            dropped, rows = int((~inside).sum()), rows[inside]
        notes = {key: column[index] for key, column in table.notes.items()}
        return Scene(
            scene_id=table.names[index],
            size=size,
            boxes=table.boxes[rows],
            visible_boxes=table.visible_boxes[rows],
            visible_share=table.visible_share[rows],
            ignore=table.ignore[rows],
            labels=tuple(table.labels[k] for k in table.label[rows]),
            load_image=partial(load_rgb, path, size, self.max_pixels),
            notes={"file": str(path), **notes, "dropped": notes.get("dropped", 0) + dropped},
            target=self.target,
        )

    def _inside(
        self, rows: NDArray[np.int64], size: tuple[int, int], where: str
    ) -> NDArray[np.bool_]:
        """Return which boxes have area inside the image, or raise for the first that has none."""
        x1, y1, x2, y2 = self.table.boxes[rows].T
        inside = (x1 < size[0]) & (y1 < size[1]) & (x2 > 0) & (y2 > 0)
        if self.bad_boxes == "error" and not inside.all():
            box = self.table.boxes[rows[np.argmin(inside)]].tolist()
            raise SceneError(
                f"{where}: box {box}: expected an area inside the image of "
                f"{size[0]}x{size[1]} (bad_boxes='drop' leaves such boxes out and counts them)"
            )
        return np.asarray(inside, bool)


def check_bad_boxes(value: str) -> None:
    """Require a known choice.

    Raises:
        ConfigError: for another one.
    """
    if value not in ("error", "drop"):
        raise ConfigError(f"bad_boxes: expected error or drop, got {value!r}")


def boxes_with_area(
    xywh: NDArray[np.float64], where: Callable[[int], str], bad_boxes: BadBoxes
) -> NDArray[np.bool_]:
    """Tell which boxes have an area, in the precision scenes have.

    Args:
        xywh: (N, 4) x, y, width, height.
        where: names file, place and field of a row, for the message.
        bad_boxes: raise for a box without area, or tell it.

    Returns:
        (N,) True where the width and height are above 0.

    Raises:
        SceneError: for the first box without area, unless such are to be dropped.
    """
    box = corners(xywh).astype(np.float32)
    good = (box[:, 2:] > box[:, :2]).all(axis=1)
    return good_boxes(good, xywh, "width and height above 0", where, bad_boxes)


def good_boxes(
    good: Any,
    xywh: NDArray[np.float64],
    expected: str,
    where: Callable[[int], str],
    bad_boxes: BadBoxes,
) -> NDArray[np.bool_]:
    """Raise for the first box that is not good, unless such are to be dropped.

    Args:
        good: (N,) True for boxes that are as expected.
        xywh: (N, 4) the boxes as annotated.
        expected: what a good box has, for the message.
        where: names file, place and field of a row, for the message.
        bad_boxes: raise, or leave it to the caller to drop and count.

    Returns:
        ``good`` as an array.

    Raises:
        SceneError: as said.
    """
    good = np.asarray(good, bool)
    if bad_boxes == "error" and not good.all():
        first = int(np.argmin(good))
        raise SceneError(
            f"{where(first)}: expected {expected}, got {short(xywh[first].tolist())} "
            "(bad_boxes='drop' leaves such boxes out and counts them)"
        )
    return good


def corners(xywh: Any) -> NDArray[np.float64]:
    """Turn (N, 4) x, y, width, height into xyxy."""
    boxes = np.asarray(xywh, np.float64).reshape(-1, 4)
    return np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]])
