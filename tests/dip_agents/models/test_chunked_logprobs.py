import logging
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from dip_agents.models import chunked_logprobs as tiled_head
from dip_agents.models.chunked_logprobs import linear_weight, tiled_logprobs


def dense(hidden, weight, ids, bias=None, banned=None, temperature=1.0):
    """The same numbers from all logits at once, as the sampler makes them."""
    logits = nn.functional.linear(hidden, weight, bias)
    logits = logits.to(torch.promote_types(torch.float32, logits.dtype)) / temperature
    if banned is not None:
        logits = logits + torch.zeros(len(weight)).masked_fill(banned, -torch.inf)
    logp = torch.log_softmax(logits, -1)
    entropy = -(logp.exp() * logp.masked_fill(logp == -torch.inf, 0.0)).sum(-1)
    return logp.gather(1, ids[:, None])[:, 0], entropy


def problem(rows, vocabulary, size=8, dtype=torch.float32, seed=0, ban=0):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(rows, size, generator=generator, dtype=dtype)
    weight = torch.randn(vocabulary, size, generator=generator, dtype=dtype)
    banned = torch.zeros(vocabulary, dtype=torch.bool)
    banned[torch.randperm(vocabulary, generator=generator)[:ban]] = True
    allowed = torch.nonzero(~banned)[:, 0]
    ids = allowed[torch.randint(len(allowed), (rows,), generator=generator)]
    return hidden.requires_grad_(), weight.requires_grad_(), ids, banned


def run(function, hidden, weight, ids, **settings):
    """Values and gradients of a loss that both outputs move, each row by its own amount."""
    logp, entropy = function(hidden, weight, ids, **settings)
    scale = torch.linspace(-1, 2, max(len(ids), 1))[: len(ids)]
    loss = (scale * logp).sum() + (scale.flip(0) * entropy).sum()
    return logp, entropy, *torch.autograd.grad(loss, (hidden, weight))


def test_logprob_and_entropy_worked_by_hand():
    # Logits 0, 0, log 2 at temperature 1: probabilities 1/4, 1/4, 1/2.
    weight = torch.tensor([[0.0], [0.0], [math.log(2)]])
    logp, entropy = tiled_logprobs(torch.ones(2, 1), weight, torch.tensor([0, 2]), columns=1)
    torch.testing.assert_close(logp, torch.tensor([0.25, 0.5]).log())
    torch.testing.assert_close(entropy, torch.full((2,), 1.5 * math.log(2)))
    # The last token banned: one half each.
    logp, entropy = tiled_logprobs(
        torch.ones(1, 1), weight, torch.tensor([1]), banned=torch.tensor([False, False, True])
    )
    torch.testing.assert_close(logp.exp(), torch.tensor([0.5]))
    torch.testing.assert_close(entropy, torch.tensor([math.log(2)]))


@pytest.mark.grpo_property(14)
@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 9),
    vocabulary=st.integers(2, 40),
    tile=st.tuples(st.integers(1, 10), st.integers(1, 41)),
    ban=st.integers(0, 39),
    temperature=st.floats(0.2, 3.0),
    seed=st.integers(0, 99),
)
def test_values_and_gradients_equal_the_dense_head(rows, vocabulary, tile, ban, temperature, seed):
    hidden, weight, ids, banned = problem(
        rows, vocabulary, seed=seed, ban=min(ban, vocabulary - 1), dtype=torch.float64
    )
    common = {"banned": banned, "temperature": temperature}
    expected = run(dense, hidden, weight, ids, **common)
    found = run(tiled_logprobs, hidden, weight, ids, rows=tile[0], columns=tile[1], **common)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-9, rtol=1e-9)


@pytest.mark.grpo_property(14)
def test_both_gradients_pass_gradcheck_with_a_bias():
    hidden, weight, ids, banned = problem(5, 11, size=3, dtype=torch.float64, ban=2)
    bias = torch.linspace(-1, 1, 11, dtype=torch.float64).requires_grad_()

    def function(hidden, weight, bias):
        return tiled_logprobs(
            hidden, weight, ids, bias=bias, banned=banned, temperature=0.7, rows=2, columns=4
        )

    assert torch.autograd.gradcheck(function, (hidden, weight, bias))


def test_large_logits_neither_overflow_nor_lose_digits():
    hidden, weight, ids, _ = problem(20, 50)
    with torch.no_grad():
        weight *= 60
    found = run(tiled_logprobs, hidden, weight, ids, rows=7, columns=9)
    expected = run(dense, hidden.double(), weight.double(), ids)
    for one, other in zip(found, expected, strict=True):
        assert one.isfinite().all()
        torch.testing.assert_close(one.double(), other, atol=2e-3, rtol=1e-5)


def test_a_first_tile_of_banned_tokens_only_changes_nothing():
    hidden, weight, ids, banned = problem(4, 12)
    banned[:5] = True
    ids = ids.clamp(min=5)
    found = run(tiled_logprobs, hidden, weight, ids, banned=banned, columns=2)
    expected = run(dense, hidden, weight, ids, banned=banned)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_a_banned_id_has_logprob_minus_infinity_as_in_the_dense_head():
    hidden, weight, ids, banned = problem(3, 6)
    banned[ids[1]] = True
    logp, entropy = tiled_logprobs(hidden, weight, ids, banned=banned, columns=4)
    wanted, _ = dense(hidden, weight, ids, banned=banned)
    np.testing.assert_array_equal(logp.isinf().numpy(), wanted.isinf().numpy())
    assert logp[1] == -torch.inf and entropy.isfinite().all()


@pytest.mark.grpo_property(14)
def test_no_rows_give_an_empty_result_and_zero_gradients():
    hidden, weight, ids, banned = problem(0, 6)
    logp, entropy, to_hidden, to_weight = run(tiled_logprobs, hidden, weight, ids, banned=banned)
    assert logp.shape == entropy.shape == (0,) and logp.dtype == torch.float32
    assert to_hidden.shape == (0, 8)
    assert to_weight.shape == (6, 8) and not to_weight.any()


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_bf16_autocast_stays_near_the_exact_gradient(stored):
    hidden, weight, ids, banned = problem(300, 700, size=32, ban=10)
    with torch.no_grad():
        weight *= 0.3
    exact = run(dense, hidden, weight, ids, banned=banned, temperature=0.8)
    low = [part.detach().to(stored).requires_grad_() for part in (hidden, weight)]
    results = {}
    for function, tile in ((dense, {}), (tiled_logprobs, {"rows": 64, "columns": 50})):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            results[function] = run(function, *low, ids, banned=banned, temperature=0.8, **tile)
    for place, wanted in enumerate(part.detach() for part in exact):
        errors = [
            float((results[function][place].detach().float() - wanted).norm() / wanted.norm())
            for function in (dense, tiled_logprobs)
        ]
        # Bfloat16 has 8 bits; adding tiles up must not cost more than the dense path loses.
        assert errors[1] < 0.02 and errors[1] < 1.3 * errors[0] + 1e-4, (place, errors)
    assert results[tiled_logprobs][2].dtype == results[tiled_logprobs][3].dtype == stored
    assert results[tiled_logprobs][0].dtype == torch.float32


def test_many_small_shares_of_a_bf16_gradient_are_summed_in_float32():
    # 1024 equal rows in tiles of 1: bfloat16 sums would stop growing at 128.
    hidden = torch.ones(1024, 1, dtype=torch.bfloat16)
    weight = torch.zeros(2, 1, dtype=torch.bfloat16).requires_grad_()
    logp, _ = tiled_logprobs(hidden, weight, torch.zeros(1024, dtype=torch.long), rows=1)
    (gradient,) = torch.autograd.grad(logp.sum(), weight)
    # d logp_0 / dw = (1 - 1/2, -1/2) per row.
    assert gradient[:, 0].tolist() == [512.0, -512.0]


def test_a_frozen_weight_gets_no_gradient_and_costs_no_product():
    hidden, weight, ids, _ = problem(6, 10)
    frozen = weight.detach()
    sizes = Largest()
    with sizes:
        logp, _ = tiled_logprobs(hidden, frozen, ids, columns=3)
        logp.sum().backward()
    assert frozen.grad is None
    # Two products of the logits and one for the states, in each of four column tiles.
    assert sizes.products == 3 * 4
    torch.testing.assert_close(hidden.grad, run_grad(dense, hidden, weight, ids))


def run_grad(function, hidden, weight, ids):
    logp, _ = function(hidden, weight, ids)
    return torch.autograd.grad(logp.sum(), hidden)[0]


class Largest(TorchDispatchMode):
    """Records the largest tensor that any operation makes, and counts matrix products."""

    def __init__(self):
        super().__init__()
        self.elements = self.products = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        self.products += function in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default)
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return out


def test_no_tensor_holds_the_logits_of_all_rows():
    hidden, weight, ids, banned = problem(400, 900)
    largest = {}
    for function, tile in ((dense, {}), (tiled_logprobs, {"rows": 50, "columns": 100})):
        with Largest() as sizes:
            run(function, hidden, weight, ids, banned=banned, **tile)
        largest[function] = sizes.elements
    assert largest[dense] == 400 * 900  # so that the recorder would see it
    assert largest[tiled_logprobs] == 900 * 8  # the weight, above the tile of 5000


def test_nothing_of_the_size_of_the_logits_is_saved_for_the_backward_pass():
    hidden, weight, ids, banned = problem(400, 900)
    saved = []

    def keep(tensor):
        saved.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        tiled_logprobs(hidden, weight, ids, banned=banned)
    assert saved and max(saved) == 900 * 8


class Quantised(nn.Linear):
    def forward(self, states):
        return 2 * super().forward(states)


def test_a_head_that_is_not_plain_is_refused_with_one_line_in_the_log(caplog):
    tiled_head._warn_dense.cache_clear()
    plain = nn.Linear(3, 5)
    assert linear_weight(plain) == (plain.weight, plain.bias)
    with caplog.at_level(logging.WARNING):
        assert linear_weight(Quantised(3, 5)) is None
        assert linear_weight(Quantised(3, 5)) is None
    assert [record.message for record in caplog.records] == [
        f"expected a plain nn.Linear as lm_head, got {__name__}.Quantised: the logits of all "
        "tokens are held at once"
    ]
