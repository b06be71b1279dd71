import pytest

from dip_agents.engines.base import Chunk
from dip_agents.engines.prefill import Prefiller, Row, batches
from dip_agents.tokens.buffer import TokenBudgetError


@pytest.mark.parametrize(
    ("lengths", "limit", "expected"),
    [
        ([], 10, []),
        ([3, 3, 3], 9, [[3, 3, 3]]),
        ([3, 3, 4], 9, [[3, 3], [4]]),  # padded to 4, three rows would be 12 tokens
        ([2, 20, 2, 2], 10, [[2], [20], [2, 2]]),  # a row that is too long goes alone
    ],
)
def test_batches_keep_the_order_and_the_limit_with_padding(lengths, limit, expected):
    assert [lengths[part] for part in batches(lengths, limit)] == expected


def test_a_chunk_beyond_the_budget_is_refused_before_anything_is_fed(micro):
    prefiller = Prefiller(micro("qwen3_vl"), None, None, token_budget=8, prefill_tokens=100)
    row = Row(number=5, slot=0, length=4, pending=7)
    with pytest.raises(TokenBudgetError, match=r"expected at least 9 for row 5, got 8"):
        prefiller.feed([(row, Chunk([1, 2, 3, 4], []))])
    assert (row.length, row.pending) == (4, 7)
