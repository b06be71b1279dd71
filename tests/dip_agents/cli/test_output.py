from __future__ import annotations

import io

from rich.console import Console

from dip_agents.cli.output import columns, progress


def test_without_a_terminal_each_tenth_is_a_line_with_the_time_left(monkeypatch):
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr("dip_agents.cli.output.time.monotonic", lambda: next(clock))
    text = io.StringIO()
    with progress(Console(file=text, width=80), "measuring") as on_done:
        for done in (1, 5, 50, 100):
            on_done(done, 100)
    lines = text.getvalue().splitlines()
    assert lines[0] == "measuring ..."
    assert lines[1].startswith("measuring 50/100, ") and lines[1].endswith(" left")
    assert lines[2].startswith("measuring 100/100 in ")
    assert len(lines) == 3


def test_on_a_terminal_a_bar_of_80_columns_holds_count_and_time():
    text = io.StringIO()
    console = Console(file=text, width=80, force_terminal=True)
    with progress(console, "measuring") as on_done:
        on_done(3, 7)
    assert "measuring" in text.getvalue() and "3/7" in text.getvalue()
    assert "…" not in text.getvalue()


def test_columns_are_aligned_and_as_wide_as_they_must_be():
    assert columns([("metric", "value"), ("F1", "0.5"), ("x", "")], {1: 2}) == [
        "metric  value",
        "  F1      0.5",
        "x",
    ]
