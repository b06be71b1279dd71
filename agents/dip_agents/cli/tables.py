"""The last lines of a command: a few numbers that matter, in columns that fit 80 characters."""

from __future__ import annotations

from collections.abc import Mapping

from dip_agents.cli.output import columns
from dip_agents.cli.run_folder import HEADLINE
from dip_agents.evaluation.consensus import ConsensusScore
from dip_agents.evaluation.result import EvalResult, paired_gain
from dip_env.metrics.intervals import Interval

NAMES = {
    "F1": "F1",
    "precision": "precision",
    "recall": "recall",
    "reward": "reward",
    "look": "look term",
    "boxes_per_truth": "boxes per person",
}
"""What they are called there."""
CONSENSUS_NAMES = {
    "F1": "F1 of what most of them hold",
    "precision": "its precision",
    "recall": "its recall",
    "AP": "AP",
    "MR": "MR^-2",
    "JI": "JI",
}
"""What the metrics of a consensus are called there."""


def short(value: float | None, *, sign: bool = False) -> str:
    """Return a number with three decimals, ``-`` where it is not defined."""
    return "-" if value is None else format(value, "+.3f" if sign else ".3f")


def with_interval(interval: Interval, *, sign: bool = False) -> str:
    """Return ``0.512 [0.430, 0.594]``; the value alone where there is no interval."""
    value = short(interval.value, sign=sign)
    if interval.low is None or interval.high is None:
        return value
    return f"{value} [{short(interval.low, sign=sign)}, {short(interval.high, sign=sign)}]"


def result_lines(title: str, result: EvalResult) -> list[str]:
    """Return the headline of one evaluation.

    Args:
        title: what was measured.
        result: the evaluation.

    Returns:
        A line for each metric that is defined, below the title.
    """
    return _metric_lines(title, result.metrics, NAMES)


def consensus_lines(found: ConsensusScore) -> list[str]:
    """Return what the consensus of several samples comes to.

    Args:
        found: the consensus.

    Returns:
        A line for each metric that is defined, below the title.
    """
    title = f"consensus of {found.samples} samples"
    return _metric_lines(title, found.metrics, CONSENSUS_NAMES)


def gain_lines(title: str, before: EvalResult, after: EvalResult) -> list[str]:
    """Return the headline of two evaluations of the same scenes.

    Args:
        title: what was measured.
        before: the first.
        after: the second.

    Returns:
        A line for each metric, with the paired change and its interval, below the title.
    """
    gain = paired_gain(before, after)
    rows = [(title, "before", "after", "change [95 % CI]")]
    for name in HEADLINE:
        old, new = before.metrics[name].value, after.metrics[name].value
        if old is not None or new is not None:
            rows.append((NAMES[name], short(old), short(new), with_interval(gain[name], sign=True)))
    return columns(rows, dict.fromkeys(range(1, len(rows)), 2))


def _metric_lines(
    title: str, metrics: Mapping[str, Interval], names: Mapping[str, str]
) -> list[str]:
    """Return a line for each metric that is named and defined, in the order of the names."""
    rows: list[tuple[str, ...]] = [(title, "mean [95 % CI over scenes]")]
    rows += [
        (shown, with_interval(metrics[name]))
        for name, shown in names.items()
        if metrics[name].value is not None
    ]
    return columns(rows, dict.fromkeys(range(1, len(rows)), 2))
