"""The gap to the sampler is measured on what is known, and corrected up to a cap."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dip_agents.objectives.importance import sampler_gap

TWO = math.log(2.0)


def test_weights_are_ratios_up_to_the_cap_and_the_numbers_are_those_before_it():
    old = torch.tensor([[0.0, -1.0, -1.0, -1.0]])
    mu = torch.tensor([[9.0, -1.0 - 2 * TWO, -1.0 + TWO, -1.0]])  # ratios -, 4, 1/2, 1
    got = sampler_gap(old, mu, torch.tensor([[False, True, True, True]]), cap=2.0)
    torch.testing.assert_close(got.weights, torch.tensor([[1.0, 2.0, 0.5, 1.0]]))
    assert got.stats.metrics() == pytest.approx(
        {
            "behaviour_gap": TWO,
            "behaviour_gap_max": 2 * TWO,
            "importance_ratio": 5.5 / 3,
            "importance_ratio_min": 0.5,
            "importance_ratio_max": 4.0,
            "importance_truncated": 1 / 3,
        }
    )
    assert got.missing == 0


def test_tokens_without_a_logprob_have_weight_one_and_are_only_counted():
    old = torch.tensor([[-1.0, -1.0, -1.0]])
    mu = torch.tensor([[math.nan, -1.5, math.nan]])
    got = sampler_gap(old, mu, torch.tensor([[True, True, False]]), cap=1.1)
    torch.testing.assert_close(got.weights, torch.tensor([[1.0, 1.1, 1.0]]))
    assert got.stats.metrics()["behaviour_gap"] == pytest.approx(0.5)
    assert got.missing == 1
    nothing = sampler_gap(old, torch.full((1, 3), math.nan), torch.ones(1, 3).bool())
    assert nothing.stats.metrics() == {}
    assert nothing.missing == 3


def test_without_a_cap_there_are_no_weights_but_the_numbers_are_there():
    got = sampler_gap(torch.zeros(1, 2), torch.zeros(1, 2), torch.ones(1, 2).bool())
    assert got.weights is None
    assert got.stats.metrics()["importance_ratio"] == 1.0
    assert "importance_truncated" not in got.stats.metrics()


@given(st.floats(-100, 0), st.floats(-100, 0), st.floats(0.5, 5))
def test_weights_are_positive_and_at_most_the_cap(old, mu, cap):
    weights = sampler_gap(
        torch.tensor([[old]]), torch.tensor([[mu]]), torch.ones(1, 1).bool(), cap
    ).weights
    assert 0 < weights.item() <= torch.tensor(cap).item()


def test_no_gradient_flows_through_the_weights():
    old = torch.zeros(1, 1, requires_grad=True)
    assert not sampler_gap(
        old, old.detach() - 1, torch.ones(1, 1).bool(), 2.0
    ).weights.requires_grad
