"""The base of all readers: scenes from a table of annotations. Independent of file formats.

A reader checks its files once and keeps a table of a few arrays; scenes and images are made one
by one, on use. A set of 15,000 images therefore takes megabytes and is copied to worker processes
quickly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from operator import index as as_index
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dip_env.errors import SceneError
from dip_env.scenes.base import Scene
from dip_env.scenes.readers.box_checks import BadBoxes
from dip_env.scenes.readers.images import (
    ImageOptions,
    find_image,
    image_files,
    image_size,
    load_rgb,
)
from dip_env.scenes.readers.table import AnnotationTable


class DatasetScenes:
    """Scenes from a table of annotations and a folder of images.

    Args:
        table: checked annotations.
        images: folder of the image files, or several folders that share them.
        target: what is to be found, a singular noun.
        name: repr of the source, with the files and all settings that change scenes.
        counts: further counts worth reporting.
        options: how images are read; its suffixes are tried where ``table.files`` has none.
        bad_boxes: what to do with a box outside its image, where only the header states the size.
    """

    def __init__(
        self,
        table: AnnotationTable,
        images: Path | Sequence[Path],
        *,
        target: str,
        name: str,
        counts: Mapping[str, int] | None = None,
        options: ImageOptions,
        bad_boxes: BadBoxes = "error",
    ) -> None:
        """Store the table; no image is opened."""
        self.table, self.target = table, target
        self.folders = (images,) if isinstance(images, Path) else tuple(images)
        self.options, self.bad_boxes = options, bad_boxes
        # The only option that changes what scenes show.
        turned = options.exif_rotation != "error"
        self._name = f"{name[:-1]}, exif_rotation={options.exif_rotation!r})" if turned else name
        self.counts: Mapping[str, int] = {
            "images": len(table.names),
            "instances": len(table.boxes),
            "ignored": int(table.ignore.sum()),
            **(counts or {}),
        }
        """Images, instances (ignored ones included), ignored instances, and further counts."""

    def __repr__(self) -> str:
        """Return the files and the settings."""
        return self._name

    def __len__(self) -> int:
        """Return the number of images, with or without instances."""
        return len(self.table.names)

    @property
    def images(self) -> Path:
        """Folder of the image files; the first of several."""
        return self.folders[0]

    def has_image(self, index: int) -> bool:
        """Return whether the image file of a scene exists."""
        return bool(image_files(self.folders, self.table.files[index], self.options.suffixes))

    def image_path(self, index: int) -> Path:
        """Return the image file of a scene.

        Raises:
            SceneError: when the file is missing, or lies in two folders.
        """
        return find_image(self.folders, self.table.files[index], self.options.suffixes)

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
        rows = np.arange(table.starts[index], table.starts[index + 1])
        dropped = 0
        if size == (0, 0):
            path = self.image_path(index)
            size = image_size(path, self.options)
            inside = self._inside(rows, size, f"{path}: scene {table.names[index]}")
            dropped, rows = int((~inside).sum()), rows[inside]
        else:  # the image may be missing until it is used
            found = image_files(self.folders, table.files[index], self.options.suffixes)
            path = found[0] if found else self.folders[0] / table.files[index]
        notes = {key: column[index] for key, column in table.notes.items()}
        return Scene(
            scene_id=table.names[index],
            size=size,
            boxes=table.boxes[rows],
            visible_boxes=table.visible_boxes[rows],
            visible_share=table.visible_share[rows],
            ignore=table.ignore[rows],
            labels=tuple(table.labels[k] for k in table.label[rows]),
            load_image=partial(load_rgb, path, size, self.options),
            notes={"file": str(path), **notes, "dropped": notes.get("dropped", 0) + dropped},
            target=self.target,
        )

    def _inside(
        self, rows: NDArray[np.int64], size: tuple[int, int], where: str
    ) -> NDArray[np.bool_]:
        """Return which boxes have an area inside the image, or raise for the first without."""
        x1, y1, x2, y2 = self.table.boxes[rows].T
        inside = (x1 < size[0]) & (y1 < size[1]) & (x2 > 0) & (y2 > 0)
        if self.bad_boxes == "error" and not inside.all():
            box = self.table.boxes[rows[np.argmin(inside)]].tolist()
            raise SceneError(
                f"{where}: box {box}: expected an area inside the image of "
                f"{size[0]}x{size[1]} (bad_boxes='drop' leaves such boxes out and counts them)"
            )
        return np.asarray(inside, bool)
