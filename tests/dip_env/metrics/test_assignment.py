from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dip_env.metrics.assignment import best_pairs, components, coordinate_rank

pytestmark = pytest.mark.filterwarnings("error")

# A few weights only, so that ties and chains of equal choices are common.
weights = st.sampled_from([0.25, 0.5, 0.51, 0.75, 0.99, 1.0])
graphs = st.dictionaries(st.tuples(st.integers(0, 4), st.integers(0, 4)), weights, max_size=12)


def columns(rows):
    a, b, weight = zip(*rows, strict=True) if rows else ((), (), ())
    return np.array(a, np.int64), np.array(b, np.int64), np.array(weight, np.float64)


def choose(rows, **options):
    """Return the chosen rows."""
    mask = best_pairs(*columns(rows), **options)
    return [row for row, chosen in zip(rows, mask, strict=True) if chosen]


def every_choice(rows):
    """Yield all sets of rows in which nobody stands twice."""
    if not rows:
        yield []
        return
    (a, b, _), rest = rows[0], rows[1:]
    yield from every_choice(rest)
    for choice in every_choice([row for row in rest if row[0] != a and row[1] != b]):
        yield [rows[0], *choice]


def worth(choice):
    return sum(row[2] for row in choice)


@given(graphs)
def test_no_other_choice_has_a_larger_sum(graph):
    rows = [(a, b, weight) for (a, b), weight in graph.items()]
    chosen = choose(rows)
    assert len({row[0] for row in chosen}) == len({row[1] for row in chosen}) == len(chosen)
    assert worth(chosen) == pytest.approx(max(map(worth, every_choice(rows))), abs=1e-12)


@given(graphs)
def test_with_most_pairs_no_other_choice_has_more_pairs_or_as_many_and_a_larger_sum(graph):
    rows = [(a, b, weight) for (a, b), weight in graph.items()]
    chosen = choose(rows, most_pairs=True)
    assert len({row[0] for row in chosen}) == len({row[1] for row in chosen}) == len(chosen)
    number, total = max((len(choice), worth(choice)) for choice in every_choice(rows))
    assert len(chosen) == number
    full = [worth(choice) for choice in every_choice(rows) if len(choice) == number]
    assert worth(chosen) == pytest.approx(max(full), abs=1e-12)
    assert total == pytest.approx(max(full), abs=1e-12)


@given(graphs, st.randoms(use_true_random=False), st.booleans())
def test_the_order_of_the_pairs_does_not_matter_even_among_ties(graph, random, most_pairs):
    rows = [(a, b, weight) for (a, b), weight in graph.items()]
    mixed = random.sample(rows, len(rows))
    one, other = (set(choose(given, most_pairs=most_pairs)) for given in (rows, mixed))
    assert one == other


# A chain 0-0-1-1-2-2: the two strong links exclude all three weak ones.
CHAIN = [(0, 0, 0.52), (1, 0, 0.98), (1, 1, 0.52), (2, 1, 0.98), (2, 2, 0.52)]


def test_the_largest_sum_can_have_fewer_pairs_than_possible():
    # .98 + .98 = 1.96 beats .52 + .52 + .52 = 1.56, which has three pairs.
    assert choose(CHAIN) == [(1, 0, 0.98), (2, 1, 0.98)]
    assert choose(CHAIN, most_pairs=True) == [(0, 0, 0.52), (1, 1, 0.52), (2, 2, 0.52)]


def test_among_as_many_pairs_the_larger_sum_is_taken():
    # Both diagonals have two pairs: .9 + .6 = 1.5 against .8 + .8 = 1.6.
    rows = [(0, 0, 0.9), (0, 1, 0.8), (1, 0, 0.8), (1, 1, 0.6)]
    assert choose(rows) == choose(rows, most_pairs=True) == [(0, 1, 0.8), (1, 0, 0.8)]


def test_one_strong_pair_beats_two_weak_ones_unless_pairs_count_first():
    rows = [(0, 0, 0.4), (0, 1, 0.9), (1, 1, 0.4)]
    assert choose(rows) == [(0, 1, 0.9)]
    assert choose(rows, most_pairs=True) == [(0, 0, 0.4), (1, 1, 0.4)]


@pytest.mark.parametrize("centre", [0, 1])
def test_of_a_star_the_heaviest_pair_is_taken_and_of_equal_ones_the_smaller_number(centre):
    leaves = [(7, 0.6), (5, 0.8), (3, 0.8), (9, 0.7)]
    rows = [(2, leaf, w) if centre == 0 else (leaf, 2, w) for leaf, w in leaves]
    assert choose(rows) == [rows[2]]


def test_components_do_not_influence_each_other():
    # The chain a thousand times, far apart in number, with a single pair and a star between them.
    rows = []
    for k in range(1000):
        rows += [(100 * k + a, 70 * k + b, weight) for a, b, weight in CHAIN]
        rows += [(100 * k + 50, 70 * k + 40, 0.6), (100 * k + 51, 70 * k + 41, 0.6)]
        rows += [(100 * k + 51, 70 * k + 42, 0.7)]
    a, b, weight = columns(rows)
    mask = best_pairs(a, b, weight).reshape(1000, 8)
    assert mask.tolist() == [[False, True, False, True, False, True, False, True]] * 1000
    assert len(set(components(a, b).tolist())) == 3000


@given(graphs)
def test_pairs_share_a_component_exactly_when_a_chain_of_pairs_joins_them(graph):
    rows = list(graph)
    label = components(*columns([(*row, 1.0) for row in rows])[:2]).tolist()
    group = {row: {row} for row in rows}
    for one in rows:
        for other in rows:
            if one[0] == other[0] or one[1] == other[1]:
                joined = group[one] | group[other]
                for member in joined:
                    group[member] = joined
    for one, of_one in zip(rows, label, strict=True):
        for other, of_other in zip(rows, label, strict=True):
            assert (of_one == of_other) == (other in group[one])


def test_of_no_pairs_none_is_chosen():
    assert choose([]) == choose([], most_pairs=True) == []
    assert components(*columns([])[:2]).tolist() == []


def test_boxes_are_numbered_by_their_coordinates_whatever_their_order():
    boxes = np.array([[5.0, 0, 9, 9], [1, 0, 9, 9], [1, 0, 9, 8]])
    turned = coordinate_rank(boxes[::-1])[::-1]
    assert coordinate_rank(boxes).tolist() == turned.tolist()
    assert sorted(turned.tolist()) == [0, 1, 2]
