"""Turns are compared with siblings that had seen the same; golden values by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dip_agents.objectives.turns import (
    next_anchor,
    returns_to_go,
    spread_over_tokens,
    turn_advantages,
    turn_segments,
)


def test_returns_to_go_worked_by_hand():
    assert returns_to_go([1.0, 0.0, 4.0], 0.5) == [2.0, 2.0, 4.0]
    assert returns_to_go([1.0, 0.0, 4.0], 1.0) == [5.0, 4.0, 4.0]
    assert returns_to_go([], 0.5) == []


def test_turns_at_one_anchor_are_compared_and_lonely_ones_get_nothing():
    anchors = [["start", "a"], ["start", "a"], ["start", "b"], ["start"]]
    rewards = [[0.0, 1.0], [0.0, 3.0], [0.0, 5.0], [3.0]]
    found = turn_advantages(anchors, rewards, discount=1.0, eps=0.0)
    # Returns 1 3 5 3 at the start: mean 3, deviation sqrt(8 / 3). At a: 1 and 3, deviation sqrt 2.
    first = 2 / (8 / 3) ** 0.5
    assert [row[0] for row in found] == pytest.approx([-first, 0.0, first, 0.0])
    assert [found[0][1], found[1][1]] == pytest.approx([-(0.5**0.5), 0.5**0.5])
    assert found[2][1] == 0.0


def test_a_discount_counts_against_the_rollout_that_took_another_turn_to_the_same_reward():
    anchors = [["start", "a"], ["start"]]
    rewards = [[0.0, 1.0], [1.0]]
    assert turn_advantages(anchors, rewards, discount=1.0) == [[0.0, 0.0], [0.0]]
    (looked, _), (answered,) = turn_advantages(anchors, rewards, discount=0.95)
    assert looked < 0 < answered


def by_hand(anchors, rewards, discount, eps):
    """The equation in numpy, one turn at a time."""
    gains = [
        [sum(r * discount**j for j, r in enumerate(row[k:])) for k in range(len(row))]
        for row in rewards
    ]
    found = []
    for names, own in zip(anchors, gains, strict=True):
        found.append([])
        for name, gain in zip(names, own, strict=True):
            there = [
                g
                for others, values in zip(anchors, gains, strict=True)
                for other, g in zip(others, values, strict=True)
                if other == name
            ]
            scale = np.std(there, ddof=1) + eps if len(there) > 1 else 1.0
            found[-1].append((gain - np.mean(there)) / scale)
    return found


played = st.lists(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 4)), max_size=4), min_size=1
).map(lambda rows: ([[a for a, _ in r] for r in rows], [[float(x) for _, x in r] for r in rows]))


@given(played, st.sampled_from([1.0, 0.5]))
def test_turn_advantages_equal_the_equation_and_sum_to_zero_at_every_anchor(played, discount):
    anchors, rewards = played
    found = turn_advantages(anchors, rewards, discount)
    for row, wanted in zip(found, by_hand(anchors, rewards, discount, 1e-4), strict=True):
        np.testing.assert_allclose(row, wanted, atol=1e-9)
    for name in "abc":
        values = [
            value
            for names, row in zip(anchors, found, strict=True)
            for other, value in zip(names, row, strict=True)
            if other == name
        ]
        assert sum(values) == pytest.approx(0.0, abs=1e-9)


def test_an_anchor_is_all_that_has_been_shown_in_order():
    first = next_anchor("", [1, 2], [b"overview"])
    assert first == next_anchor("", [1, 2], [b"overview"])
    others = [
        next_anchor("", [1, 3], [b"overview"]),
        next_anchor("", [1, 2], [b"another"]),
        next_anchor("", [1, 2], [b"over", b"view"]),
        next_anchor(first, [1, 2], [b"overview"]),
        next_anchor(next_anchor(first, [5], []), [6], []),
        next_anchor(next_anchor(first, [6], []), [5], []),
    ]
    assert len({first, *others}) == 7


def test_turns_are_the_runs_of_the_loss_mask():
    assert turn_segments([0, 0, 1, 1, 0, 1]) == [(2, 4), (5, 6)]
    assert turn_segments([1, 0]) == [(0, 1)]
    assert turn_segments([0, 0]) == []
    assert spread_over_tokens([0, 0, 1, 1, 0, 1], [2.0, -3.0]) == [0, 0, 2, 2, 0, -3]


def test_turns_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="turns: expected 2 as in the loss mask, got 1"):
        spread_over_tokens([1, 0, 1], [2.0])
    with pytest.raises(ValueError, match="member 1: expected a reward for each of 1 turns, got 2"):
        turn_advantages([["a"], ["a"]], [[1.0], [1.0, 2.0]])
