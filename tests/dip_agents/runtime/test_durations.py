from __future__ import annotations

import pytest

from dip_agents.runtime.durations import format_duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.4, "59 s"), (60, "1 min 0 s"), (3599, "59 min 59 s"), (7500, "2 h 5 min")],
)
def test_durations_have_two_units_at_most(seconds, text):
    assert format_duration(seconds) == text
