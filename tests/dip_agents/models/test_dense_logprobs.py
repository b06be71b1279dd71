import pytest
import torch
from torch.nn import functional as F

from dip_agents.models.chunked_logprobs import tiled_logprobs
from dip_agents.models.dense_logprobs import dense_logprobs


def problem(rows, vocabulary, dtype=torch.float64, ban=3, scale=1.0):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(rows, 8, generator=generator, dtype=dtype)
    weight = torch.randn(vocabulary, 8, generator=generator, dtype=dtype) * scale
    banned = torch.arange(vocabulary) < ban
    ids = torch.randint(ban, vocabulary, (rows,), generator=generator)
    return hidden.requires_grad_(), weight.requires_grad_(), ids, banned


def plain(hidden, weight, ids, bias=None, banned=None, temperature=1.0):
    logits = F.linear(hidden, weight, bias)
    logits = logits.to(torch.promote_types(torch.float32, logits.dtype)) / temperature
    logp = torch.log_softmax(logits.masked_fill(banned, -torch.inf), -1)
    entropy = -(logp.exp() * logp.masked_fill(banned, 0.0)).sum(-1)
    return logp.gather(1, ids[:, None])[:, 0], entropy


def outcome(function, hidden, weight, ids, entropy_weight=1.0, **settings):
    """Values and gradients of a loss that moves each row by its own amount."""
    logp, entropy = function(hidden, weight, ids, **settings)
    scale = torch.linspace(-1, 2, len(ids))
    loss = (scale * logp).sum()
    if entropy_weight:
        loss = loss + entropy_weight * (scale.flip(0) * entropy).sum()
    return logp, entropy, *torch.autograd.grad(loss, (hidden, weight))


@pytest.mark.grpo_property(14)
@pytest.mark.parametrize("rows", [1, 4, 192])
@pytest.mark.parametrize("entropy_weight", [0.0, 1.0])
@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.0])
def test_values_and_gradients_equal_plain_operations(rows, entropy_weight, temperature):
    parts = problem(10, 37)
    common = {"banned": parts[3], "temperature": temperature, "entropy_weight": entropy_weight}
    expected = outcome(plain, *parts[:3], **common)
    found = outcome(dense_logprobs, *parts[:3], rows=rows, **common)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-9, rtol=1e-9)


@pytest.mark.grpo_property(14)
def test_both_gradients_pass_gradcheck_with_a_bias():
    hidden, weight, ids, banned = problem(5, 11)
    bias = torch.linspace(-1, 1, 11, dtype=torch.float64).requires_grad_()

    def function(hidden, weight, bias):
        return dense_logprobs(
            hidden, weight, ids, bias=bias, banned=banned, temperature=0.7, rows=2
        )

    assert torch.autograd.gradcheck(function, (hidden, weight, bias))


def test_large_logits_neither_overflow_nor_lose_digits():
    hidden, weight, ids, banned = problem(20, 50, torch.float32, scale=60.0)
    found = outcome(dense_logprobs, hidden, weight, ids, banned=banned)
    expected = outcome(plain, hidden.double(), weight.double(), ids, banned=banned)
    for one, other in zip(found, expected, strict=True):
        assert one.isfinite().all()
        torch.testing.assert_close(one.double(), other, atol=2e-3, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_under_autocast_it_is_as_close_to_exact_as_the_tiles(dtype):
    parts = problem(300, 700, torch.float32)
    settings = {"banned": parts[3], "temperature": 0.8}
    exact = outcome(plain, *parts[:3], **settings)
    results = []
    with torch.autocast("cpu", dtype=dtype):
        for function in (dense_logprobs, tiled_logprobs):
            results.append(outcome(function, *parts[:3], **settings))
    assert results[0][0].dtype == torch.float32
    for one, other, wanted in zip(*results, exact, strict=True):
        error, usual = ((each - wanted).norm() / wanted.norm() for each in (one, other))
        assert 0 < error < 1.3 * usual + 2e-3


def test_a_banned_id_has_logprob_minus_infinity():
    hidden, weight, ids, banned = problem(3, 6)
    ids[1] = 0
    logp, entropy = dense_logprobs(hidden, weight, ids, banned=banned)
    assert logp.isinf().tolist() == [False, True, False] and entropy.isfinite().all()


def test_probabilities_are_all_that_is_kept_of_the_logits():
    hidden, weight, ids, banned = problem(30, 50, torch.float32)
    kept = []
    hooks = torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t), lambda t: t)
    with hooks, torch.autocast("cpu", dtype=torch.bfloat16):
        dense_logprobs(hidden, weight, ids, banned=banned)
    large = [t for t in kept if t.numel() >= 30 * 50]
    assert [(tuple(t.shape), t.dtype) for t in large] == [((30, 50), torch.bfloat16)]


def test_no_rows_give_an_empty_result_and_a_frozen_weight_no_gradient():
    hidden, weight, ids, banned = problem(0, 6)
    found = outcome(dense_logprobs, hidden, weight, ids, banned=banned)
    assert found[0].shape == (0,) and found[2].shape == (0, 8) and not found[3].any()
    hidden, weight, ids, banned = problem(4, 6)
    dense_logprobs(hidden, weight.detach(), ids, banned=banned)[0].sum().backward()
    assert hidden.grad.any() and weight.grad is None
