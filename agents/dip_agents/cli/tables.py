"""The last lines of a command: a few numbers that matter, in columns that fit 80 characters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dip_agents.cli.output import columns
from dip_agents.cli.run_folder import ANSWERS, LOOKS
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
    "look_coverage": "look coverage",
    "look_area": "look area",
}
"""What they are called there."""
LOOK_NAMES = {
    "look_coverage": "people worth a look inside its looks",
    "look_coverage_random": "  same looks at random places",
    "look_coverage_oracle": "  oracle looks",
    "look_area": "image inside its looks",
}
"""What the shares that looks cover are called; those of reference looks stand below the first."""
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


def percent(share: float | None) -> str:
    """Return a share as a whole percentage, ``-`` where it is not defined."""
    return "-" if share is None else f"{100 * share:.0f} %"


def points(change: Interval) -> str:
    """Return the change of a share, as ``+42 points [+39, +45]``."""
    if change.value is None:
        return "-"
    # Whole numbers first: a float that rounds to 0 from below would be printed as -0.
    words = f"{round(100 * change.value):+d} points"
    if change.low is None or change.high is None:
        return words
    return f"{words} [{round(100 * change.low):+d}, {round(100 * change.high):+d}]"


def result_lines(title: str, result: EvalResult) -> list[str]:
    """Return the headline of one evaluation.

    Args:
        title: what was measured.
        result: the evaluation.

    Returns:
        A line for each metric that is defined, below the title; where the policy may look, also
        what its looks cover, beside random and oracle looks; and turns that were truncated or
        failed, where some were.
    """
    shown = {name: NAMES[name] for name in ANSWERS}
    metrics = result.metrics
    looks = [(name, metrics[name]) for name in _look_rows(metrics)]
    rows = [(LOOK_NAMES[name], _percent_with_interval(share)) for name, share in looks]
    return _metric_lines(title, metrics, shown, rows) + _lost_turns(result)


def _lost_turns(result: EvalResult) -> list[str]:
    """Return a line for truncated turns and one for each reason of failed ones, if any."""
    lines = []
    if share := result.metrics["truncated_share"].value:
        lines.append(
            f"{percent(share)} of all turns were truncated; see --max-new-tokens and --token-budget"
        )
    turns = int(result.score.counters["turns"].sum())
    for reason, count in result.failures.items():
        lines.append(f"{count} of {turns} turns failed: {reason}")
    return lines


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
        A line for each metric, with the paired change and its interval, below the title; where the
        policy may look, also what its looks cover, beside random and oracle looks; and turns that
        were truncated or failed in the second, where some were.
    """
    gain = paired_gain(before, after)
    rows: list[tuple[str, ...]] = [(title, "before", "after", "change [95 % CI]")]
    for name in ANSWERS:
        old, new = before.metrics[name].value, after.metrics[name].value
        if old is not None or new is not None:
            rows.append((NAMES[name], short(old), short(new), with_interval(gain[name], sign=True)))
    for name in _look_rows(after.metrics):
        # What reference looks cover is no result of training.
        change = points(gain[name]) if name in NAMES else ""
        shares = (percent(result.metrics[name].value) for result in (before, after))
        rows.append((LOOK_NAMES[name], *shares, change))
    return columns(rows, dict.fromkeys(range(1, len(rows)), 2)) + _lost_turns(after)


def _look_rows(metrics: Mapping[str, Interval]) -> tuple[str, ...]:
    """Return the metrics of looks to show: all where looks were allowed and worth it, else none."""
    return LOOKS if metrics["look_coverage"].value is not None else ()


def _percent_with_interval(share: Interval) -> str:
    if share.value is None or share.low is None or share.high is None:
        return percent(share.value)
    return f"{percent(share.value)} [{100 * share.low:.0f}, {100 * share.high:.0f}]"


def _metric_lines(
    title: str,
    metrics: Mapping[str, Interval],
    names: Mapping[str, str],
    more: Sequence[tuple[str, str]] = (),
) -> list[str]:
    """Return a line for each metric that is named and defined, in the order of the names."""
    rows: list[tuple[str, ...]] = [(title, "mean [95 % CI over scenes]")]
    rows += [
        (shown, with_interval(metrics[name]))
        for name, shown in names.items()
        if metrics[name].value is not None
    ]
    rows += more
    return columns(rows, dict.fromkeys(range(1, len(rows)), 2))
