"""Statistics are those of the active tokens, however the batch was cut."""

import itertools

import torch
from hypothesis import given
from hypothesis import strategies as st

from dip_agents.objectives.token_stats import TokenStats, merge


def test_statistics_are_means_and_extremes_over_active_tokens_only():
    values = torch.tensor([[1.0, 5.0, 100.0]])
    mask = torch.tensor([[True, True, False]])
    one = TokenStats.of(mask, {"x": values}, {"x_max": values}, {"x_min": values})
    two = TokenStats.of(mask, {"x": values * 0}, {"x_max": values * 2}, {"x_min": -values})
    assert one.metrics() == {"x": 3.0, "x_max": 5.0, "x_min": 1.0}
    assert one.merged(two).metrics() == {"x": 1.5, "x_max": 10.0, "x_min": -5.0}


def test_where_no_token_is_active_nothing_is_reported_and_nothing_added():
    values = torch.tensor([[2.0, float("nan")]])
    nobody = TokenStats.of(torch.zeros(1, 2).bool(), {"x": values}, {"y": values}, {"z": values})
    somebody = TokenStats.of(
        torch.tensor([[True, False]]), {"x": values}, {"y": values}, {"z": values}
    )
    assert nobody.metrics() == {}
    assert nobody.merged(somebody).metrics() == {"x": 2.0, "y": 2.0, "z": 2.0}


@given(
    st.lists(st.tuples(st.integers(-9, 9), st.booleans()), min_size=1, max_size=8),
    st.sets(st.integers(1, 7)),
)
def test_parts_add_up_to_the_whole(tokens, cuts):
    values = torch.tensor([[float(value) for value, _ in tokens]])
    mask = torch.tensor([[active for _, active in tokens]])

    def stats(part):
        chosen = values[:, part]
        return TokenStats.of(mask[:, part], {"m": chosen}, {"max": chosen}, {"min": chosen})

    edges = [0, *sorted(cut for cut in cuts if cut < len(tokens)), len(tokens)]
    parts = [stats(slice(a, b)) for a, b in itertools.pairwise(edges)]
    assert merge(parts).metrics() == stats(slice(None)).metrics()
