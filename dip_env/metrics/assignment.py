"""Maximum-weight bipartite matching of sparse pairs, over all images at once.

Connected components of the graph of pairs are independent, so a crowd splits into thousands of
small problems: nearly all of them are single pairs and stars, which need no solver.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from dip_env.formats.box_sets import Floats, Indices


def best_pairs(
    a: Indices, b: Indices, weight: Floats, *, most_pairs: bool = False
) -> NDArray[np.bool_]:
    """Return the one-to-one matching with the largest sum of weights.

    It can have fewer pairs than possible: one pair of .9 beats two of .4.

    Args:
        a: (P,) numbers >= 0 of the first side.
        b: (P,) numbers >= 0 of the second side; pairs (a, b) are distinct.
        weight: (P,) weight of each pair, > 0.
        most_pairs: maximize the number of pairs first and the sum of weights second.

    Returns:
        (P,) True for the matched pairs. Ties are broken by the numbers in ``a`` and ``b``, not by
        the order of the pairs.
    """
    chosen = np.zeros(len(a), dtype=bool)
    single_a, single_b = np.bincount(a)[a] == 1, np.bincount(b)[b] == 1
    # A pair is in a star around its b if no pair of that b shares its a.
    star_b = np.bincount(b, weights=~single_a)[b] == 0
    star_a = np.bincount(a, weights=~single_b)[a] == 0
    star_a &= ~star_b
    chosen[_heaviest(star_b, b, a, weight)] = True
    chosen[_heaviest(star_a, a, b, weight)] = True
    rest = np.flatnonzero(~star_a & ~star_b)
    if len(rest):
        chosen[rest] = _solve(a[rest], b[rest], weight[rest], most_pairs)
    return chosen


def components(a: Indices, b: Indices) -> Indices:
    """Return the connected component of each pair.

    Args:
        a: (P,) numbers >= 0 of the first side.
        b: (P,) numbers >= 0 of the second side.

    Returns:
        (P,) indices of components, from 0.
    """
    return _components(_compact(a), _compact(b))


def coordinate_rank(boxes: Floats) -> Indices:
    """Rank boxes by their coordinates, for ties that must not depend on the order in the file.

    Args:
        boxes: (N, 4).

    Returns:
        (N,) ranks 0..N-1; equal boxes keep their order.
    """
    rank = np.empty(len(boxes), dtype=np.int64)
    rank[np.lexsort(boxes.T)] = np.arange(len(boxes))
    return rank


def _heaviest(among: NDArray[np.bool_], centre: Indices, leaf: Indices, weight: Floats) -> Indices:
    """Return the heaviest pair of each centre; ties go to the smaller leaf."""
    rows = np.flatnonzero(among)
    order = rows[np.lexsort((leaf[rows], -weight[rows], centre[rows]))]
    first = np.ones(len(order), dtype=bool)
    first[1:] = centre[order][1:] != centre[order][:-1]
    return order[first]


def _compact(numbers: Indices) -> Indices:
    """Renumber to 0, 1, ... without gaps, in the same order; linear, unlike ``np.unique``."""
    present = np.zeros(numbers.max(initial=-1) + 1, dtype=np.int64)
    present[numbers] = 1
    return (np.cumsum(present) - 1)[numbers]


def _components(a: Indices, b: Indices) -> Indices:
    """Return the component of each pair; both sides are numbered without gaps."""
    left = a.max(initial=-1) + 1
    nodes = left + b.max(initial=-1) + 1
    graph = coo_array((np.ones(len(a), dtype=np.int8), (a, b + left)), shape=(nodes, nodes))
    _, label = connected_components(graph, directed=False)
    return label[a].astype(np.int64)


def _solve(a: Indices, b: Indices, weight: Floats, most_pairs: bool) -> NDArray[np.bool_]:
    """Solve components that are not stars, one small dense block each."""
    a, b = _compact(a), _compact(b)
    label = _components(a, b)
    row, height = _positions(a, label)
    column, width = _positions(b, label)
    order = np.argsort(label, kind="stable")
    i, j, gain = row[order], column[order], weight[order]
    ends = np.cumsum(np.bincount(label))
    first = np.cumsum(height) - height
    # Column matched with each row, block after block.
    mate = np.full(int(height.sum()), -1, dtype=np.int64)
    start = 0
    blocks = zip(*(v.tolist() for v in (ends, first, height, width)), strict=True)
    for end, top, tall, wide in blocks:
        worth = gain[start:end]
        if most_pairs:
            # One more pair outweighs any loss of the others.
            worth = worth + min(tall, wide) * worth.max()
        block = np.zeros((tall, wide))
        block[i[start:end], j[start:end]] = worth
        # The solver may match a row and a column without an edge; these are not read below.
        rows, columns = linear_sum_assignment(block, maximize=True)
        mate[top + rows] = columns
        start = end
    return mate[first[label] + row] == column


def _positions(number: Indices, label: Indices) -> tuple[Indices, Indices]:
    """Return the index of each number within its component, and the size of each component."""
    of_number = np.empty(number.max() + 1, dtype=np.int64)
    of_number[number] = label
    size = np.bincount(of_number)
    order = np.argsort(of_number, kind="stable")
    position = np.empty(len(order), dtype=np.int64)
    position[order] = np.arange(len(order)) - np.repeat(np.cumsum(size) - size, size)
    return position[number], size
