import numpy as np
import pytest
import torch

from dip_agents.engines.sampling import draw

LOGITS = torch.log(torch.tensor([[0.5, 0.1, 0.3, 0.2]]))
BAN = torch.tensor([0.0, -torch.inf, 0.0, 0.0])


def test_draws_follow_the_distribution_over_allowed_tokens():
    draws = torch.tensor([0.0, 0.49, 0.51, 1 - 2**-53], dtype=torch.float64)
    chosen, values = draw(LOGITS.repeat(4, 1), BAN, 1.0, draws)
    assert chosen == [0, 0, 2, 3]
    assert values == pytest.approx(np.log([0.5, 0.5, 0.3, 0.2]), abs=1e-6)


def test_greedy_takes_the_likeliest_allowed_token():
    logits = torch.tensor([[0.0, 9.0, 1.0, 0.5]])
    chosen, values = draw(logits, BAN, 0.0, None)
    assert chosen == [2]
    assert values == pytest.approx([1.0 - np.log(1 + np.e + np.e**0.5)], abs=1e-6)


def test_temperature_divides_the_logits():
    chosen, values = draw(LOGITS, BAN, 2.0, torch.tensor([0.0], dtype=torch.float64))
    roots = np.sqrt([0.5, 0.3, 0.2])
    assert chosen == [0]
    assert values == pytest.approx([np.log(roots[0] / roots.sum())], abs=1e-6)
