"""Confidence from agreement: several answers to one scene become one, whose boxes have scores.

A language model gives its boxes no confidence. The share of its sampled answers that hold a box is
one, so that metrics of ranked boxes (AP, MR^-2) can be measured as for a detector (source: ours;
the idea is self-consistency, arXiv 2203.11171).
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from dip_env.boxes import Boxes, box_area, box_iou
from dip_env.errors import ConfigError
from dip_env.formats.box_sets import Detections, Floats, Truth
from dip_env.metrics.intervals import Interval, bootstrap
from dip_env.metrics.protocols.crowdhuman import CrowdHumanScore, measure_crowdhuman
from dip_env.metrics.score import keep_rows
from dip_env.metrics.unscored import UnscoredScore, measure_unscored

AGREED = 0.5
"""Share of the samples above which a box belongs to the answer of the consensus."""


def consensus(answers: Sequence[Boxes], iou_threshold: float = 0.5) -> tuple[Boxes, Floats]:
    """Fuse the answers of several samples into one (source: ours).

    Greedily: of all boxes that are left, the one that boxes of most other samples overlap (then the
    one that they overlap best) takes the best of each of these samples to itself. The members'
    median is one box of the result, and the share of the samples among them its score. Neither the
    order of the samples nor that of their boxes matters.

    Args:
        answers: boxes (N_k, 4) xyxy of each of K samples, in one frame; those without area, and
            exact repeats within a sample, are left out.
        iou_threshold: least IoU with the box that members are gathered around.

    Returns:
        Boxes (N, 4) and scores (N,) in (0, 1], highest first.
    """
    samples = len(answers)
    single = [np.unique(np.asarray(answer).reshape(-1, 4), axis=0) for answer in answers]
    boxes = np.concatenate([np.zeros((0, 4)), *single])
    owners = np.repeat(np.arange(samples), [len(answer) for answer in single])
    kept = np.flatnonzero(box_area(boxes) > 0)
    kept = kept[np.lexsort(boxes[kept].T[::-1])]  # ties below go to the first by coordinates
    boxes, owners = boxes[kept], owners[kept]
    free = np.ones(len(boxes), dtype=bool)

    def gathered(seed: int) -> tuple[float, list[int]]:
        """Return how well a box is supported, negative, and it with those it would take."""
        overlap = box_iou(boxes[seed : seed + 1], boxes)[0]
        overlap[~free | (owners == owners[seed]) | (overlap < iou_threshold)] = 0.0
        near = np.flatnonzero(overlap)
        near = near[np.argsort(-overlap[near], kind="stable")]
        taken = near[np.unique(owners[near], return_index=True)[1]]
        # Rounded, so that a sum's order of addition decides nothing.
        support = len(taken) + round(float(np.sort(overlap[taken]).sum()), 9) / (samples + 1)
        return -support, [seed, *taken.tolist()]

    # Support only falls while boxes are taken, so the first of the queue whose support is still
    # what it was is the best of all.
    queue = [(gathered(seed)[0], seed) for seed in range(len(boxes))]
    heapq.heapify(queue)
    fused, scores = [], []
    while queue:
        known, seed = heapq.heappop(queue)
        if not free[seed]:
            continue
        support, members = gathered(seed)
        if support > known:
            heapq.heappush(queue, (support, seed))
            continue
        free[members] = False
        fused.append(np.median(boxes[members], axis=0))
        scores.append(len(members) / samples)
    order = np.argsort(-np.array(scores), kind="stable")
    return np.array(fused).reshape(-1, 4)[order], np.array(scores)[order]


def fuse(answers: Sequence[Detections], iou_threshold: float = 0.5) -> Detections:
    """Fuse the answers of several samples, image by image.

    Args:
        answers: of K samples to the same images.
        iou_threshold: see ``consensus``.

    Returns:
        The fused boxes with their scores.

    Raises:
        ConfigError: without answers, for answers to other numbers of images, and for boxes of
            several categories in one image.
    """
    if not answers or len({boxes.images for boxes in answers}) != 1:
        raise ConfigError(
            f"answers: expected some, all to the same images, got answers to "
            f"{[boxes.images for boxes in answers]} images"
        )
    xywh, scores, category, counts = [], [], [], []
    for image in range(answers[0].images):
        parts = [(boxes, slice(*boxes.starts[image : image + 2])) for boxes in answers]
        found, shares = consensus([boxes.xyxy[part] for boxes, part in parts], iou_threshold)
        kinds = np.unique(np.concatenate([boxes.category[part] for boxes, part in parts]))
        if len(kinds) > 1:
            raise ConfigError(
                f"answers: expected one category in an image, got {kinds.tolist()} in image {image}"
            )
        xywh.append(np.hstack([found[:, :2], found[:, 2:] - found[:, :2]]))
        scores.append(shares)
        category.append(np.full(len(found), kinds[0] if len(kinds) else 0))
        counts.append(len(found))
    return Detections(
        xywh=np.concatenate([np.zeros((0, 4)), *xywh]),
        starts=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        category=np.concatenate([np.zeros(0, np.int64), *category]).astype(np.int64),
        scores=np.concatenate([np.zeros(0), *scores]),
    )


@dataclass(frozen=True, eq=False)
class ConsensusScore:
    """The consensus of several samples, matched with the ground truth.

    Args:
        samples: how many answers of each scene were fused.
        detections: the fused boxes.
        ranked: all of them by score, by CrowdHuman's protocol.
        agreed: those that more than half of the samples hold, as an answer without scores.
    """

    samples: int
    detections: Detections
    ranked: CrowdHumanScore
    agreed: UnscoredScore

    def values(self, counts: Floats | None = None) -> dict[str, float | None]:
        """Return the metrics.

        Args:
            counts: (S,) how often each scene counts, once each by default.

        Returns:
            ``F1``, ``precision`` and ``recall`` of what more than half of the samples hold; ``AP``,
            ``MR`` and ``JI`` of all boxes by score; each in [0, 1], None where undefined.
        """
        matched, ranked = self.agreed.values(counts), self.ranked.values(counts)
        return {
            **{name: matched[name] for name in ("F1", "precision", "recall")},
            **{name: ranked[name] for name in ("AP", "MR", "JI")},
        }

    @cached_property
    def metrics(self) -> dict[str, Interval]:
        """Each metric with its 95 % interval over scenes."""
        reasons = self.agreed.reasons() | self.ranked.reasons()
        return bootstrap(self.values, self.detections.images, reasons=reasons)

    def to_json(self) -> dict[str, Any]:
        """Return the metrics with intervals as plain values."""
        return {
            "samples": self.samples,
            **{name: interval.value for name, interval in self.metrics.items()},
            "intervals": {name: [m.low, m.high] for name, m in self.metrics.items()},
            "undefined": {name: m.reason for name, m in self.metrics.items() if m.reason},
            "protocol": "crowdhuman",
        }

    def rows(self, truth: Truth) -> list[dict[str, Any]]:
        """Return the fused boxes as COCO's detections, which ``dip score`` reads.

        Args:
            truth: the scenes.
        """
        return [
            {
                "image_id": truth.image_ids[image],
                "category_id": int(category),
                "bbox": box,
                "score": score,
            }
            for image, category, box, score in zip(
                self.detections.image.tolist(),
                self.detections.category.tolist(),
                self.detections.xywh.tolist(),
                self.detections.scores.tolist(),
                strict=True,
            )
        ]


def score_consensus(truth: Truth, answers: Sequence[Detections]) -> ConsensusScore:
    """Fuse the answers of several samples and match them with the ground truth.

    Args:
        truth: of the scenes.
        answers: of each sample, in every scene.

    Returns:
        The score.
    """
    fused = fuse(answers)
    return ConsensusScore(
        samples=len(answers),
        detections=fused,
        ranked=measure_crowdhuman(truth, fused),
        agreed=measure_unscored(truth, keep_rows(fused, fused.scores > AGREED)),
    )
