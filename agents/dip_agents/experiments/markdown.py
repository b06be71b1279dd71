"""Numbers with intervals as Markdown, from the plain values that reports are saved as."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dip_agents.evaluation.result import format_interval
from dip_env.metrics.intervals import Interval


def format_cell(found: Mapping[str, Any], name: str, *, sign: bool = False) -> str:
    """Return a value with its interval, ``-`` where there is none."""
    return format_interval(Interval(**found[name]), sign=sign) if name in found else "-"


def format_value(found: Mapping[str, Any], name: str) -> str:
    """Return a value alone, ``-`` where there is none."""
    return f"{found[name]['value']:.3f}" if name in found else "-"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table, its first column to the left and numbers to the right."""
    lines = [head, ("---", *("---:" for _ in head[1:])), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
