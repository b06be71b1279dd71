"""Ground truth and detections from COCO json files. Independent of metrics."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dip_env.checks import short
from dip_env.errors import SceneError
from dip_env.formats.box_sets import Detections, Indices, Truth
from dip_env.formats.files import parse_json, read_text
from dip_env.formats.json_rows import (
    NEEDED,
    Rows,
    amounts,
    boxes,
    flags,
    identifiers,
    integers,
    numbers,
    sides,
    signed_boxes,
    strings,
)

_ID = "an integer or a string"
_SIGNED_BOX = "[x, y, width, height], finite numbers below 1e9"
_BOX = f"{_SIGNED_BOX}, sides >= 0"


def read_truth(path: str | Path, *, as_annotated: bool = False) -> Truth:
    """Read a COCO annotation file.

    Args:
        path: the json file, as :func:`as_truth` describes it.
        as_annotated: read boxes as they were before they were clipped, where the file has them.

    Returns:
        Its images and annotations, in file order.

    Raises:
        SceneError: for a missing or malformed file; the message names file and field.
    """
    data = parse_json(read_text(Path(path)), str(path))
    return as_truth(data, str(path), as_annotated=as_annotated)


def read_detections(path: str | Path, truth: Truth, *, scores_needed: bool = True) -> Detections:
    """Read a COCO result file.

    Args:
        path: the json file, as :func:`as_detections` describes it.
        truth: the images that were searched.
        scores_needed: whether a row without a score is an error; else its score is 1.

    Returns:
        Its detections by image, in file order within each.

    Raises:
        SceneError: for a missing or malformed file; the message names file and field.
    """
    rows = parse_json(read_text(Path(path)), str(path))
    return as_detections(rows, truth, str(path), scores_needed=scores_needed)


def as_truth(data: Any, where: str, *, signed: bool = False, as_annotated: bool = False) -> Truth:
    """Check parsed COCO annotations and turn them into columns.

    ``images`` have id, width and height. ``annotations`` have image_id, category_id and bbox
    [x, y, width, height] in pixels of the image, and may have id, iscrowd and ignore (either marks
    an ignored instance), vis_bbox (else the full box) and area (else width times height).
    ``categories`` with id and name may be left out. Ids of images are integers or strings. Files
    that ``dip evaluate`` writes have boxes clipped to the image, and the annotated ones as
    ``full_bbox`` and ``full_vis_bbox``.

    Args:
        data: the parsed file.
        where: name of the data in messages.
        signed: accept boxes with sides below 0, which the caller has to sort out.
        as_annotated: read the annotated boxes instead of the clipped ones, where there are any.

    Returns:
        Images in file order; annotations by image, in file order within each.

    Raises:
        SceneError: for anything else; the message names the field and what was expected.
    """
    if not isinstance(data, dict):
        hint = "a list (are these detections?)" if isinstance(data, list) else short(data)
        raise SceneError(f"{where}: expected an object with images and annotations, got {hint}")
    images = Rows.of(data.get("images"), where, "images")
    notes = Rows.of(data.get("annotations"), where, "annotations")
    ids = images.column("id", identifiers, _ID)
    images.check_differ("id", ids)
    size = [images.column(key, sides, "an integer >= 1") for key in ("width", "height")]
    with_id = notes.having("id")
    with_id.check_differ("id", with_id.column("id", identifiers, _ID))
    names = _category_names(data, where)
    parse, expected = (signed_boxes, _SIGNED_BOX) if signed else (boxes, _BOX)
    xywh = notes.column("bbox", parse, expected)
    full = [row["bbox"] for row in notes.rows]
    plain = np.maximum(xywh[:, 2:], 0).prod(axis=1).tolist()
    iscrowd, ignore = (
        notes.column(key, flags, "0 or 1", [0] * len(xywh)) for key in ("iscrowd", "ignore")
    )
    seen = notes.column("vis_bbox", parse, expected, full)
    if as_annotated:
        xywh = notes.column("full_bbox", parse, expected, full)
        seen = notes.column("full_vis_bbox", parse, expected, seen.tolist())
    order, starts = _by_image(notes, ids)
    return Truth(
        xywh=xywh[order],
        starts=starts,
        category=_categories(notes, names)[order],
        image_ids=tuple(ids),
        sizes=np.stack(size, axis=1),
        ignore=(iscrowd | ignore)[order],
        visible_xywh=seen[order],
        area=notes.column("area", amounts, "a finite number >= 0", plain)[order],
        category_names=names,
        iscrowd=iscrowd[order],
    )


def as_detections(rows: Any, truth: Truth, where: str, *, scores_needed: bool = True) -> Detections:
    """Check parsed COCO results and turn them into columns.

    Each row has image_id, bbox [x, y, width, height] in pixels of the image and score, and may
    leave out category_id where the ground truth has one category only.

    Args:
        rows: the parsed file, a list of objects.
        truth: the images that were searched.
        where: name of the file in messages.
        scores_needed: whether a row without a score is an error; else its score is 1.

    Returns:
        Detections by image, images as in the ground truth, in file order within each.

    Raises:
        SceneError: for anything else; the message names the field and what was expected.
    """
    if not isinstance(rows, list):
        hint = "an object (is this the ground truth?)" if isinstance(rows, dict) else short(rows)
        raise SceneError(f"{where}: expected a list of detections, got {hint}")
    found = Rows.of(rows, where, "detections")
    score = NEEDED if scores_needed else [1.0] * len(rows)
    only = _only_category(truth)
    xywh = found.column("bbox", boxes, _BOX)
    scores = found.column("score", numbers, "a finite number", score)
    category = _categories(found, truth.category_names, only)
    order, starts = _by_image(found, truth.image_ids)
    return Detections(
        xywh=xywh[order], starts=starts, category=category[order], scores=scores[order]
    )


def _by_image(rows: Rows, image_ids: Sequence[int | str]) -> tuple[Indices, Indices]:
    """Return the order that sorts rows by image, and the start of each image."""
    ids = rows.column("image_id", identifiers, _ID)
    number = {image_id: i for i, image_id in enumerate(image_ids)}
    images = [number.get(image_id, -1) for image_id in ids]
    if -1 in images:
        k = images.index(-1)
        message = f"expected the id of a known image, got {short(ids[k])}"
        for other in number:
            if str(other) == str(ids[k]):
                message += f" (there is {other!r}, {_kind(other)})"
        raise rows.error(k, "image_id", message)
    image = np.array(images, dtype=np.int64)
    count = np.bincount(image, minlength=len(number))
    return np.argsort(image, kind="stable"), np.concatenate([[0], np.cumsum(count)])


def _kind(image_id: int | str) -> str:
    return "a string" if isinstance(image_id, str) else "an integer"


def _category_names(data: Mapping[str, Any], where: str) -> dict[int, str]:
    """Return the names of the listed categories, none where the file has no list."""
    if "categories" not in data:
        return {}
    rows = Rows.of(data["categories"], where, "categories")
    ids = rows.column("id", integers, "an integer").tolist()
    rows.check_differ("id", ids)
    names = rows.column("name", strings, "a string", [str(number) for number in ids])
    return dict(zip(ids, names, strict=True))


def _categories(rows: Rows, names: Collection[int], only: int | None = None) -> Indices:
    """Return checked categories; without names any integer is valid."""
    defaults = NEEDED if only is None else [only] * len(rows.rows)
    expected = f"one of the categories {short(sorted(names))}" if names else "an integer"
    category = rows.column("category_id", integers, expected, defaults)
    if names:
        strange = ~np.isin(category, list(names))
        if strange.any():
            k = int(np.argmax(strange))
            raise rows.error(k, "category_id", f"expected {expected}, got {category[k]}")
    return category


def _only_category(truth: Truth) -> int | None:
    """Return the only category of a ground truth, listed or used; None where it has several."""
    used = np.unique(truth.category).tolist()
    for categories in (list(truth.category_names), used):
        if len(categories) == 1:
            return int(categories[0])
    return None if used or truth.category_names else 1
