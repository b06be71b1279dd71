"""Overlaps by CrowdHuman's rules.

Boxes are clipped to the image, every denominator has an epsilon and thresholds are strict.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dip_env.formats.box_sets import BoxSet, Detections, Floats, Indices, Truth
from dip_env.metrics.pairs import Pairs, shared_pairs

OVERLAP = 0.5
"""Strict lower limit of a pair's IoU, and of the share of a box inside an ignore region."""

EPSILON = 1e-6
"""The published evaluator adds it to every denominator; it decides pairs at the threshold."""


@dataclass(frozen=True, eq=False)
class Overlaps:
    """Pairs and boxes that overlap by more than ``OVERLAP``.

    Args:
        people: pairs (detection, person) with IoU above the threshold.
        iou: (P,) of these pairs.
        region: (N,) first ignore region each detection lies in, -1 for none.
        person_in_region: (M,) True for persons that lie in an ignore region.
        corners: clipped xyxy boxes of detections and of annotations.
    """

    people: Pairs
    iou: Floats
    region: Indices
    person_in_region: NDArray[np.bool_]
    corners: tuple[Floats, Floats]


def compare(truth: Truth, detections: Detections) -> Overlaps:
    """Compare clipped detections with all annotations, and persons with ignore regions.

    Args:
        truth: persons and ignore regions.
        detections: in the same images.

    Returns:
        The overlaps.

    Source: CrowdDet, lib/evaluate.
    """
    found, there = _clipped(detections, truth.sizes), _clipped(truth, truth.sizes)
    found_area, area = _areas(found), _areas(there)
    pairs = shared_pairs(found, detections.starts, there, truth.starts)
    with_region = truth.ignore[pairs.b]
    people = pairs.only(~with_region)
    union = found_area[people.a] + area[people.b] - people.shared
    iou = people.shared / (union + EPSILON)
    regions = pairs.only(with_region)
    regions = regions.only(regions.shared / (found_area[regions.a] + EPSILON) > OVERLAP)
    region = np.full(len(detections), -1, dtype=np.int64)
    # Pairs are in file order; assigned in reverse, the first one remains.
    region[regions.a[::-1]] = regions.b[::-1]
    person, rows = np.flatnonzero(~truth.ignore), np.flatnonzero(truth.ignore)
    inside = shared_pairs(there[person], _starts(truth, person), there[rows], _starts(truth, rows))
    inside = inside.only(inside.shared / (area[person][inside.a] + EPSILON) > OVERLAP)
    person_in_region = np.zeros(len(truth), dtype=bool)
    person_in_region[person[inside.a]] = True
    enough = iou > OVERLAP
    return Overlaps(people.only(enough), iou[enough], region, person_in_region, (found, there))


def _clipped(boxes: BoxSet, sizes: Floats) -> Floats:
    """Return (N, 4) xyxy inside the image; the upper left corner stops one pixel earlier."""
    size, corners = sizes[boxes.image], boxes.xyxy
    return np.hstack([np.clip(corners[:, :2], 0, size - 1), np.clip(corners[:, 2:], 0, size)])


def _areas(corners: Floats) -> Floats:
    return (corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])


def _starts(boxes: BoxSet, rows: Indices) -> Indices:
    """Return the starts of some rows of a set, images as before."""
    return np.searchsorted(rows, boxes.starts)
