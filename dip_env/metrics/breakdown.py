"""Recall and precision by height, by visibility and by crowd size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dip_env.formats.box_sets import Detections, Floats, Truth
from dip_env.metrics.unscored import UnscoredScore, measure_unscored, ratio

HEIGHTS = (50.0, 75.0, 100.0, 200.0)
"""Bin edges of heights, pixels of the image (source: CityPersons' small and medium)."""

VISIBLE_SHARES = (0.2, 0.65, 0.9)
"""Bin edges of visible shares (source: CityPersons; hidden is below its heavy)."""

PEOPLE = (1, 6, 11, 21, 41)
"""Bin edges of non-ignored persons per image."""

_HEIGHT_NAMES = ("<50", "50-75", "75-100", "100-200", ">=200")
_SHARE_NAMES = ("hidden", "heavy", "partial", "bare")
_PEOPLE_NAMES = ("0", "1-5", "6-10", "11-20", "21-40", ">40")


def break_down(
    truth: Truth, detections: Detections, score: UnscoredScore | None = None
) -> dict[str, Any]:
    """Break down the matches at IoU 0.5 by person and by image.

    Args:
        truth: of all images.
        detections: in the same images; their scores are not read.
        score: result of ``measure_unscored`` for the same sets, to match only once.

    Returns:
        Plain values, None where undefined:

        - ``height``: ``recall`` and ``n`` persons of each height; a group begins at its lower end
          and ends below its upper one.
        - ``visible_share``: the same by area of the visible box over area of the full one: bare
          (from .9), partial (from .65), heavy (from .2), hidden.
        - ``people_per_image``: ``precision``, ``recall``, ``F1`` and ``n`` images, by persons in
          the image.
    """
    score = score or measure_unscored(truth, detections)
    person = ~truth.ignore
    found = score.matched.found[person]
    share = _visible_share(truth)[person]
    return {
        "height": _recall_by(_HEIGHT_NAMES, HEIGHTS, truth.xywh[person, 3], found),
        "visible_share": _recall_by(_SHARE_NAMES, VISIBLE_SHARES, share, found),
        "people_per_image": _by_crowd(score),
    }


def _recall_by(
    names: Sequence[str], begins: Sequence[float], value: Floats, found: NDArray[np.bool_]
) -> dict[str, Any]:
    """Recall and number of persons in each group of a value."""
    group = np.digitize(value, begins)
    n = np.bincount(group, minlength=len(names))
    hits = np.bincount(group[found], minlength=len(names))
    return {name: {"recall": ratio(hits[k], n[k]), "n": int(n[k])} for k, name in enumerate(names)}


def _by_crowd(score: UnscoredScore) -> dict[str, Any]:
    """Precision, recall and F1 of images with few and many persons, pooled within each group."""
    group = np.digitize(score.people, PEOPLE)
    rows = {}
    for k, name in enumerate(_PEOPLE_NAMES):
        values = score.values((group == k).astype(np.float64))
        rows[name] = {key: values[key] for key in ("precision", "recall", "F1")}
        rows[name]["n"] = int((group == k).sum())
    return rows


def _visible_share(truth: Truth) -> Floats:
    """Area of the visible box over area of the full one, (N,); 1 for a box without area."""
    visible = truth.visible_xywh[:, 2] * truth.visible_xywh[:, 3]
    return np.divide(visible, truth.areas, out=np.ones(len(truth)), where=truth.areas > 0)
