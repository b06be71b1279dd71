import pytest
import torch
from torch.nn import functional as F

from dip_agents.models import block_attention as module
from dip_agents.models.block_attention import block_attention


def problem(rows, heads, key_heads, queries, keys, dtype=torch.float64):
    """Queries that are the last of the tokens; some rows do not see their first keys."""
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(rows, heads, queries, 8, generator=generator)
    key, value = (torch.randn(rows, key_heads, keys, 8, generator=generator) for _ in range(2))
    mask = torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries)
    mask = mask.repeat(rows, 1, 1, 1)
    for row in range(rows):
        mask[row, ..., : min(row, keys - queries)] = False
    return [part.to(dtype).requires_grad_() for part in (query, key, value)], mask


def fused(query, key, value, mask, scaling):
    key, value = (p.repeat_interleave(query.shape[1] // p.shape[1], dim=1) for p in (key, value))
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling)


def outcome(function, parts, mask):
    """The result, and the gradients of an uneven sum of it."""
    out = function(*parts, mask, 0.3)
    weights = torch.linspace(-1, 2, out.numel(), dtype=out.dtype).view(out.shape)
    return [out, *torch.autograd.grad((out * weights).sum(), parts)]


@pytest.mark.parametrize(("queries", "keys"), [(5, 5), (5, 7), (40, 40), (9, 33), (31, 64), (1, 9)])
@pytest.mark.parametrize("block", [1, 16, 64])
def test_values_and_gradients_equal_the_fused_attention(monkeypatch, queries, keys, block):
    monkeypatch.setattr(module, "BLOCK", block)
    parts, mask = problem(3, 4, 2, queries, keys)
    found, expected = (outcome(each, parts, mask) for each in (block_attention, fused))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-10, rtol=1e-10)


def test_a_mask_of_all_rows_serves_each():
    parts, mask = problem(1, 4, 2, 6, 6)
    parts = [part.detach().repeat(3, 1, 1, 1) for part in parts]
    torch.testing.assert_close(
        block_attention(*parts, mask, 0.3), fused(*parts, mask.expand(3, -1, -1, -1), 0.3)
    )


def test_in_bf16_it_is_as_close_to_exact_as_plain_products():
    parts, mask = problem(2, 4, 2, 150, 200)
    exact = outcome(fused, parts, mask)
    low = [part.detach().bfloat16().requires_grad_() for part in parts]

    def plain(query, key, value, mask, scaling):
        key, value = (p.repeat_interleave(2, dim=1) for p in (key, value))
        scores = (query * scaling) @ key.mT
        return scores.masked_fill(~mask, -torch.inf).softmax(-1) @ value

    found, usual = (outcome(each, low, mask) for each in (block_attention, plain))
    for one, other, wanted in zip(found, usual, exact, strict=True):
        error, usual_error = ((each - wanted).norm() / wanted.norm() for each in (one, other))
        assert 0 < error < 1.2 * usual_error + 1e-3


def test_the_future_of_a_block_is_not_computed(monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 32)
    assert list(module._blocks(10, 80, 96)) == [
        (slice(0, 22), 32),
        (slice(22, 54), 64),
        (slice(54, 80), 96),
    ]
    parts, mask = problem(1, 1, 1, 96, 96)
    with torch.no_grad():
        expected = block_attention(*parts, mask, 0.3)[:, :, :32]
        parts[1][:, :, 32:] = torch.nan  # even so: the first block never reads it
        torch.testing.assert_close(block_attention(*parts, mask, 0.3)[:, :, :32], expected)
