"""Statistics of a source."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dip_env.scenes.base import SceneSource
from dip_env.scenes.readers.base import DatasetScenes
from dip_env.scenes.readers.images import read_header

HEIGHTS = (20, 50, 75, 100, 200, 400)
"""Bin edges of the height histogram in pixels; 50 to 75 is small in CityPersons."""
SHARES = (0.2, 0.65, 0.9)
"""Bin edges of visibility: heavily occluded, partially occluded, bare in CityPersons."""
CROWDS = (1, 6, 11, 21, 41)
"""Bin edges of people per image."""
MOST_SIZES = 10
"""Image sizes that are listed one by one, the most frequent first."""


def summarise(source: SceneSource, indices: Sequence[int]) -> dict[str, Any]:
    """Summarize scenes and their annotations.

    Annotations on disk are counted from their table, so images may be missing; of the images only
    headers are read.

    Args:
        source: where the scenes come from.
        indices: which of them, each once.

    Returns:
        ``images``, ``people`` (non-ignored instances), ``ignored``, ``empty_images``, ``labels``
        (of all instances), ``sizes`` (images by WxH, the ten most frequent and ``other``),
        ``images_missing``, ``images_turned`` (by their EXIF data; None where annotations state
        the sizes, so that no header is read), histograms ``people_per_image``, ``height_px`` (full
        box) and ``visible_share`` of the people (None where the data set has none), and ``counts``
        of the reader where it has some. All values are JSON-serializable.
    """
    columns = (
        _from_table(source, indices)
        if isinstance(source, DatasetScenes)
        else _from_scenes(source, indices)
    )
    known = not isinstance(source, DatasetScenes) or source.table.visible_known
    people: NDArray[np.bool_] = ~columns["ignore"]
    per_image = np.bincount(columns["image"][people], minlength=len(indices))
    sizes = Counter(size for size in columns["sizes"] if size)
    turned = columns.get("turned")
    listed = dict(sizes.most_common(MOST_SIZES))
    if len(sizes) > MOST_SIZES:
        listed["other"] = sum(sizes.values()) - sum(listed.values())
    summary: dict[str, Any] = {
        "source": repr(source),
        "images": len(indices),
        "people": int(people.sum()),
        "ignored": int((~people).sum()),
        "empty_images": int((per_image == 0).sum()),
        "labels": dict(Counter(columns["labels"]).most_common()),
        "sizes": listed,
        "images_missing": sum(size is None for size in columns["sizes"]),
        "images_turned": None if turned is None else sum(turned),
        "people_per_image": histogram(per_image, CROWDS, whole=True),
        "height_px": histogram(columns["height"][people], HEIGHTS),
        "visible_share": histogram(columns["share"][people], SHARES) if known else None,
    }
    counts = getattr(source, "counts", None)
    return summary | ({"counts": dict(counts)} if counts is not None else {})


def histogram(values: Any, limits: Sequence[float], *, whole: bool = False) -> dict[str, int]:
    """Count values in bins; a value at an edge belongs to the bin above it.

    Args:
        values: (N,) numbers.
        limits: ascending bin edges.
        whole: whether the values are integers; then a bin is named by its first and last.

    Returns:
        Counts of the ``len(limits) + 1`` bins, by name.
    """
    counted = np.bincount(
        np.searchsorted(limits, np.asarray(values), side="right"), minlength=len(limits) + 1
    )
    if whole:
        ends = [limit - 1 for limit in limits]
        starts = [0, *limits[:-1]]
        names = [f"{a}" if a == b else f"{a}-{b}" for a, b in zip(starts, ends, strict=True)]
    else:
        names = [f"{a}-{b}" for a, b in zip([0, *limits[:-1]], limits, strict=True)]
    return dict(zip([*names, f">={limits[-1]}"], counted.tolist(), strict=True))


def _from_table(source: DatasetScenes, indices: Sequence[int]) -> dict[str, Any]:
    """Collect columns without making scenes."""
    table = source.table
    chosen = np.asarray(indices, np.int64)
    number = np.diff(table.starts)[chosen]
    image = np.repeat(np.arange(len(chosen)), number)
    offset = np.arange(len(image)) - np.repeat(np.cumsum(number) - number, number)
    rows = np.repeat(table.starts[chosen], number) + offset
    return {
        "image": image,
        "ignore": table.ignore[rows],
        "share": table.visible_share[rows],
        "height": table.boxes[rows, 3] - table.boxes[rows, 1],
        "labels": [table.labels[k] for k in table.label[rows]],
        **_from_headers(source, chosen),
    }


def _from_headers(source: DatasetScenes, chosen: NDArray[np.int64]) -> dict[str, Any]:
    """Return the sizes of images, None for those missing; read where no annotation states them."""
    present = [source.has_image(int(index)) for index in chosen]
    stated = source.table.sizes[chosen]
    if stated.any():
        pairs = zip(stated.tolist(), present, strict=True)
        return {
            "sizes": [f"{width}x{height}" if there else None for (width, height), there in pairs]
        }
    headers = [
        read_header(source.image_path(int(index))) if there else None
        for index, there in zip(chosen, present, strict=True)
    ]
    upright = source.options.exif_rotation == "apply"
    sizes = [header and (header.upright_size if upright else header.size) for header in headers]
    return {
        "sizes": [f"{size[0]}x{size[1]}" if size else None for size in sizes],
        "turned": [header is not None and header.orientation != 1 for header in headers],
    }


def _from_scenes(source: SceneSource, indices: Sequence[int]) -> dict[str, Any]:
    """Collect columns scene by scene."""
    scenes = [source[index] for index in indices]
    empty = np.zeros(0)
    return {
        "image": np.repeat(np.arange(len(scenes)), [len(scene.labels) for scene in scenes]),
        "ignore": np.concatenate([empty.astype(bool), *(scene.ignore for scene in scenes)]),
        "share": np.concatenate([empty, *(scene.visible_share for scene in scenes)]),
        "height": np.concatenate(
            [empty, *(scene.boxes[:, 3] - scene.boxes[:, 1] for scene in scenes)]
        ),
        "labels": [label for scene in scenes for label in scene.labels],
        "sizes": [f"{scene.size[0]}x{scene.size[1]}" for scene in scenes],
    }
