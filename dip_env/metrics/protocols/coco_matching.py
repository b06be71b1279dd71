"""COCO's matching of detections with annotations, for all sizes and thresholds in one pass.

One size with one threshold is a *cell*, and a set of cells is the bits of an integer: a pair of
boxes is tried for every cell at once. Independent of averages. Source: pycocotools, evaluateImg.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pycocotools.cocoeval import Params

from dip_env.formats.box_sets import BoxSet, Detections, Floats, Indices, Truth
from dip_env.metrics.pairs import Pairs, shared_pairs

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

_EVERY = (1 << len(THRESHOLDS)) - 1
"""The cells of one size: a bit for each threshold, the bits of size n from n * T on."""


@dataclass(frozen=True, eq=False)
class Matches:
    """Matches of one category and size.

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


def match_coco(
    truth: Truth,
    detections: Detections,
    categories: Sequence[int],
    max_detections: int,
    sizes: Sequence[str],
) -> dict[str, list[Matches]]:
    """Match by category; every ignored annotation is a crowd region.

    In descending order of score, each detection takes the free annotation of the largest IoU, the
    later one of equals, and an ignored one only where no other can be taken. A crowd region is
    never used up. Without a match, a detection counts in the sizes that contain its area.

    Args:
        truth: persons and ignore regions.
        detections: of the same images.
        categories: ids to match.
        max_detections: number of highest-scoring detections per image and category to keep.
        sizes: keys of ``SIZES``.

    Returns:
        By size, the matches of each category.
    """
    images = _ascending(truth.image_ids)
    position = np.empty_like(images)
    position[images] = np.arange(len(images))
    people = np.lexsort((position[truth.image], truth.category))
    found = np.lexsort((-detections.scores, position[detections.image], detections.category))
    matches: dict[str, list[Matches]] = {size: [] for size in sizes}
    for category in categories:
        a = _cut(_Part.of(detections, found, category, position), max_detections)
        b = _Part.of(truth, people, category, position)
        for size, each in zip(sizes, _match(detections, a, truth, b, sizes), strict=True):
            matches[size].append(each)
    return matches


def _ascending(image_ids: Sequence[int | str]) -> Indices:
    """Return rows of the images in the order of pycocotools, which breaks ties."""
    order = sorted(
        range(len(image_ids)), key=lambda row: (isinstance(image_ids[row], str), image_ids[row])
    )
    return np.array(order, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class _Part:
    """Boxes of one category, image after image in ascending order of ids.

    Args:
        rows: (N,) of a set of boxes.
        starts: (I + 1,) ``rows[starts[k]:starts[k + 1]]`` belong to the k-th image.
    """

    rows: Indices
    starts: Indices

    @classmethod
    def of(cls, boxes: BoxSet, order: Indices, category: int, position: Indices) -> _Part:
        """Cut a category out of rows (N,) ordered by category and position (I,) of the image."""
        first, last = (
            np.searchsorted(boxes.category, category, side=side, sorter=order)
            for side in ("left", "right")
        )
        rows = order[first:last]
        per_image = np.bincount(position[boxes.image[rows]], minlength=len(position))
        return cls(rows, np.concatenate([[0], np.cumsum(per_image)]))


def _cut(part: _Part, limit: int) -> _Part:
    """Keep the first ``limit`` rows of each image."""
    per_image = np.diff(part.starts)
    place = np.arange(len(part.rows)) - np.repeat(part.starts[:-1], per_image)
    starts = np.concatenate([[0], np.cumsum(np.minimum(per_image, limit))])
    return _Part(part.rows[place < limit], starts)


def _match(
    detections: Detections, a: _Part, truth: Truth, b: _Part, sizes: Sequence[str]
) -> list[Matches]:
    """Match the parts of one category; one entry for each size."""
    crowd = truth.ignore[b.rows]
    scored = np.where(crowd, 0, _cells(truth.area[b.rows], sizes))
    found, dropped = _choose(
        *_candidates(detections, a, truth, b, len(sizes)), scored, crowd, len(a.rows)
    )
    counted = found | (_cells(detections.areas[a.rows], sizes) & ~dropped)
    order = np.argsort(-detections.scores[a.rows], kind="stable")
    matches = []
    for n in range(len(sizes)):
        first = n * len(THRESHOLDS)
        bits = 1 << np.arange(first, first + len(THRESHOLDS))[:, None]
        people = b.rows[scored >> first & 1 > 0]
        matches.append(
            Matches(
                image=detections.image[a.rows[order]],
                found=found[order] & bits > 0,
                counted=counted[order] & bits > 0,
                people=np.bincount(truth.image[people], minlength=truth.images),
            )
        )
    return matches


def _cells(areas: Floats, sizes: Sequence[str]) -> Indices:
    """Return the cells (N,) of the sizes that contain each area."""
    cells = np.zeros(len(areas), dtype=np.int64)
    for n, size in enumerate(sizes):
        low, high = SIZES[size]
        cells[(low <= areas) & (areas <= high)] |= _EVERY << n * len(THRESHOLDS)
    return cells


def _candidates(
    detections: Detections, a: _Part, truth: Truth, b: _Part, sizes: int
) -> tuple[Pairs, Indices]:
    """Return the pairs that reach a threshold, and the cells (P,) in which each does.

    They are ordered by detection, then from the largest IoU to the smallest, the later annotation
    of equals first.
    """
    pairs = shared_pairs(detections.xyxy[a.rows], a.starts, truth.xyxy[b.rows], b.starts)
    areas = detections.areas[a.rows][pairs.a], truth.areas[b.rows][pairs.b]
    union = np.where(truth.ignore[b.rows][pairs.b], areas[0], sum(areas) - pairs.shared)
    iou = pairs.shared / union
    reached = np.searchsorted(THRESHOLDS, iou, side="right")
    order = np.lexsort((-pairs.b, -iou, pairs.a))
    order = order[reached[order] > 0]
    in_every_size = sum(1 << n * len(THRESHOLDS) for n in range(sizes))
    return pairs.only(order), ((1 << reached[order]) - 1) * in_every_size


def _choose(
    pairs: Pairs, cells: Indices, scored: Indices, crowd: NDArray[np.bool_], number: int
) -> tuple[Indices, Indices]:
    """Let each detection take an annotation in every cell.

    Args:
        pairs: P candidates in the order in which they are tried.
        cells: (P,) where each reaches the threshold.
        scored: (M,) where each annotation is not ignored.
        crowd: (M,) True for annotations that are never used up.
        number: D, the number of detections.

    Returns:
        (D,) cells in which each takes an annotation that is not ignored, and (D,) those in which it
        takes an ignored one.
    """
    # Every pair is tried twice: where the annotation is not ignored, then where it is. The sort is
    # stable, so each detection comes to ignored annotations last.
    tried = np.concatenate([cells & scored[pairs.b], cells & ~scored[pairs.b]])
    order = np.argsort(np.tile(pairs.a, 2), kind="stable")
    order = order[tried[order] > 0]
    row = order % len(cells)
    a, b = pairs.a[row], pairs.b[row]
    hits = np.array(_greedy(a, b, tried[order], crowd), dtype=np.int64)
    taken = np.zeros((2, number), dtype=np.int64)
    np.bitwise_or.at(taken, (order // len(cells), a), hits)
    return taken[0], taken[1]


def _greedy(a: Indices, b: Indices, cells: Indices, crowd: NDArray[np.bool_]) -> list[int]:
    """Return the cells in which each pair (P,) is a match; pairs of one ``a`` are contiguous."""
    endless, free = crowd.tolist(), [-1] * len(crowd)
    hits, last, wanted = [], -1, -1
    for detection, annotation, possible in zip(a.tolist(), b.tolist(), cells.tolist(), strict=True):
        if detection != last:
            last, wanted = detection, -1
        hit = possible & wanted & free[annotation]
        wanted &= ~hit
        if not endless[annotation]:
            free[annotation] &= ~hit
        hits.append(hit)
    return hits
