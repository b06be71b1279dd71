"""What is ambiguous in a scene: where siblings of a rollout disagree, or a prior without siblings.

An item is a box with a weight in [0, 1]: 1 where half of the rollouts would find it, 0 where all or
none would. Items are the annotated people. Boxes that siblings invent can be items too, but then
most of the weight lies on noise. Independent of looks and rewards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from dip_env.boxes import Boxes, BoxesLike, as_boxes, box_area
from dip_env.matching import Matches, overlaps

PRIOR_HALF_HEIGHT = 16.0
"""Height in view pixels at which half of the fully visible instances are found."""
PRIOR_HEIGHT_SLOPE = 2.0
"""Change in log-odds per doubling of the height."""
PRIOR_HALF_VISIBLE = 0.35
"""Visible share at which half of the large instances are found."""
PRIOR_VISIBLE_SLOPE = 10.0
"""Change in log-odds from a visible share of 0 to 1."""
MAX_STRAYS = 4000
"""Boxes that a group may invent; of more, each member counts with its share of the largest."""
MIN_SUPPORT = 2
"""Fewest siblings that must invent a box for it to be an item."""
SiblingTable = NDArray[np.bool_]
"""(G, G), True at [g, h] where the answer of rollout h enters the ambiguity of rollout g."""
_PAIRS_AT_ONCE = 1_000_000


@dataclass(frozen=True, eq=False)
class AmbiguousItems:
    """Boxes that rollouts may disagree about.

    Args:
        boxes: (K, 4) xyxy, scene frame.
        weights: (K,) ambiguity of each in [0, 1].
    """

    boxes: Boxes
    weights: NDArray[np.float64]


def sibling_ambiguity(
    answers: Sequence[BoxesLike],
    truth: BoxesLike,
    ignore_boxes: BoxesLike,
    thresholds: Sequence[float] = (0.5,),
    matches: Sequence[Sequence[Matches]] | None = None,
    invented_weight: float = 0.0,
    siblings: SiblingTable | None = None,
) -> list[AmbiguousItems]:
    """Measure for each rollout of a group where its siblings disagree (source: ours).

    For rollout g, over its siblings h (all others unless given): a true instance i weighs
    ``4 Var_h(u[h, i])``, u being the share of the thresholds at which h finds i, so ``4 p (1 - p)``
    at one threshold that a share p of them reaches. A rollout's own answer does not enter its own
    items.

    What u measures is what the accuracy term credits. With the IoU of the match instead, boxes that
    match more or less well are ambiguous at no cost in accuracy, and siblings that agree to shrink
    theirs can earn more than that (measured, see ``dip_agents.evaluation.collusion``).

    With an ``invented_weight`` w above 0, the siblings' unmatched predictions are clustered
    (connected components at IoU >= the first threshold). A cluster that a share p of the siblings
    has, two of them at least, is an item too, its members' mean box, that weighs ``4 w p (1 - p)``.
    Where G rollouts invent more than ``MAX_STRAYS``, each counts with its ``MAX_STRAYS / G``
    largest, which bounds the time it takes.

    Args:
        answers: boxes (N_h, 4) xyxy of each rollout, scene frame.
        truth: (M, 4) xyxy, scene frame.
        ignore_boxes: (K, 4) xyxy, scene frame.
        thresholds: least IoU for a match, one or several.
        matches: of each answer, at each threshold; computed without them.
        invented_weight: of the clusters, in [0, 1].
        siblings: (G, G), whether rollout h is a sibling of g, see ``sibling_table``.

    Returns:
        One ``AmbiguousItems`` per rollout: the ground truth first, then the clusters.

    Raises:
        ValueError: for a table of another shape, or with a rollout as its own sibling.
    """
    preds = [as_boxes(answer) for answer in answers]
    truth = as_boxes(truth)
    if matches is None:
        matches = [
            [found.match(threshold) for threshold in thresholds]
            for found in overlaps(preds, truth, ignore_boxes)
        ]
    found_at = np.zeros((len(preds), len(truth)), dtype=np.int64)
    for row, at_thresholds in zip(found_at, matches, strict=True):
        for match in at_thresholds:
            row[match.truth] += 1
    table = sibling_table(len(preds), siblings)
    spread = _spread_of_siblings(found_at, len(thresholds), table)
    people = [AmbiguousItems(truth, weights) for weights in spread]
    if not invented_weight:
        return people
    strays = _Strays.of(preds, [found[0] for found in matches], thresholds[0])
    items = []
    for known, counted in zip(people, table, strict=True):
        boxes, shares = strays.clusters_among(counted)
        weights = 4.0 * invented_weight * shares * (1.0 - shares)
        items.append(
            AmbiguousItems(
                np.concatenate([known.boxes, boxes]), np.concatenate([known.weights, weights])
            )
        )
    return items


def sibling_table(count: int, siblings: SiblingTable | None = None) -> SiblingTable:
    """Return whose answers enter the ambiguity of each rollout of a group.

    Args:
        count: G rollouts.
        siblings: (G, G), True at [g, h] where rollout h is a sibling of g; by default all others.

    Returns:
        The table.

    Raises:
        ValueError: for another shape, or a rollout that is its own sibling.
    """
    if siblings is None:
        return ~np.eye(count, dtype=np.bool_)
    table = np.asarray(siblings, dtype=np.bool_)
    if table.shape != (count, count):
        raise ValueError(f"siblings: expected shape {(count, count)}, got {table.shape}")
    if own := np.flatnonzero(table.diagonal()).tolist():
        raise ValueError(f"siblings: expected no rollout to be its own, got {own}")
    return table


def prior_ambiguity(
    truth: BoxesLike, visible_share: ArrayLike, view_heights: ArrayLike
) -> AmbiguousItems:
    """Estimate what is ambiguous from the annotation, for a rollout without siblings (ours).

    This is a prior, not a variance: with p from ``detectability`` an instance weighs
    ``4 p (1 - p)``. Large visible instances are certain, tiny or hidden ones hopeless; those in
    between are worth a look.

    Args:
        truth: (M, 4) xyxy, scene frame.
        visible_share: (M,) visible share of each, in [0, 1].
        view_heights: (M,) height of each in pixels of the overview.

    Returns:
        One item per instance.
    """
    p = detectability(view_heights, visible_share)
    return AmbiguousItems(as_boxes(truth), 4.0 * p * (1.0 - p))


def detectability(heights: ArrayLike, visible_share: ArrayLike) -> NDArray[np.float64]:
    """Estimate the probability that instances are found (source: ours).

    ``p = s(2 log2(height / 16)) * s(10 (visible share - 0.35))`` with the logistic function s.

    Args:
        heights: (M,) height of each in pixels of the image.
        visible_share: (M,) visible share of each, in [0, 1].

    Returns:
        (M,) probabilities in (0, 1).
    """
    tall = np.maximum(np.asarray(heights, dtype=np.float64), 1e-6)
    shares = np.asarray(visible_share, dtype=np.float64)
    p = _logistic(PRIOR_HEIGHT_SLOPE * np.log2(tall / PRIOR_HALF_HEIGHT))
    return p * _logistic(PRIOR_VISIBLE_SLOPE * (shares - PRIOR_HALF_VISIBLE))


@dataclass(frozen=True, eq=False)
class _Strays:
    """The unmatched predictions of a whole group, sorted by coordinates.

    Args:
        boxes: (N, 4) xyxy, scene frame.
        owners: (N,) rollout of each.
        edges: (2, E) indices of overlapping pairs, enough of them to connect every cluster.
    """

    boxes: Boxes
    owners: NDArray[np.intp]
    edges: NDArray[np.intp]

    @classmethod
    def of(cls, answers: Sequence[Boxes], matches: Sequence[Matches], threshold: float) -> _Strays:
        """Collect boxes with area that are no repeats, and connect those that overlap."""
        kept = [np.setdiff1d(m.unmatched_pred, m.repeated, assume_unique=True) for m in matches]
        if sum(map(len, kept)) > MAX_STRAYS:
            most = MAX_STRAYS // len(answers)
            kept = [_largest(a, k, most) for a, k in zip(answers, kept, strict=True)]
        boxes = np.concatenate([a[k] for a, k in zip(answers, kept, strict=True)])
        owners = np.repeat(np.arange(len(kept)), [len(k) for k in kept])
        has_area = box_area(boxes) > 0
        boxes, owners = boxes[has_area], owners[has_area]
        # The sums below are taken in this order, so they do not depend on that of an answer.
        order = np.lexsort((owners, *boxes.T[::-1]))
        boxes, owners = boxes[order], owners[order]
        return cls(boxes, owners, _overlapping_pairs(boxes, owners, threshold))

    def clusters_among(self, siblings: NDArray[np.bool_]) -> tuple[Boxes, NDArray[np.float64]]:
        """Return what two or more siblings (G,) share: (K, 4) mean boxes, (K,) shares of them."""
        kept = siblings[self.owners]
        boxes, owners = self.boxes[kept], self.owners[kept]
        if not len(boxes):
            return np.zeros((0, 4)), np.zeros(0)
        index = np.cumsum(kept) - 1
        edges = index[self.edges[:, kept[self.edges].all(axis=0)]]
        count, label = _components(edges, len(boxes))
        sizes = np.bincount(label, minlength=count)
        sums = [np.bincount(label, weights=side, minlength=count) for side in boxes.T]
        groups = self.owners.max() + 1
        present = np.unique(label * groups + owners) // groups
        support = np.bincount(present, minlength=count)
        shared = support >= MIN_SUPPORT
        means = np.stack(sums, axis=1) / sizes[:, None]
        return means[shared], support[shared] / int(siblings.sum())


def _largest(boxes: Boxes, indices: NDArray[np.intp], most: int) -> NDArray[np.intp]:
    """Return at most so many of the indices, of the largest boxes; ties go by coordinates."""
    if len(indices) <= most:
        return indices
    chosen = boxes[indices]
    return indices[np.lexsort((*chosen.T, -box_area(chosen)))[:most]]


def _overlapping_pairs(
    boxes: Boxes, owners: NDArray[np.intp], threshold: float
) -> NDArray[np.intp]:
    """Pairs (2, E) with IoU >= threshold among boxes with area that are sorted by x1.

    Where thousands of boxes lie on each other, pairs that join nothing new are left out.
    """
    x1, y1, x2, y2 = np.ascontiguousarray(boxes.T)
    area = box_area(boxes)
    # IoU >= t needs a shared width of t * w, so the partner to the right starts within (1-t) * w.
    last = np.searchsorted(x1, x2 - threshold * (x2 - x1), side="right")
    counts = np.maximum(last - np.arange(len(boxes)) - 1, 0)
    pairs = np.zeros((2, 0), dtype=np.intp)
    batches = _batches(counts)
    for rows in batches:
        a = np.repeat(rows, counts[rows])
        before = np.cumsum(counts[rows]) - counts[rows]
        b = a + 1 + np.arange(len(a)) - np.repeat(before, counts[rows])
        shared = np.maximum(np.minimum(x2[a], x2[b]) - x1[b], 0.0)
        shared *= np.maximum(np.minimum(y2[a], y2[b]) - np.maximum(y1[a], y1[b]), 0.0)
        close = shared >= threshold * (area[a] + area[b] - shared)
        pairs = np.concatenate([pairs, np.stack([a[close], b[close]])], axis=1)
        if len(batches) > 1:
            pairs = _thin(pairs, owners)
    return pairs


def _thin(pairs: NDArray[np.intp], owners: NDArray[np.intp]) -> NDArray[np.intp]:
    """Leave out pairs without changing what is joined, whichever owner is taken away.

    Boxes of one owner come and go together, so those that are joined among themselves can be a star
    around the first of them, and only that one needs the pairs with other owners.
    """
    own = owners[pairs[0]] == owners[pairs[1]]
    _, label = _components(pairs[:, own], len(owners))
    first = np.unique(label, return_index=True)[1][label]
    star = np.flatnonzero(first != np.arange(len(first)))
    # One number per pair: unique columns would take ten times as long.
    a, b = first[pairs[:, ~own]]
    across = np.divmod(np.unique(a * len(owners) + b), len(owners))
    return np.concatenate([np.stack([first[star], star]), np.stack(across)], axis=1)


def _components(pairs: NDArray[np.intp], count: int) -> tuple[int, NDArray[np.intp]]:
    """Number of connected components of a graph, and the component of each of its nodes."""
    ones = np.ones(pairs.shape[1], dtype=np.int8)
    graph = coo_array((ones, (pairs[0], pairs[1])), shape=(count, count))
    found: tuple[int, NDArray[np.intp]] = connected_components(graph, directed=False)
    return found


def _batches(counts: NDArray[np.intp]) -> list[NDArray[np.intp]]:
    """Split rows so that the pairs of a batch fit in memory."""
    batch = np.cumsum(counts) // _PAIRS_AT_ONCE
    return np.split(np.arange(len(counts)), np.flatnonzero(np.diff(batch)) + 1)


def _spread_of_siblings(
    counts: NDArray[np.int64], most: int, siblings: SiblingTable
) -> NDArray[np.float64]:
    """Four times the variance of counts (G, M) / most over the siblings (G, G) of each row.

    From sums of integers, so that it is exactly 0 where all agree.
    """
    table = siblings.astype(np.int64)
    # Without a sibling all sums are 0, and so is the spread.
    others = np.maximum(table.sum(axis=1, keepdims=True), 1)
    sums, squares = table @ counts, table @ counts**2
    spread: NDArray[np.float64] = 4.0 * (others * squares - sums**2) / (others * most) ** 2
    return spread


def _logistic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1.0 / (1.0 + np.exp(-x))
