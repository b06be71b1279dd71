"""Advantages compare siblings; golden values are worked by hand."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dip_agents.advantages import group_advantages

KINDS = ["grpo", "dr_grpo", "batch_std"]


def test_grpo_divides_by_the_unbiased_deviation_of_the_group():
    # mean 2, squared distances 1 + 0 + 1, over G - 1 = 2: deviation 1.
    found = group_advantages(torch.tensor([[1.0, 2.0, 3.0]]), "grpo", eps=0.0)
    assert found.values.tolist() == [[-1.0, 0.0, 1.0]]
    assert found.mixed.tolist() == [True]


def test_dr_grpo_only_subtracts_the_mean_of_the_group():
    found = group_advantages(torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 6.0]]), "dr_grpo")
    assert found.values.tolist() == [[-1.0, 0.0, 1.0], [-2.0, -2.0, 4.0]]


def test_batch_std_divides_by_the_unbiased_deviation_of_all_rewards():
    # rewards 0 1 0 0: mean 1/4, squared distances 3/16 + 9/16 = 3/4, over 3: deviation 1/2.
    found = group_advantages(torch.tensor([[0.0, 1.0], [0.0, 0.0]]), "batch_std", eps=0.0)
    assert found.values.tolist() == [[-1.0, 1.0], [0.0, 0.0]]
    assert found.mixed.tolist() == [True, False]


def test_eps_bounds_the_advantage_of_a_tiny_difference():
    found = group_advantages(torch.tensor([[0.5, 0.50001]]), "grpo", eps=1e-4)
    assert found.values.abs().max() < 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_equal_rewards_give_exactly_zero_and_are_not_mixed(kind):
    rounding = 0.1 + 0.2  # is not 0.3 in floating point
    rewards = torch.tensor([[0.3, rounding, 0.3], [0.0, 1.0, 1.0]], dtype=torch.float64)
    found = group_advantages(rewards, kind)
    assert found.mixed.tolist() == [False, True]
    assert torch.equal(found.values[0], torch.zeros(3))
    assert found.values[1].abs().min() > 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_single_rollout_teaches_nothing(kind):
    found = group_advantages(torch.tensor([[0.7]]), kind)
    assert found.values.tolist() == [[0.0]]
    assert found.mixed.tolist() == [False]


rewards_lists = st.integers(2, 6).flatmap(
    lambda g: st.lists(
        st.lists(st.floats(0, 1, width=32), min_size=g, max_size=g), min_size=1, max_size=5
    )
)


@settings(deadline=None)  # the first call loads kernels
@given(rewards=rewards_lists, kind=st.sampled_from(KINDS))
def test_advantages_of_a_group_sum_to_zero_and_keep_the_order_of_rewards(rewards, kind):
    rewards = torch.tensor(rewards)
    found = group_advantages(rewards, kind)
    torch.testing.assert_close(found.values.sum(1), torch.zeros(len(rewards)), atol=1e-4, rtol=0)
    for row in torch.nonzero(found.mixed).flatten():
        assert found.values[row, rewards[row].argmax()] == found.values[row].max() > 0


@settings(deadline=None)  # the first call loads kernels
@given(rewards=rewards_lists, kind=st.sampled_from(KINDS), shift=st.integers(-4, 4))
def test_a_constant_added_to_all_rewards_changes_nothing(rewards, kind, shift):
    rewards = torch.tensor(rewards, dtype=torch.float64)
    before, after = group_advantages(rewards, kind), group_advantages(rewards + shift, kind)
    if torch.equal(before.mixed, after.mixed):  # a spread right at the tolerance may tip over
        torch.testing.assert_close(before.values, after.values, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("rewards", "kind", "message"),
    [
        (torch.zeros(3), "grpo", r"expected shape \(P, G\), got \(3,\)"),
        (torch.zeros(0, 2), "grpo", r"expected shape \(P, G\), got \(0, 2\)"),
        (torch.tensor([[0.0, float("nan")]]), "grpo", "expected finite numbers"),
        (torch.zeros(1, 2), "ppo", "expected one of .*'dr_grpo'.*got 'ppo'"),
    ],
)
def test_bad_input_is_named(rewards, kind, message):
    with pytest.raises(ValueError, match=message):
        group_advantages(rewards, kind)
