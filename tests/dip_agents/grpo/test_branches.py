"""Which members of a group share a look, see blank crops and are each other's siblings."""

import numpy as np
import pytest

from dip_agents.grpo.branches import Branch, GroupPlan
from dip_env.errors import ConfigError


def test_neighbours_share_a_look_and_the_last_of_them_see_blank_crops():
    plan = GroupPlan(8, 4, 1)
    assert plan.looks == 2
    assert [list(plan.members(look)) for look in range(2)] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert [member for member in range(8) if plan.is_blank(member)] == [3, 7]


def test_without_branches_all_others_are_siblings():
    plan = GroupPlan(4)
    assert plan.looks == 4
    assert not plan.branched
    assert plan.siblings() is None
    assert [list(plan.members(look)) for look in range(4)] == [[0], [1], [2], [3]]


def test_siblings_are_the_answers_with_crops_to_other_looks():
    table = GroupPlan(6, 2).siblings()
    assert [np.flatnonzero(row).tolist() for row in table[::2]] == [
        [2, 3, 4, 5],
        [0, 1, 4, 5],
        [0, 1, 2, 3],
    ]
    np.testing.assert_array_equal(table[::2], table[1::2])
    blank = GroupPlan(6, 2, 1).siblings()
    assert [np.flatnonzero(row).tolist() for row in blank[::2]] == [[2, 4], [0, 4], [0, 2]]


@pytest.mark.parametrize(
    ("answers", "blank", "repeats"), [(1, 0, 1), (4, 0, 4), (4, 2, 2), (4, 1, 1), (6, 2, 2)]
)
def test_neighbours_that_go_on_alike_are_never_cut_by_the_start_of_the_blank_ones(
    answers, blank, repeats
):
    plan = GroupPlan(12 if answers > 1 else 4, answers, blank)
    assert plan.repeats == repeats
    kinds = [plan.is_blank(member) for member in range(plan.group_size)]
    for first in range(0, plan.group_size, repeats):
        assert len(set(kinds[first : first + repeats])) == 1


def test_the_numbers_must_go_together():
    with pytest.raises(ConfigError, match="answers_per_look: expected a divisor of group_size 6"):
        GroupPlan(6, 4)
    with pytest.raises(ConfigError, match="blank_answers: expected 0 to 1"):
        GroupPlan(6, 2, -1)
    GroupPlan(4, 2)  # two looks of two: each has two siblings


def test_the_first_answer_to_a_look_brings_the_shared_tokens():
    assert Branch(1, 0, turns=1, tokens=30, looked=True).own_from == 0
    assert Branch(1, 2, turns=1, tokens=30, looked=True).own_from == 30
