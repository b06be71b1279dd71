"""Overlapping pairs of detections and annotations, over all images at once.

A crowd has thousands of possible pairs and few that overlap, so pairs are stored sparsely.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dip_env.formats.box_sets import Floats, Indices

_CHUNK = 1 << 18
"""Candidate pairs per chunk; bounds the memory, not the result."""


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of boxes of one image that share some area, ordered by (a, b).

    Args:
        a: (P,) rows of the first set.
        b: (P,) rows of the second set.
        shared: (P,) area of the intersection, > 0.
    """

    a: Indices
    b: Indices
    shared: Floats

    def only(self, keep: np.ndarray) -> Pairs:
        """Return the pairs where ``keep`` (P,) is True."""
        return Pairs(self.a[keep], self.b[keep], self.shared[keep])


def shared_pairs(a: Floats, a_starts: Indices, b: Floats, b_starts: Indices) -> Pairs:
    """Find all pairs of boxes in the same image that share area.

    Args:
        a: (N, 4) xyxy.
        a_starts: (I + 1,) rows ``a_starts[i]:a_starts[i + 1]`` of ``a`` belong to image i.
        b: (M, 4) xyxy in the frame of ``a``.
        b_starts: (I + 1,) likewise.

    Returns:
        The pairs; time and memory are linear in the number of images.
    """
    partners = np.repeat(np.diff(b_starts), np.diff(a_starts))
    first = np.repeat(b_starts[:-1], np.diff(a_starts))
    ends = np.cumsum(partners)
    left_a, top_a, right_a, bottom_a = np.ascontiguousarray(a.T)
    left_b, top_b, right_b, bottom_b = np.ascontiguousarray(b.T)
    found = [Pairs(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))]
    start = 0
    while start < len(a):
        done = ends[start] - partners[start]
        stop = max(start + 1, int(np.searchsorted(ends, done + _CHUNK, side="right")))
        number = partners[start:stop]
        i = np.repeat(np.arange(start, stop), number)
        j = np.arange(len(i)) + np.repeat(first[start:stop] - (np.cumsum(number) - number), number)
        wide = np.minimum(right_a[i], right_b[j]) - np.maximum(left_a[i], left_b[j])
        # Most candidates are disjoint horizontally: heights are compared for the others only.
        meet = np.flatnonzero(wide > 0)
        i, j, wide = i[meet], j[meet], wide[meet]
        tall = np.minimum(bottom_a[i], bottom_b[j]) - np.maximum(top_a[i], top_b[j])
        # The product of two tiny sides can underflow to 0.
        shared = wide * tall
        meet = np.flatnonzero(shared > 0)
        found.append(Pairs(i[meet], j[meet], shared[meet]))
        start = stop
    return Pairs(
        np.concatenate([part.a for part in found]),
        np.concatenate([part.b for part in found]),
        np.concatenate([part.shared for part in found]),
    )


def best_free(pairs: Pairs, overlap: Floats, rank: Indices, *, later_wins: bool) -> Indices:
    """Match each detection, in order of rank, with the free annotation it overlaps most.

    Args:
        pairs: detections (a) with annotations (b) that can match.
        overlap: (P,) overlap of each pair.
        rank: (N,) rank of each detection, 0 for the first to be matched.
        later_wins: among equal overlaps take the annotation that is later in the file (as ``>=``
            does in a loop that keeps the best), else the earlier one (``>``).

    Returns:
        (N,) the row of b matched with each detection, -1 for none; no b is matched twice.
    """
    tie = -pairs.b if later_wins else pairs.b
    order = np.lexsort((tie, -overlap, rank[pairs.a]))
    taken = np.full(len(rank), -1, dtype=np.int64)
    gone: set[int] = set()
    busy = -1
    for detection, annotation in zip(pairs.a[order].tolist(), pairs.b[order].tolist(), strict=True):
        # Candidates of one detection are contiguous: once it is matched, the rest are skipped.
        if detection == busy or annotation in gone:
            continue
        busy = detection
        gone.add(annotation)
        taken[detection] = annotation
    return taken
