"""A looking report as Markdown; reads its JSON, so that saved reports can be shown again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dip_agents.experiments.markdown import format_cell, format_value, table

Report = Mapping[str, Any]


def looking_markdown(report: Report) -> str:
    """Return a report as Markdown tables.

    Args:
        report: what ``LookingReport.to_json`` returns, or the same read from a file.

    Returns:
        Tables of the conditions, of gain and harm, of the look budget, and of where looks land,
        each under a line that says what it holds.
    """
    parts = (
        f"{report['n']} scenes, played once in every condition; F1 at IoU 0.5, pooled over scenes; "
        "95 % intervals over scenes, differences paired.",
        conditions_table(report),
        "Scenes in which F1 rose or fell against no looks:",
        gain_harm_table(report),
        "F1 against the look budget:",
        budget_table(report),
        "Where looks land on what the annotation calls ambiguous; the look term is the share of "
        "the ambiguity covered less the share of the image taken, at least 0:",
        look_coverage_table(report),
    )
    return "\n\n".join(parts) + "\n"


def conditions_table(report: Report) -> str:
    """Return what every condition found, and its difference to own looks."""
    head = (
        "condition",
        "F1",
        "F1 against own looks",
        "precision",
        "recall",
        "boxes per person",
        "malformed turns",
    )
    numbers = ("precision", "recall", "boxes_per_truth", "parse_failures")
    rows = [
        (
            name,
            format_cell(condition["metrics"], "F1"),
            format_cell(condition.get("against_own", {}), "F1", sign=True),
            *(format_value(condition["metrics"], key) for key in numbers),
        )
        for name, condition in report["conditions"].items()
    ]
    return table(head, rows)


def gain_harm_table(report: Report) -> str:
    """Return in how many scenes each condition finds more or less than no looks do."""
    head = ("condition", "rose", "fell", "stayed", "mean rise", "mean fall", "mean change of F1")
    rows = [
        (
            name,
            *(str(split[key]) for key in ("rose", "fell", "stayed")),
            *("-" if split[k] is None else f"{split[k]:+.3f}" for k in ("mean_rise", "mean_fall")),
            format_cell(split, "mean", sign=True),
        )
        for name, split in _with(report, "gain_harm")
    ]
    return table(head, rows)


def budget_table(report: Report) -> str:
    """Return F1 from no look to all own looks."""
    head = ("looks", "regions", "share of the image", "F1", "mean change of F1")
    rows = []
    for name in report["budget"]:
        condition = report["conditions"][name]
        rows.append(
            (
                name,
                format_value(condition["looks"], "regions"),
                format_value(condition["looks"], "area"),
                format_cell(condition["metrics"], "F1"),
                format_cell(condition.get("gain_harm", {}), "mean", sign=True),
            )
        )
    return table(head, rows)


def look_coverage_table(report: Report) -> str:
    """Return what the looks of each condition cover; equal looks have equal rows."""
    head = (
        "condition",
        "scenes looked at",
        "regions",
        "share of the image",
        "covered",
        "look term",
    )
    rows = [
        (
            name,
            *(format_value(looks, key) for key in ("looked", "regions", "area")),
            *(format_cell(looks, key) for key in ("covered", "look")),
        )
        for name, looks in _with(report, "looks")
    ]
    return table(head, rows)


def _with(report: Report, part: str) -> list[tuple[str, Mapping[str, Any]]]:
    """Return one part of every condition that has it, by the condition's name."""
    return [
        (name, condition[part])
        for name, condition in report["conditions"].items()
        if part in condition
    ]
