from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dip_agents.tokens.batching import micro_batches, padded_tokens
from dip_agents.tokens.buffer import TokenBuffer


def buffers(lengths):
    made = []
    for length in lengths:
        buffer = TokenBuffer(0)
        buffer.append_policy([1] * length, [0.0] * length)
        made.append(buffer)
    return made


def rollouts(*shapes):
    """Buffers of (prompt, prompt tokens, policy tokens); equal prompts are equal prefixes."""
    made = []
    for prompt, before, after in shapes:
        buffer = TokenBuffer(0)
        buffer.append_env([prompt] * before)
        buffer.append_policy([9] * after, None)
        made.append(buffer)
    return made


shapes = st.lists(
    st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 30)), max_size=20
).map(lambda drawn: rollouts(*drawn))
budgets = st.none() | st.integers(1, 120)
sizes = st.none() | st.integers(1, 5)


def test_the_longest_come_first_and_padding_counts():
    assert micro_batches(buffers([3, 10, 4, 9]), token_budget=20) == [[1, 3], [2, 0]]


def test_few_micro_batches_come_before_padding_and_padding_before_full_ones():
    # Two are needed. [10, 10, 2] and [2, 2] pad to 34 tokens, [10, 10] and [2, 2, 2] to 26.
    assert micro_batches(buffers([10, 10, 2, 2, 2]), token_budget=30) == [[0, 1], [2, 3, 4]]


def test_of_equal_splits_the_first_micro_batch_is_full():
    assert micro_batches(buffers([5] * 5), size=2) == [[0, 1], [2, 3], [4]]


def test_a_prefix_counts_once_in_a_micro_batch_and_padding_does_not():
    group = rollouts((1, 10, 4), (1, 10, 2), (2, 10, 3))
    # The last policy token is only predicted: 10 + 3 + 1, and 10 + 2.
    assert padded_tokens(group, share_prefix=True) == 26
    assert padded_tokens(group) == 3 * 14
    assert padded_tokens([]) == padded_tokens([], share_prefix=True) == 0


def test_members_stay_together_where_lengths_alone_would_part_them():
    group = rollouts((1, 10, 9), (2, 10, 8), (1, 10, 2), (2, 10, 1))
    assert micro_batches(group, token_budget=20, share_prefix=True) == [[0, 2], [1, 3]]
    assert micro_batches(group, token_budget=40) == [[0, 1], [2, 3]]


def test_a_group_too_large_is_cut_and_repeats_its_prefix():
    group = rollouts(*[(1, 10, 6)] * 5)  # 10 + 5 tokens each
    assert micro_batches(group, token_budget=20, share_prefix=True) == [[0, 1], [2, 3], [4]]
    assert micro_batches(group, token_budget=14, share_prefix=True) == [[0], [1], [2], [3], [4]]
    assert micro_batches(group, size=3, share_prefix=True) == [[0, 1, 2], [3, 4]]


def test_no_buffers_make_no_micro_batches():
    assert micro_batches([], token_budget=5) == []


@given(shapes, budgets, sizes, st.booleans())
def test_every_row_appears_once_within_the_limits_and_longest_first(made, budget, size, share):
    batches = micro_batches(made, budget, size, share)
    assert sorted(row for batch in batches for row in batch) == list(range(len(made)))
    assert batches == micro_batches(made, budget, size, share)
    for batch in batches:
        assert size is None or len(batch) <= size
        tokens = padded_tokens([made[row] for row in batch], share)
        assert budget is None or tokens <= budget or len(batch) == 1
    tops = [max(len(made[row]) for row in batch) for batch in batches]
    assert tops == sorted(tops, reverse=True)


@given(shapes, budgets, sizes)
def test_a_group_that_fits_is_never_parted(made, budget, size):
    home = {
        row: number
        for number, batch in enumerate(micro_batches(made, budget, size, share_prefix=True))
        for row in batch
    }
    groups: dict[tuple[int, ...], list[int]] = {}
    for row, buffer in enumerate(made):
        groups.setdefault(tuple(buffer.ids[: buffer.loss_mask.index(1)]), []).append(row)
    for rows in groups.values():
        tokens = padded_tokens([made[row] for row in rows], share_prefix=True)
        if (budget is None or tokens <= budget) and (size is None or len(rows) <= size):
            assert len({home[row] for row in rows}) == 1


@given(st.lists(st.integers(1, 30), min_size=1, max_size=7), st.integers(1, 90))
def test_no_other_cut_of_the_sorted_rows_is_smaller(lengths, budget):
    """Against all ways to cut rows, longest first: fewer batches, then less padding."""
    ordered = sorted(lengths, reverse=True)
    ways = []
    for cuts in range(len(ordered)):
        for places in combinations(range(1, len(ordered)), cuts):
            edges = [0, *places, len(ordered)]
            runs = [ordered[a:b] for a, b in pairwise(edges)]
            if all(len(run) == 1 or len(run) * run[0] <= budget for run in runs):
                ways.append((len(runs), sum(len(run) * run[0] for run in runs)))
    made = buffers(lengths)
    batches = micro_batches(made, budget)
    padding = sum(padded_tokens([made[row] for row in batch]) for batch in batches)
    assert (len(batches), padding) == min(ways)


@pytest.mark.parametrize("limit", ["size", "token_budget"])
def test_a_limit_under_one_is_refused(limit):
    with pytest.raises(ValueError, match=f"{limit}: expected at least 1, got 0"):
        micro_batches(buffers([1]), **{limit: 0})
