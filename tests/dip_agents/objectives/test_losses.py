"""The loss equals a plain loop for every variant, and adds up however the batch was cut.

``by_hand`` is numpy and a loop over tokens; gradients are compared with differences of it.
"""

import itertools
import math
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dip_agents.objectives.aggregation import Counts, rollout_weights
from dip_agents.objectives.choices import CLIPS, Clips, LossKind
from dip_agents.objectives.losses import EntropyBonus, KlPenalty, policy_loss
from dip_agents.objectives.surrogates import LOSSES, Surrogate, SurrogateInputs, register_loss
from dip_env.errors import ConfigError

KINDS = ["clipped", "gspo", "cispo", "dppo_tv"]
LOW, HIGH, DUAL, BETA, BONUS = 0.2, 0.28, 1.6, 0.3, 0.1


def by_hand(kind, logp, old, mu, ref, entropy, advantages, mask, weights, importance, kl, frozen):
    """Loss of a batch; ``frozen`` are the logprobs that a stopped gradient sees."""
    total = 0.0
    for b, active in enumerate(mask):
        inside = [t for t, one in enumerate(active) if one]
        s = np.exp(np.mean([frozen[b, t] - old[b, t] for t in inside]))
        for t in inside:
            a, r = advantages[b, t], np.exp(logp[b, t] - old[b, t])
            if kind == "clipped":
                loss = -min(r * a, np.clip(r, 1 - LOW, 1 + HIGH) * a)
                if a < 0:
                    loss = min(loss, -DUAL * a)
            elif kind == "gspo":
                s_t = s * np.exp(logp[b, t] - frozen[b, t])
                loss = -min(s_t * a, np.clip(s_t, 1 - LOW, 1 + HIGH) * a)
            elif kind == "cispo":
                loss = -min(np.exp(frozen[b, t] - old[b, t]), 1 + HIGH) * a * logp[b, t]
            else:
                moved = np.exp(frozen[b, t]) - np.exp(mu[b, t])
                gone = (a > 0 and moved > HIGH) or (a < 0 and moved < -LOW)
                loss = 0.0 if gone else -r * a
            d = ref[b, t] - logp[b, t]
            distance = d * d / 2 if kl == "k2" else np.exp(d) - d - 1
            total += weights[b] * (importance[b, t] * loss + BETA * distance)
            total -= weights[b] * BONUS * entropy[b, t]
    return total


def random_case(seed, rows=3, width=5):
    draw = np.random.default_rng(seed)
    logp, old, mu, ref = -2 * draw.random((4, rows, width))
    entropy, importance = draw.random((2, rows, width))
    mask = draw.random((rows, width)) < 0.7
    mask[:, 0], mask[:, -1] = False, True
    advantages = draw.normal(size=(rows, width))
    weights = 0.1 + draw.random(rows)
    return logp, old, mu, ref, entropy, advantages, mask, weights, importance


def call(kind, case, kl="k2"):
    """Call the loss with everything on; returns it and the tensors that got gradients."""
    logp, old, mu, ref, entropy, advantages, mask, weights, importance = map(torch.tensor, case)
    logp, entropy = logp.requires_grad_(), entropy.requires_grad_()
    got = policy_loss(
        SurrogateInputs(logp, old, advantages, mask, mu),
        weights,
        kind=kind,
        clips=Clips(LOW, HIGH, DUAL if kind == "clipped" else None),
        importance=importance,
        kl=KlPenalty(ref, BETA, kl),
        entropy=EntropyBonus(entropy, BONUS),
    )
    got.loss.backward()
    return got, logp, entropy


@pytest.mark.grpo_property(13)
@pytest.mark.parametrize("kl", ["k2", "k3"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(4))
def test_loss_and_gradient_equal_a_plain_loop(seed, kind, kl):
    case = random_case(seed)
    got, logp, entropy = call(kind, case, kl)
    start, rest = case[0], case[1:]
    assert got.loss.item() == pytest.approx(by_hand(kind, start, *rest, kl, start), abs=1e-9)
    wanted = np.zeros_like(start)
    for index in np.ndindex(*start.shape):
        nudge = np.zeros_like(start)
        nudge[index] = 1e-6
        up, down = (by_hand(kind, start + n, *rest, kl, start) for n in (nudge, -nudge))
        wanted[index] = (up - down) / 2e-6
    np.testing.assert_allclose(logp.grad.numpy(), wanted, atol=1e-7)
    mask, weights = case[6], case[7]
    np.testing.assert_allclose(entropy.grad.numpy(), -BONUS * weights[:, None] * mask)


@pytest.mark.grpo_property(13)
def test_the_cases_reach_every_branch():
    numbers = {kind: [call(kind, random_case(s))[0].stats.metrics() for s in range(4)]
               for kind in KINDS}  # fmt: skip
    for kind in KINDS:
        assert any(0 < one["clip_fraction_high"] < 1 for one in numbers[kind]), kind
        if kind != "cispo":  # it has no lower bound
            assert any(0 < one["clip_fraction_low"] < 1 for one in numbers[kind]), kind


@pytest.mark.grpo_property(1)
@pytest.mark.parametrize("kind", KINDS)
def test_on_the_first_update_the_ratio_is_exactly_one_and_the_gradient_that_of_reinforce(kind):
    case = random_case(0)
    logp, advantages, mask, weights = (torch.tensor(case[i]) for i in (0, 5, 6, 7))
    logp = logp.float().requires_grad_()
    got = policy_loss(SurrogateInputs(logp, logp.detach(), advantages, mask), weights, kind=kind)
    got.loss.backward()
    numbers = got.stats.metrics()
    assert numbers["ratio"] == 1.0
    assert numbers["ratio_deviation"] == 0.0
    assert numbers["approx_kl"] == 0.0
    assert numbers["clip_fraction_low"] == numbers["clip_fraction_high"] == 0.0
    expected = torch.where(mask, -weights[:, None] * advantages, 0.0).float()
    torch.testing.assert_close(logp.grad, expected, atol=0, rtol=1e-6)


@pytest.mark.grpo_property(13)
@pytest.mark.parametrize(
    ("ratio", "advantage", "dual", "loss", "low", "high"),
    [
        (1.5, 1.0, None, -1.28, 0, 1),  # enough of a good token
        (1.5, -1.0, None, 1.5, 0, 0),  # a bad token made likelier is always pushed back
        (0.5, -1.0, None, 0.8, 1, 0),  # a bad token is already rare enough
        (0.5, 1.0, None, -0.5, 0, 0),
        (1.1, 2.0, None, -2.2, 0, 0),
        (5.0, -2.0, 3.0, 6.0, 0, 1),  # it pushes no harder than at three times
        (2.9, -2.0, 3.0, 5.8, 0, 0),
        (5.0, 1.0, 3.0, -1.28, 0, 1),
    ],
)
def test_the_clip_cuts_only_what_goes_too_far(ratio, advantage, dual, loss, low, high):
    logp = torch.tensor([[math.log(ratio)]], requires_grad=True)
    inputs = SurrogateInputs(
        logp, torch.zeros(1, 1), torch.tensor([advantage]), torch.ones(1, 1).bool()
    )
    got = policy_loss(inputs, clips=Clips(0.2, 0.28, dual))
    got.loss.backward()
    assert got.loss.item() == pytest.approx(loss, rel=1e-6)
    numbers = got.stats.metrics()
    assert (numbers["clip_fraction_low"], numbers["clip_fraction_high"]) == (low, high)
    assert (logp.grad.item() == 0.0) == bool(low or high)


def test_cispo_never_drops_a_token_and_bounds_only_above():
    logp = torch.tensor([[math.log(0.9), math.log(0.01)]], requires_grad=True)
    old = torch.tensor([[math.log(0.3), math.log(0.5)]])
    mask = torch.ones(1, 2).bool()
    inputs = SurrogateInputs(logp, old, torch.tensor([1.0]), mask)
    policy_loss(inputs, kind="cispo", clips=Clips(0.2, 0.5)).loss.backward()
    torch.testing.assert_close(logp.grad, torch.tensor([[-1.5 / 2, -0.02 / 2]]))


def test_dppo_lets_a_rare_token_double_and_stops_a_common_one():
    logp = torch.tensor([[math.log(0.02), math.log(0.8)]], requires_grad=True)
    old = torch.tensor([[math.log(0.01), math.log(0.4)]])
    mask = torch.ones(1, 2).bool()
    inputs = SurrogateInputs(logp, old, torch.tensor([1.0]), mask)
    policy_loss(inputs, kind="dppo_tv", clips=Clips(0.2, 0.28)).loss.backward()
    torch.testing.assert_close(logp.grad, torch.tensor([[-2.0 / 2, 0.0]]))


def test_dppo_compares_with_the_sampler_and_without_its_logprobs_with_the_old_policy():
    logp, old = torch.full((1, 2), math.log(0.8)), torch.full((1, 2), math.log(0.7))
    sampler = torch.tensor([[math.log(0.1), math.nan]])
    inputs = SurrogateInputs(logp, old, torch.tensor([1.0]), torch.ones(1, 2).bool(), sampler)
    got = policy_loss(inputs, kind="dppo_tv", clips=Clips(0.2, 0.28))
    assert got.stats.metrics()["clip_fraction_high"] == 0.5


def test_gspo_moves_all_tokens_of_a_rollout_by_one_ratio():
    # Mean log-ratio 0.1, though one token alone would be far outside the clip.
    logp = torch.tensor([[0.9, -0.7]], requires_grad=True)
    mask = torch.ones(1, 2).bool()
    inputs = SurrogateInputs(logp, torch.zeros(1, 2), torch.tensor([1.0]), mask)
    got = policy_loss(inputs, kind="gspo", clips=Clips(0.2, 0.28))
    got.loss.backward()
    assert got.loss.item() == pytest.approx(-math.exp(0.1))
    torch.testing.assert_close(logp.grad, torch.full((1, 2), -math.exp(0.1) / 2))


@pytest.mark.grpo_property(2)
@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 10_000),
    kind=st.sampled_from(KINDS),
    aggregation=st.sampled_from(["token_mean", "sequence_mean", "constant_length"]),
    cuts=st.sets(st.integers(1, 5)),
)
def test_however_a_batch_is_cut_loss_gradient_and_statistics_add_up(seed, kind, aggregation, cuts):
    case = random_case(seed, rows=6)
    lengths = case[6].sum(1).tolist()
    weights = rollout_weights(lengths, Counts.of(lengths), aggregation, 7).double().numpy()
    case = (*case[:7], weights, case[8])
    whole, logp, entropy = call(kind, case)
    edges = [0, *sorted(cuts), 6]
    loss, stats, grads = 0.0, None, []
    for start, stop in itertools.pairwise(edges):
        part = tuple(values[start:stop] for values in case)
        # The weights of a part are made from the counts of the whole.
        own = rollout_weights(lengths[start:stop], Counts.of(lengths), aggregation, 7)
        np.testing.assert_array_equal(own.double().numpy(), part[7])
        got, part_logp, part_entropy = call(kind, part)
        loss += got.loss.item()
        grads.append(torch.cat([part_logp.grad, part_entropy.grad], 1))
        stats = got.stats if stats is None else stats.merged(got.stats)
    assert loss == pytest.approx(whole.loss.item(), abs=1e-12)
    # Bit for bit: who else is in a micro-batch is nothing to a rollout.
    assert torch.equal(torch.cat(grads), torch.cat([logp.grad, entropy.grad], 1))
    assert stats.metrics() == pytest.approx(whole.stats.metrics(), abs=1e-12)


@pytest.mark.grpo_property(4)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("junk", [math.nan, -math.inf, 1e30])
def test_nothing_outside_the_mask_reaches_loss_gradient_or_statistics(junk, kind):
    case = random_case(2)
    mask = case[6]
    runs = []
    for filler in (0.0, junk):
        dirty = [np.where(mask, values, filler) for values in case[:5]]
        got, logp, entropy = call(kind, (*dirty, *case[5:]))
        runs.append((got.loss.detach(), logp.grad, entropy.grad, got.stats.metrics()))
    clean, dirty = runs
    assert all(torch.equal(a, b) for a, b in zip(clean[:3], dirty[:3], strict=True))
    assert clean[3] == dirty[3]
    assert not dirty[1][~torch.tensor(mask)].any()


@pytest.mark.grpo_property(14)
@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_mask_gives_a_zero_that_still_has_a_gradient(kind):
    logp = torch.randn(2, 3, requires_grad=True)
    inputs = SurrogateInputs(logp, logp.detach(), torch.ones(2), torch.zeros(2, 3).bool())
    got = policy_loss(inputs, kind=kind)
    got.loss.backward()
    assert got.loss.item() == 0.0
    assert torch.equal(logp.grad, torch.zeros(2, 3))
    assert got.stats.metrics() == {}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("gap", [-1000.0, 1000.0])
@pytest.mark.parametrize("advantage", [-1.0, 1.0])
def test_an_absurd_log_ratio_stays_finite(gap, advantage, kind):
    logp = torch.full((1, 1), gap, requires_grad=True)
    inputs = SurrogateInputs(
        logp, torch.zeros(1, 1), torch.tensor([advantage]), torch.ones(1, 1).bool()
    )
    got = policy_loss(inputs, kind=kind, kl=KlPenalty(torch.zeros(1, 1), 1.0, "k3"))
    got.loss.backward()
    assert math.isfinite(got.loss.item())
    assert torch.isfinite(logp.grad).all()


def test_advantages_may_differ_between_tokens_of_a_rollout():
    logp = torch.zeros(1, 3, requires_grad=True)
    mask = torch.ones(1, 3).bool()
    inputs = SurrogateInputs(logp, logp.detach(), torch.tensor([[3.0, 0.0, -6.0]]), mask)
    policy_loss(inputs).loss.backward()
    assert logp.grad.tolist() == [[-1.0, 0.0, 2.0]]


def test_importance_weighs_the_policy_gradient_and_neither_kl_nor_entropy():
    case = random_case(1)
    none = (*case[:8], np.zeros_like(case[8]))
    logp, ref, mask, weights = (torch.tensor(case[i]) for i in (0, 3, 6, 7))
    got = call("clipped", none)[1].grad
    torch.testing.assert_close(got, torch.where(mask, weights[:, None] * BETA * (logp - ref), 0.0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logprobs": torch.zeros(3)}, r"logprobs: expected shape \(B, T\), got \(3,\)"),
        ({"old_logprobs": torch.zeros(2, 2)}, r"old_logprobs: expected shape \(2, 3\)"),
        ({"mask": torch.ones(2, 3)}, "mask: expected dtype bool, got torch.float32"),
        ({"advantages": torch.zeros(3)}, r"advantages: expected shape \(2,\) or \(2, 3\)"),
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
        policy_loss(SurrogateInputs(**(arguments | change)))


def test_an_unknown_loss_or_estimator_is_named():
    inputs = SurrogateInputs(
        torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(2), torch.ones(2, 3).bool()
    )
    with pytest.raises(ConfigError, match="kind: expected 'k2' or 'k3', got 'k1'"):
        policy_loss(inputs, kl=KlPenalty(torch.zeros(2, 3), kind="k1"))
    with pytest.raises(ConfigError, match=r"kind: expected one of .*'cispo'.*got 'ppo'"):
        policy_loss(inputs, kind="ppo")


def test_every_choice_is_registered_with_its_clips():
    assert set(get_args(LossKind)) == set(LOSSES) == set(CLIPS)


def test_a_registered_loss_is_found_by_its_name_and_brings_its_clips(monkeypatch):
    for table in (LOSSES, CLIPS):  # undone after the test
        monkeypatch.setitem(table, "bounded", None)

    @register_loss("bounded", clips=Clips(0.0, 0.5))
    def bounded(inputs, clips):
        never = torch.zeros_like(inputs.mask)
        return Surrogate(-clips.high * inputs.advantages * inputs.logprobs, never, never)

    logp = torch.zeros(1, 2, requires_grad=True)
    inputs = SurrogateInputs(logp, logp.detach(), torch.tensor([2.0]), torch.ones(1, 2).bool())
    policy_loss(inputs, kind="bounded").loss.backward()
    assert logp.grad.tolist() == [[-0.5, -0.5]]
