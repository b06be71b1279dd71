"""Small sets of truth and detections for the metrics' tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from dip_env.formats.box_sets import Detections, Truth

Box = Sequence[float]


def _columns(images: Sequence[Sequence[Any]], width: int) -> tuple[np.ndarray, np.ndarray]:
    starts = np.cumsum([0, *(len(rows) for rows in images)])
    rows = [row for rows in images for row in rows]
    return np.array(rows, dtype=np.float64).reshape(-1, width), starts


@pytest.fixture(scope="session")
def make_sets() -> Callable[..., tuple[Truth, Detections]]:
    """Return a function that makes a truth and its detections.

    Per image: ``people`` and ``ignored`` are lists of xywh (people first in the file),
    ``found`` is a list of (x, y, w, h, score).
    """

    def make(
        people: Sequence[Sequence[Box]],
        found: Sequence[Sequence[Box]],
        ignored: Sequence[Sequence[Box]] | None = None,
        *,
        visible: Sequence[Sequence[Box]] | None = None,
        size: tuple[float, float] = (1000, 1000),
    ) -> tuple[Truth, Detections]:
        ignored = ignored or [[] for _ in people]
        xywh, starts = _columns([[*a, *b] for a, b in zip(people, ignored, strict=True)], 4)
        ignore = [
            flag
            for a, b in zip(people, ignored, strict=True)
            for flag in [False] * len(a) + [True] * len(b)
        ]
        seen = xywh
        if visible is not None:
            seen, _ = _columns([[*a, *b] for a, b in zip(visible, ignored, strict=True)], 4)
        truth = Truth(
            xywh=xywh,
            starts=starts,
            category=np.ones(len(xywh), dtype=np.int64),
            image_ids=tuple(range(1, len(people) + 1)),
            sizes=np.tile(np.array([size], dtype=np.float64), (len(people), 1)),
            ignore=np.array(ignore, dtype=bool),
            visible_xywh=seen,
            area=xywh[:, 2] * xywh[:, 3],
            category_names={1: "person"},
        )
        rows, at = _columns(found, 5)
        detections = Detections(
            xywh=rows[:, :4], starts=at, category=np.ones(len(rows), np.int64), scores=rows[:, 4]
        )
        return truth, detections

    return make
