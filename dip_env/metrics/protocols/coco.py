"""COCO's average precision, as pycocotools computes it, with image weights.

The weights let a bootstrap over images match boxes once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dip_env.formats.box_sets import Detections, Floats, Truth
from dip_env.metrics.protocols.coco_matching import (
    RECALLS,
    SIZES,
    THRESHOLDS,
    Matches,
    match_coco,
)


@dataclass(frozen=True, eq=False)
class CocoScore:
    """Matches in every size and category.

    Args:
        matches: by size, one entry for each category.
        categories: their names.
        max_detections: limit of detections per image and category.
        facts: counts for the details.
    """

    matches: Mapping[str, Sequence[Matches]]
    categories: Sequence[str]
    max_detections: int
    facts: Mapping[str, int]

    def values(self, counts: Floats | None = None) -> dict[str, float | None]:
        """Return COCO's averages.

        Args:
            counts: (I,) weight of each image, 1 by default.

        Returns:
            ``AP``, ``AP50``, ``AP75``, ``AP_small``, ``AP_medium``, ``AP_large`` and ``AR`` in
            [0, 1], means over the categories with non-ignored instances; None without any.
        """
        read = self._read("all", counts)
        values = _precisions(read)
        for size in self.matches:
            if size != "all":
                values[f"AP_{size}"] = _precisions(self._read(size, counts))["AP"]
        return values | {"AR": _mean([each[1] for each in read if each is not None])}

    def per_category(self, counts: Floats | None = None) -> dict[str, dict[str, float | None]]:
        """Return the averages of each category.

        Args:
            counts: (I,) weight of each image, 1 by default.

        Returns:
            ``AP``, ``AP50`` and ``AP75`` by name of the category, None without instances.
        """
        each = zip(self.categories, self._read("all", counts), strict=True)
        return {name: _precisions([read]) for name, read in each}

    def reasons(self) -> dict[str, str]:
        """Return why a value is None.

        Returns:
            A fragment of a sentence by key, for those keys only.
        """
        missing = [key for key, value in self.values().items() if value is None]
        sizes = {f"AP_{size}": f"{size} " for size in SIZES}
        return {key: f"no {sizes.get(key, '')}person in the ground truth" for key in missing}

    def details(self) -> dict[str, Any]:
        """Return further results.

        Returns:
            The limit on detections and the number beyond it, the categories, and counts.
        """
        return {
            "max_detections": self.max_detections,
            "categories": list(self.categories),
            **self.facts,
        }

    def _read(self, size: str, counts: Floats | None) -> list[tuple[Floats, Floats] | None]:
        weights = np.ones(self.facts["images"]) if counts is None else counts
        return [_read_curves(matches, weights) for matches in self.matches[size]]


def measure_coco(
    truth: Truth,
    detections: Detections,
    max_detections: int = 1000,
    *,
    sizes: Sequence[str] = tuple(SIZES),
) -> CocoScore:
    """Match by category as pycocotools does; every ignored annotation is a crowd region to it.

    Args:
        truth: persons and ignore regions.
        detections: of the same images. Those of a category that is not in the ground truth are
            left out and counted in the details.
        max_detections: number of highest-scoring detections per image and category to keep.
            COCO's own 100 is less than the persons of some crowds.
        sizes: keys of ``SIZES`` to measure, ``all`` among them.

    Returns:
        The matches, per size and category.
    """
    ids = sorted(set(truth.category_names) | set(truth.category.tolist()))
    return CocoScore(
        matches=match_coco(truth, detections, ids, max_detections, sizes),
        categories=_names(truth, ids),
        max_detections=max_detections,
        facts={
            "images": truth.images,
            "persons": int(truth.people.sum()),
            "ignored": int(truth.ignore.sum()),
            "detections": len(detections),
            "detections_of_other_categories": int((~np.isin(detections.category, ids)).sum()),
            **_cut(detections, ids, max_detections),
        },
    )


def _names(truth: Truth, categories: Sequence[int]) -> list[str]:
    """Return a name for each category; equal names get their id appended."""
    names = [truth.category_names.get(number, str(number)) for number in categories]
    return [
        f"{name} ({number})" if names.count(name) > 1 else name
        for name, number in zip(names, categories, strict=True)
    ]


def _cut(detections: Detections, categories: Sequence[int], limit: int) -> dict[str, int]:
    """Count the images with more than ``limit`` detections of a category, and the excess."""
    known = np.isin(detections.category, categories)
    pairs = np.column_stack([detections.image[known], detections.category[known]])
    groups, sizes = np.unique(pairs, axis=0, return_counts=True)
    excess = np.maximum(sizes - limit, 0)
    return {
        "images_cut": len(np.unique(groups[excess > 0, 0])),
        "detections_cut": int(excess.sum()),
    }


def _read_curves(matches: Matches, counts: Floats) -> tuple[Floats, Floats] | None:
    """Read precision and recall off the curves of one category and size.

    Args:
        matches: I images.
        counts: (I,) weight of each image.

    Returns:
        (T, R) envelope of the precision and (T,) the largest recall, in [0, 1]; None without
        non-ignored instances.
    """
    people = float(matches.people @ counts)
    if people <= 0:
        return None
    weight = counts[matches.image]
    precision = np.zeros((len(THRESHOLDS), len(RECALLS)))
    recall = np.zeros(len(THRESHOLDS))
    for t, (found, counted) in enumerate(zip(matches.found, matches.counted, strict=True)):
        # Only true positives raise the recall, so no other point of the curve is needed.
        at = np.flatnonzero(found)
        if not len(at):
            continue
        tp = np.cumsum(weight[at])
        reached = tp / people
        # The epsilon is that of pycocotools.
        points = tp / (np.cumsum(weight * counted)[at] + np.spacing(1))
        envelope = np.append(np.maximum.accumulate(points[::-1])[::-1], 0.0)
        precision[t] = envelope[np.searchsorted(reached, RECALLS, side="left")]
        recall[t] = reached[-1]
    return precision, recall


def _precisions(read: Sequence[tuple[Floats, Floats] | None]) -> dict[str, float | None]:
    precision = [each[0] for each in read if each is not None]
    return {
        "AP": _mean(precision),
        "AP50": _mean([each[0] for each in precision]),
        "AP75": _mean([each[5] for each in precision]),
    }


def _mean(arrays: Sequence[Floats]) -> float | None:
    return float(np.mean(arrays)) if len(arrays) else None
