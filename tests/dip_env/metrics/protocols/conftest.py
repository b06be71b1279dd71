"""pycocotools as the reference of our COCO protocol, and sets on which the two are compared."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from dip_env.formats.box_sets import BoxSet, Detections, Truth

IMAGES, CATEGORIES = (7, 2, 30), (3, 5)


@pytest.fixture(scope="session")
def pycocotools() -> Callable[[Truth, Detections, Sequence[int]], COCOeval]:
    """Return a function that evaluates with pycocotools and a list of limits per image."""

    def evaluate(truth: Truth, detections: Detections, limits: Sequence[int]) -> COCOeval:
        coco = COCO()
        coco.dataset = {
            "images": [{"id": number} for number in truth.image_ids],
            "categories": [{"id": n, "name": name} for n, name in truth.category_names.items()],
            "annotations": _rows(
                truth, truth.image_ids, area=truth.area, iscrowd=truth.ignore.astype(int)
            ),
        }
        found = _rows(detections, truth.image_ids, score=detections.scores)
        with contextlib.redirect_stdout(io.StringIO()):
            coco.createIndex()
            # loadRes looks into the first row.
            results = coco.loadRes(found) if found else COCO()
            evaluator = COCOeval(coco, results, "bbox")
            evaluator.params.maxDets = list(limits)
            evaluator.evaluate()
            evaluator.accumulate()
        return evaluator

    return evaluate


def _rows(boxes: BoxSet, image_ids: Sequence[Any], **columns: np.ndarray) -> list[dict[str, Any]]:
    # A match with id 0 counts as none in pycocotools.
    return [
        {
            "id": n + 1,
            "image_id": image_ids[boxes.image[n]],
            "category_id": int(boxes.category[n]),
            "bbox": boxes.xywh[n].tolist(),
            **{name: column[n].item() for name, column in columns.items()},
        }
        for n in range(len(boxes))
    ]


_BOX = st.tuples(
    *[st.sampled_from([0.0, 4.0, 8.0])] * 2,
    # On the limits of COCO's sizes, between them, and without any area.
    *[st.sampled_from([0.0, 30.0, 32.0, 36.0, 90.0, 96.0, 100.0])] * 2,
)
_PERSON = st.tuples(
    st.integers(0, len(IMAGES) - 1), _BOX, st.sampled_from(CATEGORIES),
    st.booleans(), st.sampled_from([1.0, 1.0, 0.5]),
)  # fmt: skip
_FOUND = st.tuples(
    st.integers(0, len(IMAGES) - 1), _BOX, st.sampled_from(CATEGORIES),
    st.sampled_from([0.0, 0.25, 0.5, 1.0]),
)  # fmt: skip


def _truth(rows: list[tuple]) -> Truth:
    rows = sorted(rows, key=lambda row: row[0])
    xywh = np.array([row[1] for row in rows], dtype=np.float64).reshape(-1, 4)
    shares = np.array([row[4] for row in rows], dtype=np.float64)
    return Truth(
        xywh=xywh,
        starts=np.searchsorted([row[0] for row in rows], np.arange(len(IMAGES) + 1)),
        category=np.array([row[2] for row in rows], dtype=np.int64),
        image_ids=IMAGES,
        sizes=np.full((len(IMAGES), 2), 200.0),
        ignore=np.array([row[3] for row in rows], dtype=bool),
        visible_xywh=xywh,
        area=xywh[:, 2] * xywh[:, 3] * shares,
        category_names={number: f"class {number}" for number in CATEGORIES},
    )


def _detections(rows: list[tuple]) -> Detections:
    rows = sorted(rows, key=lambda row: row[0])
    return Detections(
        xywh=np.array([row[1] for row in rows], dtype=np.float64).reshape(-1, 4),
        starts=np.searchsorted([row[0] for row in rows], np.arange(len(IMAGES) + 1)),
        category=np.array([row[2] for row in rows], dtype=np.int64),
        scores=np.array([row[3] for row in rows], dtype=np.float64),
    )


@pytest.fixture(scope="session")
def crowd_sets() -> st.SearchStrategy[tuple[Truth, Detections]]:
    """Return a strategy: overlapping boxes with ties, crowd regions and sizes, or none at all."""
    return st.tuples(
        st.lists(_PERSON, max_size=16).map(_truth), st.lists(_FOUND, max_size=24).map(_detections)
    )
