"""Shares and their changes as the last lines of a command print them."""

from __future__ import annotations

import pytest

from dip_agents.cli.tables import percent, points, result_lines
from dip_agents.evaluation.evaluator import evaluate
from dip_agents.policies.base import Completion
from dip_env import EpisodeConfig, ToyScenes
from dip_env.metrics.intervals import Interval


@pytest.mark.parametrize(
    ("share", "shown"), [(0.126, "13 %"), (0.0, "0 %"), (1.0, "100 %"), (None, "-")]
)
def test_shares_are_whole_percentages(share, shown):
    assert percent(share) == shown


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        (Interval(0.42, 0.394, 0.451), "+42 points [+39, +45]"),
        (Interval(-0.001, -0.06, -0.001), "+0 points [-6, +0]"),
        (Interval(0.1, None, None, "an interval needs at least two images"), "+10 points"),
        (Interval(None, None, None, "nothing is ambiguous"), "-"),
    ],
)
def test_changes_of_shares_are_in_points_and_never_minus_zero(change, shown):
    assert points(change) == shown


def test_turns_that_were_truncated_or_failed_are_named_where_there_are_some():
    class Odd:
        def act(self, observations, seeds):
            return [
                Completion("", failed="no JSON")
                if o.scene_index == 2 and o.turn == 0
                else Completion("<answer>[]</answer>", truncated=o.scene_index == 1)
                for o in observations
            ]

    rules = EpisodeConfig(max_looks=0)
    lines = result_lines("odd", evaluate(Odd(), ToyScenes(), range(4), rules))
    assert lines[-2:] == [
        "20 % of all turns were truncated; see --max-new-tokens and --token-budget",
        "1 of 5 turns failed: no JSON",
    ]
    whole = result_lines("whole", evaluate(Odd(), ToyScenes(), [0, 3], rules))
    assert not any("turns" in line for line in whole)
