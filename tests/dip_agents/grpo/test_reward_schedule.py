"""The reward is a function of the step alone; golden values are worked by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dip_agents.grpo.reward_schedule import Ramp, check_schedule, parse_schedule, rules_at
from dip_env.config import EpisodeConfig, RewardConfig
from dip_env.errors import ConfigError

RULES = EpisodeConfig(max_turns=3)


def test_numbers_follow_straight_lines_and_stay_outside_the_points():
    schedule = ("look_weight:11=0.1,21=0.0,31=0.4", "iou:1=0.5,301=0.75")

    def at(step):
        reward = rules_at(RULES, schedule, step).reward
        return pytest.approx(reward.look_weight), reward.iou

    assert at(1) == (0.1, "0.5")
    assert at(11) == (0.1, "0.508333")
    assert at(16) == (0.05, "0.5125")
    assert at(21) == (0.0, "0.516667")
    assert at(26) == (0.2, "0.520833")
    assert at(151) == (0.4, "0.625")
    assert at(10_000) == (0.4, "0.75")


def test_what_is_not_scheduled_stays():
    assert rules_at(RULES, (), 7) is RULES
    got = rules_at(RULES, ("beta:1=2",), 7)
    assert got == EpisodeConfig(max_turns=3, reward=RewardConfig(beta=2.0))


points = st.dictionaries(st.integers(1, 500), st.floats(-10, 10), min_size=1).map(
    lambda d: tuple(sorted(d.items()))
)


@given(points, st.integers(0, 600))
def test_a_ramp_is_the_interpolation_of_numpy(points, step):
    steps, values = zip(*points, strict=True)
    assert Ramp("beta", points).at(step) == pytest.approx(np.interp(step, steps, values), abs=1e-9)


@given(points)
def test_a_ramp_passes_its_points_exactly_and_prints_back(points):
    text = "beta:" + ",".join(f"{step}={value!r}" for step, value in points)
    (ramp,) = parse_schedule([text])
    assert ramp.points == points
    assert [ramp.at(step) for step, _ in points] == [value for _, value in points]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("look:1=0.1", r"expected <name>:<step>=<value>.*'look_weight'.*got 'look:1=0.1'"),
        ("accuracy:1=1", "with a name of"),
        ("beta=1", "with a name of"),
        ("beta:", "expected <step>=<value>, got '' in 'beta:'"),
        ("beta:1=2,x=3", "expected <step>=<value>, got 'x=3'"),
        ("beta:5=1,5=2", "expected ascending steps from 1"),
        ("beta:5=1,2=2", "expected ascending steps from 1"),
        ("beta:0=1", "expected ascending steps from 1"),
        ("beta:1=nan", "expected finite values"),
        ("iou:1=0.5:0.95", "expected <step>=<value>"),
    ],
)
def test_a_bad_entry_is_named(entry, message):
    with pytest.raises(ConfigError, match=f"reward_schedule: .*{message}"):
        parse_schedule([entry])


def test_two_entries_for_one_number_are_refused():
    with pytest.raises(ConfigError, match="expected one entry for 'beta', got several"):
        parse_schedule(["beta:1=1", "beta:1=2"])


def test_a_value_that_no_reward_can_have_is_found_before_the_run():
    with pytest.raises(ConfigError, match=r"step 300: iou: expected a threshold in \(0, 1\]"):
        check_schedule(RULES, ("look_weight:1=0.1", "iou:1=0.5,300=1.5"))
    zero = tuple(f"{name}_weight:1=1,9=0" for name in ("format", "look", "accuracy"))
    with pytest.raises(ConfigError, match="step 9: reward weights: expected at least one above 0"):
        check_schedule(RULES, zero)
    check_schedule(RULES, zero[:2])
