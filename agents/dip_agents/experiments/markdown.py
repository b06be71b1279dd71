"""An experiment as Markdown tables."""

from __future__ import annotations

from collections.abc import Sequence

from dip_agents.evaluation.result import format_interval
from dip_agents.experiments.report import ConditionReport, ExperimentReport, Intervals


def experiment_markdown(report: ExperimentReport) -> str:
    """Return an experiment as Markdown.

    Args:
        report: of the experiment.

    Returns:
        A table of the conditions, what was left out, and a table of the scenes that gained or were
        harmed by looks, where there are conditions that differ in looks alone; each under a line
        that describes it.
    """
    words = (
        f"{report.experiment}: {report.n} scenes, played once in every condition; F1 at "
        "IoU 0.5, pooled over scenes; 95 % intervals over scenes, differences paired. Regions and "
        "share: what the looks of an episode took. Malformed turns are outside the grammar, "
        "truncated turns ran into a limit of tokens; both per episode."
    )
    parts = [words, conditions_table(report)]
    parts += [f"Left out: {what}: {why}." for what, why in report.left_out.items()]
    if any(condition.gain_harm is not None for condition in report.conditions.values()):
        parts += ["Scenes in which F1 rose or fell against no looks:", gain_harm_table(report)]
    return "\n\n".join(parts) + "\n"


def conditions_table(report: ExperimentReport) -> str:
    """Return what every condition found, and its difference to the reference."""
    head = ("condition", "F1", f"F1 against {report.reference}", "precision", "recall",
            "boxes per person", "malformed turns", "truncated turns", "regions",
            "share of the image")  # fmt: skip
    rows = [_condition_row(name, condition) for name, condition in report.conditions.items()]
    return table(head, rows)


def gain_harm_table(report: ExperimentReport) -> str:
    """Return in how many scenes each condition finds more or less than no looks do."""
    head = ("condition", "rose", "fell", "stayed", "mean rise", "mean fall", "mean change of F1")
    rows = [
        (
            name,
            *(str(count) for count in (split.rose, split.fell, split.stayed)),
            *("-" if m is None else f"{m:+.3f}" for m in (split.mean_rise, split.mean_fall)),
            format_interval(split.mean, sign=True),
        )
        for name, condition in report.conditions.items()
        if (split := condition.gain_harm) is not None
    ]
    return table(head, rows)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table, its first column to the left and numbers to the right."""
    lines = [head, ("---", *("---:" for _ in head[1:])), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _condition_row(name: str, condition: ConditionReport) -> tuple[str, ...]:
    metrics, looks = condition.metrics, condition.looks
    numbers = ("precision", "recall", "boxes_per_truth", "parse_failures", "truncated_turns")
    return (
        name,
        format_cell(metrics, "F1"),
        format_cell(condition.against_reference or {}, "F1", sign=True),
        *(format_value(metrics, key) for key in numbers),
        *(format_value(looks, key) for key in ("regions", "area")),
    )


def format_cell(found: Intervals, name: str, *, sign: bool = False) -> str:
    """Return a value with its interval, ``-`` where there is none."""
    return format_interval(found[name], sign=sign) if name in found else "-"


def format_value(found: Intervals, name: str) -> str:
    """Return a value alone, ``-`` where there is none."""
    return f"{found[name].value:.3f}" if name in found else "-"
