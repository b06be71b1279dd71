"""Scenes from a COCO json file and a folder of images, checked when opened."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dip_env.checks import short
from dip_env.errors import ConfigError, SceneError
from dip_env.formats.box_sets import Truth
from dip_env.formats.coco_json import as_truth
from dip_env.formats.files import (
    check_file_name,
    find_files,
    parse_json,
    pick_folder,
    pick_split,
    read_text,
)
from dip_env.formats.json_rows import Rows
from dip_env.scenes.readers.arguments import check_arguments, check_names
from dip_env.scenes.readers.base import DatasetScenes
from dip_env.scenes.readers.box_checks import BadBoxes, xywh_to_xyxy
from dip_env.scenes.readers.images import DEFAULT_MAX_PIXELS, ExifRotation, ImageOptions
from dip_env.scenes.readers.table import AnnotationTable


class CocoScenes(DatasetScenes):
    """A COCO data set as scenes.

    ``bbox`` is the full box; ``vis_bbox`` the visible one where a data set has it (else the
    full box). ``iscrowd`` (or ``ignore``) marks ignored instances. Boxes
    that run over the border are clipped and counted. A box without area, or entirely outside
    its image, is an error, or dropped and counted with ``bad_boxes="drop"`` (COCO's own
    train2017 holds a few). ``counts`` holds ``clipped`` and ``dropped`` boxes, those of an
    ``other_category``, and images whose file another image has too (``shared_files``). Annotations
    of COCO are CC BY 4.0; the photographs are under their owners' Flickr licences. Layout::

        root/annotations.json            or  root/annotations/instances_val2017.json
        root/images/000000142238.jpg     or  root/val2017/000000142238.jpg
                                         or  root/images/val2017/000000142238.jpg

    Args:
        root: folder of the data.
        split: which json to take where ``annotations/`` holds several.
        annotations: path of the json; replaces the search below ``root``.
        images: folder of the images; replaces the search below ``root``.
        categories: names to keep, None for all. They are the target the prompt names.
        max_pixels: larger images are refused before they are decoded.
        exif_rotation: ``apply`` turns an image as its EXIF data say; else it is taken as it is
            stored, as the COCO tools do, and has to have the annotated size.
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
        exif_rotation: ExifRotation = "error",
        bad_boxes: BadBoxes = "error",
    ) -> None:
        """Read and check the whole json; images are opened one by one, on use."""
        check_arguments(split, bad_boxes, root=root, annotations=annotations, images=images)
        options = ImageOptions(max_pixels, exif_rotation)
        self.file = Path(annotations) if annotations else _find_annotations(root, split)
        self.categories = None if categories is None else check_names("categories", categories)
        data = parse_json(read_text(self.file), str(self.file))
        table, counts = _table(data, str(self.file), self.categories, bad_boxes)
        super().__init__(
            table,
            Path(images) if images else _find_images(root, self.file),
            target=" or ".join(self.categories) if self.categories else "annotated object",
            name=f"CocoScenes({str(self.file)!r}, categories={self.categories!r})",
            counts=counts,
            options=options,
            bad_boxes=bad_boxes,
        )


def _find_annotations(root: str | Path | None, split: str) -> Path:
    """Return the json below ``root`` that belongs to ``split``."""
    if root is None:
        raise ConfigError("coco: expected root=, or annotations= and images=")
    folder = Path(root)
    if (folder / "annotations.json").is_file():
        return folder / "annotations.json"
    files = find_files(folder / "annotations", "*.json")
    # The official archive holds captions_* and person_keypoints_* beside instances_*.
    files = [file for file in files if file.stem.startswith("instances")] or files
    return pick_split(files, split, folder, "annotations.json or one annotations/*.json")


def _find_images(root: str | Path | None, annotations: Path) -> Path:
    """Return the image folder that goes with ``annotations``."""
    part = annotations.stem.rpartition("_")[2]
    return pick_folder(root, (part, f"images/{part}", "images"))


def _table(
    data: Any, file: str, categories: tuple[str, ...] | None, bad_boxes: BadBoxes
) -> tuple[AnnotationTable, dict[str, int]]:
    """Check the whole file; keep boxes of the wanted categories that lie inside their images."""
    truth = as_truth(data, file, signed=True)
    images = Rows.of(data["images"], file, "images")
    names = [str(image_id) for image_id in truth.image_ids]
    images.check_differ("id", names)  # 7 and "7" would be one scene
    files = [
        check_file_name(row.get("file_name"), f"{file}: images[{k}].file_name")
        for k, row in enumerate(images.rows)
    ]
    wanted = _wanted(truth, file, categories)
    limit = np.tile(truth.sizes, 2)[truth.image]
    clipped, seen = (
        np.clip(xywh_to_xyxy(box), 0, limit) for box in (truth.xywh, truth.visible_xywh)
    )
    # Scenes store float32, in which a sliver can lose its area.
    stored = clipped.astype(np.float32)
    inside = np.asarray((stored[:, 2:] > stored[:, :2]).all(axis=1), bool)
    visible = (truth.visible_xywh[:, 2:] >= 0).all(axis=1)  # an instance may be fully hidden
    inside &= visible
    if bad_boxes == "error" and not inside[wanted].all():
        raise _outside(truth, data, file, int(np.argmax(wanted & ~inside)))
    keep = wanted & inside
    cut = keep & np.not_equal(clipped, truth.xyxy).any(axis=1)

    def per_image(rows: NDArray[np.bool_]) -> list[int]:
        return np.bincount(truth.image[rows], minlength=truth.images).tolist()

    ids, label = np.unique(truth.category[keep], return_inverse=True)
    table = AnnotationTable.of(
        names=names,
        files=files,
        sizes=truth.sizes,
        per_image=per_image(keep),
        boxes=clipped[keep],
        visible_boxes=seen[keep] if any("vis_bbox" in row for row in data["annotations"]) else None,
        ignore=truth.ignore[keep],
        label=label,
        labels=tuple(truth.category_names.get(k, str(k)) for k in ids.tolist()),
        notes={
            "image_id": list(truth.image_ids),
            "clipped": per_image(cut),
            "dropped": per_image(wanted & ~inside),
        },
    )
    counts = {
        "clipped": int(cut.sum()),
        "dropped": int((wanted & ~inside).sum()),
        "other_category": int((~wanted).sum()),
        "shared_files": len(files) - len({PurePosixPath(name) for name in files}),
    }
    return table, counts


def _wanted(truth: Truth, file: str, categories: tuple[str, ...] | None) -> NDArray[np.bool_]:
    """Return which annotations are of the wanted categories."""
    if categories is None:
        return np.ones(len(truth), dtype=bool)
    known = sorted(set(truth.category_names.values()))
    for name in categories:
        if name not in known:
            raise SceneError(f"{file}: categories: expected {name!r} among {known}")
    ids = [number for number, name in truth.category_names.items() if name in categories]
    return np.isin(truth.category, ids)


def _outside(truth: Truth, data: Any, file: str, row: int) -> SceneError:
    """Return an error about a box without area in its image, with its index in the file."""
    image_id = truth.image_ids[truth.image[row]]
    index = [k for k, note in enumerate(data["annotations"]) if note["image_id"] == image_id][
        row - int(truth.starts[truth.image[row]])
    ]
    width, height = truth.sizes[truth.image[row]].astype(int)
    field, expected, box = "bbox", f"an area inside the image of {width}x{height}", truth.xywh[row]
    if (truth.visible_xywh[row, 2:] < 0).any() and "vis_bbox" in data["annotations"][index]:
        field, expected = "vis_bbox", "width and height of at least 0"
        box = truth.visible_xywh[row]
    return SceneError(
        f"{file}: annotations[{index}].{field}: expected {expected}, got {short(box.tolist())} "
        "(bad_boxes='drop' leaves such boxes out and counts them)"
    )
