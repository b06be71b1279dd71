"""COCO's average precision: matching by pycocotools, curves reimplemented with image weights.

The weights let a bootstrap over images match boxes once.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval, Params

from dip_env.formats.box_sets import BoxSet, Detections, Floats, Indices, Truth

_PARAMS = Params("bbox")

THRESHOLDS: Floats = _PARAMS.iouThrs
"""(T,) IoU .50 to .95."""

RECALLS: Floats = _PARAMS.recThrs
"""(R,) recalls at which precision is read."""

SIZES: Mapping[str, tuple[float, float]] = {
    label: (float(low), float(high))
    for label, (low, high) in zip(_PARAMS.areaRngLbl, _PARAMS.areaRng, strict=True)
}
"""Least and greatest area of each size, both inclusive."""


@dataclass(frozen=True, eq=False)
class Matches:
    """Matches by pycocotools, of one category and size.

    Args:
        image: (D,) image index of each detection, highest score first.
        found: (T, D) True for true positives.
        counted: (T, D) True for true and false positives, False for ignored detections.
        people: (I,) non-ignored instances of each image.
    """

    image: Indices
    found: NDArray[np.bool_]
    counted: NDArray[np.bool_]
    people: Indices

    def read(self, counts: Floats) -> tuple[Floats, Floats] | None:
        """Read precision and recall off the curves.

        Args:
            counts: (I,) weight of each image.

        Returns:
            (T, R) envelope of the precision and (T,) the largest recall, in [0, 1]; None without
            non-ignored instances.
        """
        people = float(self.people @ counts)
        if people <= 0:
            return None
        weight = counts[self.image]
        precision = np.zeros((len(THRESHOLDS), len(RECALLS)))
        recall = np.zeros(len(THRESHOLDS))
        for t, (found, counted) in enumerate(zip(self.found, self.counted, strict=True)):
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


@dataclass(frozen=True, eq=False)
class CocoScore:
    """Matches by pycocotools in every size and category.

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
        return [matches.read(weights) for matches in self.matches[size]]


def measure_coco(
    truth: Truth,
    detections: Detections,
    max_detections: int = 1000,
    *,
    sizes: Sequence[str] = tuple(SIZES),
) -> CocoScore:
    """Match by category with pycocotools; every ignored annotation is a crowd region to it.

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
    images = _ascending(truth.image_ids)
    evaluator = _evaluate(truth, detections, images, ids, max_detections, sizes)
    results, step = evaluator.evalImgs, len(images)
    matches: dict[str, list[Matches]] = {size: [] for size in sizes}
    for number in range(len(ids) * len(sizes)):
        # pycocotools lists category by category, then size by size, then image by image.
        matches[sizes[number % len(sizes)]].append(
            _gather(results[number * step : (number + 1) * step], images)
        )
    return CocoScore(
        matches=matches,
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


def _ascending(image_ids: Sequence[int | str]) -> Indices:
    """Return rows of the images in the order of pycocotools, which breaks ties."""
    order = sorted(
        range(len(image_ids)), key=lambda row: (isinstance(image_ids[row], str), image_ids[row])
    )
    return np.array(order, dtype=np.int64)


def _evaluate(
    truth: Truth,
    detections: Detections,
    images: Indices,
    categories: Sequence[int],
    max_detections: int,
    sizes: Sequence[str],
) -> COCOeval:
    """Match with pycocotools; image ids are positions in ``images`` (I,)."""
    position = np.empty_like(images)
    position[images] = np.arange(len(images))
    ids = {
        "images": [{"id": number} for number in range(len(images))],
        "categories": [{"id": number} for number in categories],
    }
    people = _rows(truth, position, area=truth.area, iscrowd=truth.ignore.astype(np.int64))
    found = _rows(detections, position, area=detections.areas, score=detections.scores)
    # pycocotools prints its progress to stdout, which is reserved for results.
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator = COCOeval(_indexed(ids, people), _indexed(ids, found), "bbox")
        evaluator.params.maxDets = [max_detections]
        evaluator.params.areaRng = [list(SIZES[size]) for size in sizes]
        evaluator.params.areaRngLbl = list(sizes)
        evaluator.evaluate()
    return evaluator


def _rows(boxes: BoxSet, position: Indices, **columns: NDArray[Any]) -> list[dict[str, Any]]:
    """Return COCO annotations; ids start at 1, as pycocotools reads a match with id 0 as none."""
    names = ["id", "image_id", "category_id", "bbox", *columns]
    values = [
        range(1, len(boxes) + 1),
        position[boxes.image].tolist(),
        boxes.category.tolist(),
        boxes.xywh.tolist(),
        *(column.tolist() for column in columns.values()),
    ]
    return [dict(zip(names, row, strict=True)) for row in zip(*values, strict=True)]


def _indexed(ids: Mapping[str, list[dict[str, Any]]], rows: list[dict[str, Any]]) -> COCO:
    coco = COCO()
    coco.dataset = {**ids, "annotations": rows}
    coco.createIndex()
    return coco


def _gather(results: Sequence[dict[str, Any] | None], images: Indices) -> Matches:
    """Concatenate the results of all images, in the order of ``images`` (I,), sorted by score."""
    people = np.zeros(len(images), dtype=np.int64)
    numbers = np.zeros(len(images), dtype=np.int64)
    none = np.zeros((len(THRESHOLDS), 0), dtype=bool)
    scores, matched, ignored = [np.zeros(0)], [none], [none]
    for position, result in enumerate(results):
        if result is None:
            continue
        people[images[position]] = np.count_nonzero(result["gtIgnore"] == 0)
        numbers[position] = len(result["dtScores"])
        scores.append(np.asarray(result["dtScores"], dtype=np.float64))
        matched.append(result["dtMatches"] > 0)
        ignored.append(result["dtIgnore"])
    order = np.argsort(-np.concatenate(scores), kind="mergesort")
    counted = ~np.concatenate(ignored, axis=1)[:, order]
    found = np.concatenate(matched, axis=1)[:, order] & counted
    return Matches(np.repeat(images, numbers)[order], found, counted, people)


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


def _precisions(read: Sequence[tuple[Floats, Floats] | None]) -> dict[str, float | None]:
    precision = [each[0] for each in read if each is not None]
    return {
        "AP": _mean(precision),
        "AP50": _mean([each[0] for each in precision]),
        "AP75": _mean([each[5] for each in precision]),
    }


def _mean(arrays: Sequence[Floats]) -> float | None:
    return float(np.mean(arrays)) if len(arrays) else None
