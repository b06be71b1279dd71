"""Scenes from UAVDT: frames of 50 drone videos and their vehicles, checked when opened."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dip_env.checks import short
from dip_env.errors import ConfigError, SceneError
from dip_env.formats.files import find_files, pick_folder
from dip_env.scenes.readers.arguments import check_arguments
from dip_env.scenes.readers.base import DatasetScenes
from dip_env.scenes.readers.box_checks import (
    BadBoxes,
    boxes_with_area,
    xywh_to_xyxy,
)
from dip_env.scenes.readers.images import DEFAULT_MAX_PIXELS, ExifRotation, ImageOptions
from dip_env.scenes.readers.table import AnnotationTable
from dip_env.scenes.readers.uavdt_rows import (
    BOX,
    CATEGORY,
    FRAME,
    MOST_FRAMES,
    OCCLUSION,
    OUT_OF_VIEW,
    Ints,
    read_rows,
)

TruthKind = Literal["gt_whole", "gt"]
"""Ground truth of detection, with categories, or of tracking, without."""

CATEGORIES = ("car", "truck", "bus")
"""What the categories 1, 2 and 3 of ``gt_whole`` mean."""

TEST_SEQUENCES = frozenset(
    f"M{number:04}"
    for number in (
        *(203, 205, 208, 209, 403, 601, 602, 606, 701, 801, 802, 1001, 1004, 1007, 1009),
        *(1101, 1301, 1302, 1303, 1401),
    )
)
"""The official test part of the detection benchmark; all other sequences are for training."""

_LABELS = {"gt_whole": (*CATEGORIES, "ignore"), "gt": ("vehicle", "ignore")}
_IMAGE = re.compile(r"img([0-9]{6})\.jpg")
# A letter first: unpacked on a Mac, ._M0101_gt_whole.txt may lie beside the file.
_TEXT = re.compile(r"([A-Za-z]\w*?)_(gt_whole|gt_ignore|gt)\.txt")


class UAVDTScenes(DatasetScenes):
    """Frames of UAVDT as scenes; the targets are vehicles, there are no people.

    A row is nine integers: frame (from 1), target, x, y, w, h, out_of_view, occlusion, category.
    ``gt_whole`` is the ground truth of the detection benchmark, with categories (1 car, 2 truck,
    3 bus); ``gt`` is that of tracking, without. Regions of ``gt_ignore`` become ignored instances
    with the label ``ignore``; vehicles of a category left out of ``categories`` are ignored too. A
    frame is a scene if a row names it or its image exists, so frames without any row are known only
    with the images. Sizes are read from the images' headers, on use.

    Visibility is annotated in steps (out_of_view: 1 none, 2 medium, 3 small;
    occlusion: 1 none, 2 large, 3 medium, 4 small), not in pixels. The visible share stays 1; the
    numbers of vehicles with a step other than 1 are in a scene's notes ``occluded`` and
    ``out_of_view``, and in ``counts``. The set is for research only. Layout::

        root/UAV-benchmark-MOTD_v1.0/GT/M0101_gt_whole.txt   and _gt.txt and _gt_ignore.txt
        root/UAV-benchmark-M/M0101/img000001.jpg             (also root/GT or root; root/images)

    ``counts`` holds ``sequences``; frames without a vehicle (``empty``); vehicles by category,
    ``ignore_regions``, vehicles of an ``other_category``, and ``dropped``; frames that ``every``
    left out (``skipped_frames``) and their rows (``skipped_rows``), which nothing else counts; and
    what was passed over: text files that are of no sequence by their names (``other_files``),
    folders of images without annotations (``other_folders``), and files beside the images that are
    no frames by their names (``other_images``).

    Args:
        root: folder of the data.
        split: ``test`` for the official 20 sequences of the detection benchmark, ``train`` for
            the others, ``all`` for both. There is no official val: ``HashSplit`` makes one.
        annotations: folder of the text files; replaces the search below ``root``.
        images: folder of the sequences' folders of images; replaces the search below ``root``.
        every: keep frames 1, 1 + every, 1 + 2 * every...
        truth: ``gt_whole`` or ``gt``.
        categories: target categories; the prompt names them (all: ``vehicle``).
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
        images: str | Path | None = None,
        every: int = 1,
        truth: TruthKind = "gt_whole",
        categories: Collection[str] = CATEGORIES,
        max_pixels: int = DEFAULT_MAX_PIXELS,
        exif_rotation: ExifRotation = "error",
        bad_boxes: BadBoxes = "error",
    ) -> None:
        """Read and check all text files; images are opened one by one, on use."""
        check_arguments(split, bad_boxes, root=root, annotations=annotations, images=images)
        options = ImageOptions(max_pixels, exif_rotation)
        if type(every) is not int or not 1 <= every <= MOST_FRAMES:
            raise ConfigError(f"every: expected an integer from 1 to {MOST_FRAMES}, got {every!r}")
        if truth not in tuple(_LABELS):
            raise ConfigError(f"truth: expected gt_whole or gt, got {truth!r}")
        self.categories = _check_categories(categories, truth)
        candidates = ("UAV-benchmark-MOTD_v1.0/GT", "GT", ".")
        self.folder = (
            Path(annotations) if annotations else pick_folder(root, candidates, "annotations")
        )
        photos = Path(images) if images else pick_folder(root, ("images", "UAV-benchmark-M"))
        self.sequences = _find_sequences(self.folder, split, truth)
        parts = [
            _read_sequence(self.folder, name, truth, photos / name, every, bad_boxes)
            for name in self.sequences
        ]
        table, counts = _table(parts, _LABELS[truth], {"vehicle", *self.categories})
        settings = f"images={str(photos)!r}, every={every}, truth={truth!r}"
        super().__init__(
            table,
            photos,
            target="vehicle" if self.categories == CATEGORIES else " or ".join(self.categories),
            name=f"UAVDTScenes({str(self.folder)!r}, split={split!r}, {settings}, "
            f"categories={self.categories!r})",
            counts={**counts, **_passed_over(self.folder, photos, self.sequences)},
            options=options,
            bad_boxes=bad_boxes,
        )


@dataclass(frozen=True, eq=False)
class _Sequence:
    """Frames (F,) of a sequence that are kept, and the rows (N, 9) in them.

    ``good`` marks the rows with a valid box, ``region`` those of ``gt_ignore``, both (N,).
    """

    name: str
    frames: Ints
    rows: Ints
    good: NDArray[np.bool_]
    region: NDArray[np.bool_]
    skipped_frames: int
    skipped_rows: int


def _check_categories(categories: Collection[str], truth: str) -> tuple[str, ...]:
    """Return the checked target categories, in the order of their numbers."""
    listed = isinstance(categories, Collection) and not isinstance(categories, str)
    names = list(categories) if listed else []
    if not names or not all(name in CATEGORIES for name in names):
        raise ConfigError(f"categories: expected names among {CATEGORIES}, got {short(categories)}")
    if truth == "gt" and not all(name in names for name in CATEGORIES):
        raise ConfigError(f"categories: expected all with truth='gt', which has none, got {names}")
    return tuple(name for name in CATEGORIES if name in names)


def _find_sequences(folder: Path, split: str, truth: str) -> tuple[str, ...]:
    """Return the names of the sequences of a split that have a ground-truth file."""
    if split == "val":
        raise ConfigError(
            "split: UAVDT has no official val; split='train' and "
            "dip_env.scenes.transforms.hash_split.HashSplit make one that keeps sequences whole"
        )
    if split not in ("train", "test", "all"):
        raise ConfigError(f"split: expected train, test or all, got {split!r}")
    if not folder.is_dir():
        raise SceneError(f"{folder}: folder of the annotations is missing")
    found = [_TEXT.fullmatch(file.name) for file in folder.iterdir()]
    names, with_regions = (
        sorted(match[1] for match in found if match and match[2] == kind)
        for kind in (truth, "gt_ignore")
    )
    part = {name: "test" if name in TEST_SEQUENCES else "train" for name in (*names, *with_regions)}
    mine = [name for name in names if split in ("all", part[name])]
    if not mine:
        others = ", ".join(names) or "none at all"
        raise SceneError(
            f"{folder}: expected <sequence>_{truth}.txt of split {split!r}, found {short(others)}"
        )
    for name in with_regions:
        if split in ("all", part[name]) and name not in mine:
            raise SceneError(
                f"{folder / f'{name}_{truth}.txt'}: annotation file is missing, though "
                f"{name}_gt_ignore.txt is there"
            )
    return tuple(mine)


def _passed_over(folder: Path, photos: Path, sequences: Collection[str]) -> dict[str, int]:
    """Count what lies beside the files of the set and was not read, without hidden files."""
    texts = [_TEXT.fullmatch(file.name) for file in find_files(folder, "*.txt")]
    known = {match[1] for match in texts if match}
    groups = [path for path in find_files(photos, "*") if path.is_dir()]
    beside = [file for name in sequences for file in find_files(photos / name, "*")]
    return {
        "other_files": texts.count(None),
        "other_folders": sum(group.name not in known for group in groups),
        "other_images": sum(not _IMAGE.fullmatch(file.name) for file in beside),
    }


def _read_sequence(
    folder: Path, name: str, truth: TruthKind, photos: Path, every: int, bad_boxes: BadBoxes
) -> _Sequence:
    """Read and check the two files of a sequence."""
    files = (folder / f"{name}_{truth}.txt", folder / f"{name}_gt_ignore.txt")
    vehicles, regions = read_rows(files[0], truth), read_rows(files[1], "gt_ignore")
    rows = np.concatenate([vehicles, regions])

    def where(row: int) -> str:
        file, line = (files[0], row) if row < len(vehicles) else (files[1], row - len(vehicles))
        return f"{file}: line {line + 1}"

    good = boxes_with_area(rows[:, BOX].astype(np.float64), where, bad_boxes)
    frames = np.union1d(rows[:, FRAME], _frames_of_images(photos))
    kept, mine = (frames - 1) % every == 0, (rows[:, FRAME] - 1) % every == 0
    return _Sequence(
        name=name,
        frames=frames[kept],
        rows=rows[mine],
        good=good[mine],
        region=(np.arange(len(rows)) >= len(vehicles))[mine],
        skipped_frames=int((~kept).sum()),
        skipped_rows=int((~mine).sum()),
    )


def _frames_of_images(photos: Path) -> Ints:
    """Return the frames whose images are in a folder, none when there is no folder."""
    names = (_IMAGE.fullmatch(file.name) for file in photos.iterdir()) if photos.is_dir() else ()
    frames = np.array([int(match[1]) for match in names if match], np.int64)
    if 0 in frames:
        raise SceneError(f"{photos}: expected images from img000001.jpg on, got img000000.jpg")
    return frames


def _table(
    parts: list[_Sequence], labels: tuple[str, ...], counted: set[str]
) -> tuple[AnnotationTable, dict[str, int]]:
    """Make the table of the valid rows: of every frame its vehicles, then its ignore regions.

    Args:
        parts: the sequences.
        labels: names of the categories, the last for ignore regions.
        counted: names of the targets.

    Returns:
        The table, and the counts.
    """
    starts = np.cumsum([0, *(len(part.frames) for part in parts)])[:-1]
    image = np.concatenate(
        [
            np.searchsorted(part.frames, part.rows[:, FRAME]) + start
            for part, start in zip(parts, starts, strict=True)
        ]
    )
    rows = np.concatenate([part.rows for part in parts])
    good = np.concatenate([part.good for part in parts])
    region = np.concatenate([part.region for part in parts])
    with_categories = len(labels) > 2
    label = np.where(region, len(labels) - 1, rows[:, CATEGORY] - 1 if with_categories else 0)
    groups = [part.name for part in parts for _ in part.frames]
    frames = np.concatenate([part.frames for part in parts]).tolist()

    def per_frame(mask: NDArray[np.bool_]) -> Ints:
        return np.bincount(image[mask], minlength=len(frames))

    noted = {"dropped": per_frame(~good)}
    if with_categories:
        noted["occluded"] = per_frame(good & ~region & (rows[:, OCCLUSION] != 1))
        noted["out_of_view"] = per_frame(good & ~region & (rows[:, OUT_OF_VIEW] != 1))
    order = np.argsort(image, kind="stable")
    order = order[good[order]]
    ids = [f"{group}/{frame:06d}" for group, frame in zip(groups, frames, strict=True)]
    table = AnnotationTable.of(
        names=ids,
        files=[f"{group}/img{frame:06d}.jpg" for group, frame in zip(groups, frames, strict=True)],
        per_image=per_frame(good).tolist(),
        boxes=xywh_to_xyxy(rows[order, BOX]),
        ignore=np.array([name not in counted for name in labels])[label[order]],
        label=label[order],
        labels=labels,
        notes={
            "group": groups,
            "frame": frames,
            **{name: column.tolist() for name, column in noted.items()},
        },
    )
    by_label = dict(zip(labels, np.bincount(label, minlength=len(labels)).tolist(), strict=True))
    regions = by_label.pop("ignore")
    counts = {
        "sequences": len(parts),
        "empty": int((per_frame(~region) == 0).sum()),
        **by_label,
        "ignore_regions": regions,
        "other_category": sum(count for name, count in by_label.items() if name not in counted),
        **{name: int(column.sum()) for name, column in noted.items()},
        "skipped_frames": sum(part.skipped_frames for part in parts),
        "skipped_rows": sum(part.skipped_rows for part in parts),
    }
    return table, counts
