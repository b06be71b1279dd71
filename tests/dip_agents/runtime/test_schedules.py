import pytest

from dip_agents.runtime.schedules import warmup_constant, warmup_cosine, warmup_stable_decay


def test_the_rate_warms_up_and_stays():
    rates = [warmup_constant(step, 1.0, 4) for step in range(1, 8)]
    assert rates == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0]
    assert warmup_constant(1, 0.5, 0) == 0.5


def test_the_last_step_of_a_cosine_still_learns():
    rates = [warmup_cosine(step, 1.0, 2, 6) for step in range(1, 7)]
    # A quarter of the way down after each of the four steps: 1/2 + cos(pi k / 4) / 2.
    assert rates == pytest.approx([0.5, 1.0, 1.0, 0.853553, 0.5, 0.146447], abs=1e-6)


def test_the_rate_rises_stays_and_falls():
    rates = [warmup_stable_decay(step, 2.0, 10, 19, 100) for step in range(1, 101)]
    assert rates[:10] == pytest.approx([2 * k / 10 for k in range(1, 11)])
    assert rates[9:81] == [2.0] * 72
    assert rates[81:] == pytest.approx([2 * k / 20 for k in range(19, 0, -1)])
