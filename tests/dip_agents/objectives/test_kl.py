"""Estimators of the KL on a policy of three symbols, where every expectation is a sum."""

import pytest
import torch

from dip_agents.objectives.kl import kl_to_reference


@pytest.fixture
def three():
    """Logits of a policy and logprobs of a reference that is not close to it."""
    logits = torch.tensor([0.3, -0.2, 0.9], dtype=torch.float64, requires_grad=True)
    reference = torch.log_softmax(torch.tensor([-0.5, 0.4, 0.1], dtype=torch.float64), 0)
    return logits, reference


def expectation(estimate, logits, reference):
    """Return the expected value over the symbols, with the gradient of an on-policy sample."""
    logp = torch.log_softmax(logits, 0)
    return (logp.exp().detach() * estimate(logp, reference)).sum()


def k1(logp, reference):
    return logp - reference


def k2(logp, reference):
    return kl_to_reference(logp, reference, "k2")


def k3(logp, reference):
    return kl_to_reference(logp, reference, "k3")


def true_kl(logits, reference):
    logp = torch.log_softmax(logits, 0)
    return (logp.exp() * (logp - reference)).sum()


@pytest.mark.grpo_property(13)
def test_k1_and_k3_have_the_right_value_and_k2_is_off(three):
    wanted = true_kl(*three).item()
    assert expectation(k1, *three).item() == pytest.approx(wanted)
    assert expectation(k3, *three).item() == pytest.approx(wanted)
    assert expectation(k2, *three).item() != pytest.approx(wanted, rel=0.02)


@pytest.mark.grpo_property(13)
def test_only_k2_has_the_right_gradient_and_k1_has_none(three):
    logits, reference = three

    def gradient(value):
        return torch.autograd.grad(value, logits)[0]

    wanted = gradient(true_kl(logits, reference))
    torch.testing.assert_close(gradient(expectation(k2, logits, reference)), wanted)
    torch.testing.assert_close(
        gradient(expectation(k1, logits, reference)), torch.zeros_like(wanted)
    )
    assert not torch.allclose(gradient(expectation(k3, logits, reference)), wanted, atol=1e-3)


def test_estimates_are_never_negative_and_zero_at_the_reference():
    logp = torch.linspace(-50, 0, 101)
    for kind in ("k2", "k3"):
        assert (kl_to_reference(logp, torch.full_like(logp, -3.0), kind) >= 0).all()
        assert not kl_to_reference(logp, logp, kind).any()
