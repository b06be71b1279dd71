"""The weight of the entropy bonus follows the entropy in small steps."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dip_agents.objectives.choices import LARGEST_ENTROPY_WEIGHT
from dip_agents.objectives.entropy import EntropyTarget


def test_the_weight_rises_below_the_target_and_falls_and_rests_above_it():
    control = EntropyTarget(0.2, delta=0.001)
    seen = []
    for entropy in (0.3, 0.1, 0.1, 0.15, 0.25, 0.1):
        control.observe(entropy)
        seen.append((control.coefficient, control.weight))
    assert seen == [
        (0.0, 0.0),
        (pytest.approx(0.001), pytest.approx(0.001)),
        (pytest.approx(0.002), pytest.approx(0.002)),
        (pytest.approx(0.003), pytest.approx(0.003)),
        (pytest.approx(0.002), 0.0),  # above the target: kept, not applied
        (pytest.approx(0.003), pytest.approx(0.003)),
    ]


def test_before_the_first_entropy_is_known_nothing_is_applied():
    assert EntropyTarget(0.2, coefficient=0.004).weight == 0.0


def test_without_a_target_the_weight_is_constant():
    control = EntropyTarget(None, coefficient=0.3)
    control.observe(0.0)
    assert control.weight == 0.3


@given(st.lists(st.floats(0, 1), max_size=60))
def test_the_weight_stays_within_its_bounds_and_its_state_goes_on(entropies):
    control, twin = EntropyTarget(0.2, delta=0.0009), EntropyTarget(0.2, delta=0.0009)
    for entropy in entropies:
        control.observe(entropy)
        assert 0 <= control.weight <= LARGEST_ENTROPY_WEIGHT
        twin.restore(control.state())
        assert (twin.weight, twin.state()) == (control.weight, control.state())
