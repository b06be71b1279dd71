"""The loss equals a plain loop, ignores what is masked and adds up over micro-batches."""

import math

import pytest
import torch

from dip_agents.losses import TokenStats, clipped_policy_loss, kl_to_reference, masked_mean


def reference_loss(logp, old, ref, entropy, advantages, mask, settings):
    """Loss and its gradient to every logprob and entropy, by hand, one token at a time."""
    low, high, beta, kind, bonus = settings
    count = sum(map(sum, mask))
    loss, grad, entropy_grad = 0.0, [[0.0] * len(row) for row in logp], torch.zeros(2, 4)
    for b, row in enumerate(mask):
        for t, active in enumerate(row):
            if not active:
                continue
            ratio, a = math.exp(logp[b][t] - old[b][t]), advantages[b]
            plain, cut = ratio * a, min(max(ratio, 1 - low), 1 + high) * a
            d = ref[b][t] - logp[b][t]
            kl = d * d / 2 if kind == "k2" else math.exp(d) - d - 1
            loss += (-min(plain, cut) + beta * kl - bonus * entropy[b][t]) / count
            grad[b][t] += -(ratio * a) / count if plain <= cut else 0.0
            grad[b][t] += beta * (-d if kind == "k2" else 1 - math.exp(d)) / count
            entropy_grad[b][t] = -bonus / count
    return loss, torch.tensor(grad), entropy_grad


def random_case(seed):
    generator = torch.Generator().manual_seed(seed)
    logp, old, ref = (-2 * torch.rand(2, 4, generator=generator).double() for _ in range(3))
    entropy = torch.rand(2, 4, generator=generator).double()
    mask = torch.tensor([[0, 1, 1, 0], [0, 1, 1, 1]]).bool()
    return logp.requires_grad_(), old, ref, entropy.requires_grad_(), mask


@pytest.mark.parametrize("kind", ["k2", "k3"])
@pytest.mark.parametrize("seed", range(5))
def test_loss_and_gradient_equal_a_plain_loop(seed, kind):
    logp, old, ref, entropy, mask = random_case(seed)
    advantages = torch.tensor([1.5, -0.5])
    got = clipped_policy_loss(
        logp, old, advantages, mask, clip_low=0.2, clip_high=0.28, ref_logprobs=ref,
        kl_weight=0.3, kl_kind=kind, entropy=entropy, entropy_weight=0.1,
    )  # fmt: skip
    got.loss.backward()
    lists = [tensor.tolist() for tensor in (logp, old, ref, entropy, advantages, mask)]
    loss, grad, entropy_grad = reference_loss(*lists, (0.2, 0.28, 0.3, kind, 0.1))
    assert got.loss.item() == pytest.approx(loss, abs=1e-12)
    torch.testing.assert_close(logp.grad, grad.double(), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(entropy.grad, entropy_grad.double(), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "low", "high"),
    [
        (1.5, 1.0, -1.28, 0, 1),  # enough of a good token
        (1.5, -1.0, 1.5, 0, 0),  # a bad token made likelier is always pushed back
        (0.5, -1.0, 0.8, 1, 0),  # a bad token is already rare enough
        (0.5, 1.0, -0.5, 0, 0),
        (1.1, 2.0, -2.2, 0, 0),
    ],
)
def test_the_clip_cuts_only_what_goes_too_far(ratio, advantage, loss, low, high):
    logp = torch.tensor([[math.log(ratio)]], requires_grad=True)
    got = clipped_policy_loss(
        logp, torch.zeros(1, 1), torch.tensor([advantage]), torch.ones(1, 1).bool()
    )
    got.loss.backward()
    assert got.loss.item() == pytest.approx(loss, rel=1e-6)
    numbers = got.stats.metrics()
    assert (numbers["clip_fraction_low"], numbers["clip_fraction_high"]) == (low, high)
    assert (logp.grad.item() == 0.0) == bool(low or high)


def test_the_ratio_of_the_same_logprobs_is_exactly_one_and_the_gradient_is_reinforce():
    logp, _, _, _, mask = random_case(0)
    advantages = torch.tensor([1.5, -0.5]).double()
    got = clipped_policy_loss(logp, logp.detach(), advantages, mask)
    got.loss.backward()
    numbers = got.stats.metrics()
    assert numbers["ratio"] == 1.0
    assert numbers["ratio_deviation"] == 0.0
    assert numbers["approx_kl"] == 0.0
    torch.testing.assert_close(logp.grad, -(advantages[:, None] / 5) * mask, atol=0, rtol=1e-15)


def test_micro_batches_with_the_global_denominator_sum_to_the_batch():
    logp, old, ref, entropy, mask = random_case(1)
    advantages = torch.tensor([1.0, -2.0])
    extras = {"kl_weight": 0.1, "entropy_weight": 0.01}
    whole = clipped_policy_loss(
        logp, old, advantages, mask, ref_logprobs=ref, entropy=entropy, **extras
    )
    parts = [
        clipped_policy_loss(
            logp[i : i + 1], old[i : i + 1], advantages[i : i + 1], mask[i : i + 1], mask.sum(),
            ref_logprobs=ref[i : i + 1], entropy=entropy[i : i + 1], **extras,
        )
        for i in range(2)
    ]  # fmt: skip
    torch.testing.assert_close(sum(part.loss for part in parts), whole.loss)
    merged = parts[0].stats.merged(parts[1].stats).metrics()
    assert merged == pytest.approx(whole.stats.metrics())
    # Local means would weigh the short row's tokens more: the test can tell the difference.
    local = [masked_mean(logp[i], mask[i]) for i in range(2)]
    assert sum(local).item() / 2 != pytest.approx(masked_mean(logp, mask).item())


def test_the_masked_mean_never_touches_what_is_masked():
    values = torch.tensor([2.0, math.nan, 4.0, math.inf], requires_grad=True)
    mask = torch.tensor([True, False, True, False])
    mean = masked_mean(values, mask)
    mean.backward()
    assert mean.item() == 3.0
    assert values.grad.tolist() == [0.5, 0.0, 0.5, 0.0]
    assert masked_mean(values, mask, denominator=12).item() == 0.5
    with pytest.raises(ValueError, match=r"mask: expected shape \(4,\), got \(2,\)"):
        masked_mean(values, mask[:2])


@pytest.mark.parametrize("junk", [math.nan, -math.inf, 1e30])
def test_nothing_outside_the_mask_reaches_loss_gradient_or_statistics(junk):
    logp, old, ref, entropy, mask = random_case(2)
    advantages = torch.tensor([1.0, -2.0])

    def run(values):
        tensors = [torch.where(mask, x.detach(), values).requires_grad_() for x in (logp, entropy)]
        others = [torch.where(mask, x, values) for x in (old, ref)]
        got = clipped_policy_loss(
            tensors[0], others[0], advantages, mask, ref_logprobs=others[1],
            kl_weight=0.1, entropy=tensors[1], entropy_weight=0.01,
        )  # fmt: skip
        got.loss.backward()
        return got.loss.detach(), tensors[0].grad, tensors[1].grad, got.stats.metrics()

    clean, dirty = run(torch.tensor(0.0).double()), run(torch.tensor(junk).double())
    assert all(torch.equal(a, b) for a, b in zip(clean[:3], dirty[:3], strict=True))
    assert clean[3] == dirty[3]
    assert not dirty[1][~mask].any()


def test_an_empty_mask_gives_a_zero_that_still_has_a_gradient():
    logp = torch.randn(2, 3, requires_grad=True)
    got = clipped_policy_loss(logp, logp.detach(), torch.ones(2), torch.zeros(2, 3).bool())
    got.loss.backward()
    assert got.loss.item() == 0.0
    assert torch.equal(logp.grad, torch.zeros(2, 3))
    assert got.stats.metrics()["ratio"] == 0.0


@pytest.mark.parametrize("gap", [-1000.0, 1000.0])
@pytest.mark.parametrize("advantage", [-1.0, 1.0])
def test_an_absurd_log_ratio_stays_finite(gap, advantage):
    logp = torch.full((1, 1), gap, requires_grad=True)
    got = clipped_policy_loss(
        logp, torch.zeros(1, 1), torch.tensor([advantage]), torch.ones(1, 1).bool(),
        ref_logprobs=torch.zeros(1, 1), kl_weight=1.0, kl_kind="k3",
    )  # fmt: skip
    got.loss.backward()
    assert math.isfinite(got.loss.item())
    assert torch.isfinite(logp.grad).all()


def test_advantages_may_differ_between_tokens_of_a_rollout():
    logp = torch.zeros(1, 3, requires_grad=True)
    mask = torch.ones(1, 3).bool()
    clipped_policy_loss(logp, logp.detach(), torch.tensor([[3.0, 0.0, -6.0]]), mask).loss.backward()
    assert logp.grad.tolist() == [[-1.0, 0.0, 2.0]]


def test_k3_has_the_right_value_and_k2_the_right_gradient():
    logits = torch.tensor([0.3, -0.2, 0.9], dtype=torch.float64, requires_grad=True)
    reference = torch.log_softmax(torch.tensor([-0.5, 0.4, 0.1], dtype=torch.float64), 0)
    logp = torch.log_softmax(logits, 0)
    kl = (logp.exp() * (logp - reference)).sum()
    (true_gradient,) = torch.autograd.grad(kl, logits, retain_graph=True)
    chance = logp.exp().detach()  # the three symbols are sampled with this probability

    value = (chance * kl_to_reference(logp, reference, "k3")).sum()
    assert value.item() == pytest.approx(kl.item())
    loss = (chance * kl_to_reference(logp, reference, "k2")).sum()
    (gradient,) = torch.autograd.grad(loss, logits, retain_graph=True)
    torch.testing.assert_close(gradient, true_gradient)
    (other,) = torch.autograd.grad(value, logits)
    assert not torch.allclose(other, true_gradient, atol=1e-3)  # why k2 is the default


def test_statistics_are_sums_and_maxima_over_active_tokens_only():
    values = torch.tensor([[1.0, 5.0, 100.0]])
    mask = torch.tensor([[True, True, False]])
    one = TokenStats.of(mask, {"x": values}, {"x_max": values})
    two = TokenStats.of(mask, {"x": values * 0}, {"x_max": values * 2})
    assert one.metrics() == {"x": 3.0, "x_max": 5.0}
    assert one.merged(two).metrics() == {"x": 1.5, "x_max": 10.0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logprobs": torch.zeros(3)}, r"logprobs: expected shape \(B, T\), got \(3,\)"),
        ({"old_logprobs": torch.zeros(2, 2)}, r"old_logprobs: expected shape \(2, 3\)"),
        ({"mask": torch.ones(2, 3)}, "mask: expected dtype bool, got torch.float32"),
        ({"advantages": torch.zeros(3)}, r"advantages: expected shape \(2,\) or \(2, 3\)"),
        ({"kl_weight": 0.1}, "kl_weight 0.1 needs ref_logprobs"),
        ({"entropy_weight": 0.1}, "entropy_weight 0.1 needs entropy"),
        ({"ref_logprobs": torch.zeros(2, 3), "kl_kind": "k1"}, "expected 'k2' or 'k3', got 'k1'"),
    ],
)
def test_bad_input_is_named(change, message):
    arguments = {
        "logprobs": torch.zeros(2, 3),
        "old_logprobs": torch.zeros(2, 3),
        "advantages": torch.zeros(2),
        "mask": torch.ones(2, 3).bool(),
    }
    with pytest.raises(ValueError, match=message):
        clipped_policy_loss(**(arguments | change))
