"""A looking report as Markdown; reads its JSON, so that saved reports can be shown again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dip_agents.experiments.markdown import number, shown, table

Report = Mapping[str, Any]


def looking_markdown(report: Report) -> str:
    """Return a report as Markdown tables.

    Args:
        report: what ``LookingReport.to_json`` returns, or the same read from a file.

    Returns:
        Tables of the arms, of gain and harm, of the look budget, and of where looks land, each
        under a line that says what it holds.
    """
    parts = (
        f"{report['n']} scenes, played once in every arm; F1 at IoU 0.5, pooled over scenes; "
        "95 % intervals over scenes, differences paired.",
        arms_table(report),
        "Scenes in which F1 rose or fell against no looks:",
        gain_harm_table(report),
        "F1 against the look budget:",
        budget_table(report),
        "Where looks land on what the annotation calls ambiguous; the look term is the share of "
        "the ambiguity covered less the share of the image taken, at least 0:",
        landing_table(report),
    )
    return "\n\n".join(parts) + "\n"


def arms_table(report: Report) -> str:
    """Return what every arm found, and its difference to own looks."""
    head = (
        "arm",
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
            shown(arm["metrics"], "F1"),
            shown(arm.get("against_own", {}), "F1", sign=True),
            *(number(arm["metrics"], key) for key in numbers),
        )
        for name, arm in report["arms"].items()
    ]
    return table(head, rows)


def gain_harm_table(report: Report) -> str:
    """Return in how many scenes each arm finds more or less than no looks do."""
    head = ("arm", "rose", "fell", "stayed", "mean rise", "mean fall", "mean change of F1")
    rows = [
        (
            name,
            *(str(split[key]) for key in ("rose", "fell", "stayed")),
            *("-" if split[k] is None else f"{split[k]:+.3f}" for k in ("mean_rise", "mean_fall")),
            shown(split, "mean", sign=True),
        )
        for name, split in _with(report, "gain_harm")
    ]
    return table(head, rows)


def budget_table(report: Report) -> str:
    """Return F1 from no look to all own looks."""
    head = ("looks", "regions", "share of the image", "F1", "mean change of F1")
    rows = []
    for name in report["budget"]:
        arm = report["arms"][name]
        rows.append(
            (
                name,
                number(arm["looks"], "regions"),
                number(arm["looks"], "area"),
                shown(arm["metrics"], "F1"),
                shown(arm.get("gain_harm", {}), "mean", sign=True),
            )
        )
    return table(head, rows)


def landing_table(report: Report) -> str:
    """Return where the looks of each arm landed; arms that look at the same say the same."""
    head = ("arm", "scenes looked at", "regions", "share of the image", "covered", "look term")
    rows = [
        (
            name,
            *(number(looks, key) for key in ("looked", "regions", "area")),
            *(shown(looks, key) for key in ("covered", "look")),
        )
        for name, looks in _with(report, "looks")
    ]
    return table(head, rows)


def _with(report: Report, part: str) -> list[tuple[str, Mapping[str, Any]]]:
    """Return one part of every arm that has it, by the arm's name."""
    return [(name, arm[part]) for name, arm in report["arms"].items() if part in arm]
