import pytest
from hypothesis import given
from hypothesis import strategies as st

from dip_agents.batches import micro_batches
from dip_agents.token_buffer import TokenBuffer


def buffers(lengths):
    made = []
    for length in lengths:
        buffer = TokenBuffer(0)
        buffer.append_policy([1] * length, [0.0] * length)
        made.append(buffer)
    return made


def test_the_longest_come_first_and_padding_counts():
    assert micro_batches(buffers([3, 10, 4, 9]), token_budget=20) == [[1, 3], [2, 0]]


@given(
    st.lists(st.integers(1, 50), max_size=20),
    st.none() | st.integers(1, 120),
    st.none() | st.integers(1, 5),
)
def test_every_row_appears_once_within_the_limits(lengths, budget, size):
    made = buffers(lengths)
    batches = micro_batches(made, budget, size)
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    for batch in batches:
        padded = max(lengths[row] for row in batch) * len(batch)
        assert size is None or len(batch) <= size
        assert budget is None or padded <= budget or len(batch) == 1


def test_a_limit_under_one_is_refused():
    with pytest.raises(ValueError, match="size: expected at least 1, got 0"):
        micro_batches(buffers([1]), size=0)
