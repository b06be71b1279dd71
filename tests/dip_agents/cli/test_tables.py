"""Shares and their changes as the last lines of a command print them."""

from __future__ import annotations

import pytest

from dip_agents.cli.tables import percent, points
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
