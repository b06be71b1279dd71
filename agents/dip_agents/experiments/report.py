"""An experiment as a Markdown table and as a plot; reads its JSON, so that a saved one will do."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dip_agents.experiments.looking import NONE
from dip_agents.experiments.markdown import format_cell, format_value, table
from dip_agents.experiments.tables import gain_harm_table
from dip_agents.experiments.variations import SINGLE_PASS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Report = Mapping[str, Any]

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")
"""Told apart also without red and green (source: Okabe and Ito 2008)."""


def experiment_markdown(report: Report) -> str:
    """Return an experiment as Markdown.

    Args:
        report: what ``run_experiment`` returns, or the same read from a file.

    Returns:
        A table of the conditions, what was left out, and a table of the scenes that gained or were
        harmed by looks, where there are conditions that differ in looks alone; each under a line
        that says what it holds.
    """
    reference = report["reference"]
    head = ("condition", "F1", f"F1 against {reference}", "precision", "recall", "boxes per person",
            "malformed turns", "cut turns", "regions", "share of the image")  # fmt: skip
    rows = [
        (
            name,
            format_cell(condition["metrics"], "F1"),
            format_cell(condition.get("against_reference", {}), "F1", sign=True),
            *(
                format_value(condition["metrics"], key)
                for key in ("precision", "recall", "boxes_per_truth")
            ),
            *(
                format_value(condition["metrics"], key)
                for key in ("parse_failures", "truncated_turns")
            ),
            *(format_value(condition["looks"], key) for key in ("regions", "area")),
        )
        for name, condition in report["conditions"].items()
    ]
    words = (
        f"{report['experiment']}: {report['n']} scenes, played once in every condition; F1 at "
        "IoU 0.5, pooled over scenes; 95 % intervals over scenes, differences paired. Regions and "
        "share: what the looks of an episode took. Malformed turns are outside the grammar, cut "
        "turns ran into a limit of tokens; both per episode."
    )
    parts = [words, table(head, rows)]
    parts += [f"Left out: {what}: {why}." for what, why in report["left_out"].items()]
    if any("gain_harm" in condition for condition in report["conditions"].values()):
        parts += ["Scenes in which F1 rose or fell against no looks:", gain_harm_table(report)]
    return "\n\n".join(parts) + "\n"


def experiment_plot(report: Report, path: Path) -> None:
    """Draw F1 with its intervals: lines where conditions have an order, else a row for each.

    Beside F1 over the resolution stands what looks bring there, scene by scene.

    Args:
        report: what ``run_experiment`` returns.
        path: the PNG.
    """
    kind = report["experiment"]
    if all(condition["place"] is None for condition in report["conditions"].values()):
        figure = _rows(report)
    else:
        figure = _budgets(report) if kind == "look-budget" else _resolutions(report)
    for axis in figure.axes:
        axis.grid(True, color="0.92")
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"{kind}, {report['n']} scenes, 95 % intervals", fontsize=9)
    figure.savefig(path)


def _budgets(report: Report) -> Figure:
    """Draw one panel for each way to look less; own looks and the single pass stand in all."""
    names = _ordered_series(report)
    figure = _figure(3.2 * len(names), 3.4)
    axes = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for axis, series in zip(axes, names, strict=True):
        own = (report["own_places"][series], report["conditions"][report["reference"]])
        points = [
            (place, condition["metrics"]) for place, condition in [*_points(report, series), own]
        ]
        _line(axis, points, COLOURS[0], None)
        axis.set_xlabel(series)
        axis.set_xticks(sorted(place for place, _ in points))
        for name in {SINGLE_PASS} & set(report["conditions"]):
            if (found := report["conditions"][name]["metrics"].get("F1")) is not None:
                axis.axhline(found["value"], color=COLOURS[1], linestyle="--", label=name)
    axes[0].set_ylabel("F1")
    if axes[0].get_legend_handles_labels()[0]:
        axes[0].legend(frameon=False)
    return figure


def _resolutions(report: Report) -> Figure:
    """Draw F1 with and without looks over the resolution, and beside it what looks bring."""
    figure = _figure(9.0, 3.8)
    axis, gains = figure.subplots(1, 2)
    # A little apart, so that no interval hides another.
    apart = 0.01 * max(condition["place"] or 0 for condition in report["conditions"].values())
    for series, colour in zip(_ordered_series(report), COLOURS, strict=False):
        off = apart * (series == NONE)
        conditions = _points(report, series)
        _line(
            axis,
            [(place + off, condition["metrics"]) for place, condition in conditions],
            colour,
            series,
        )
        brought = [
            (place, condition["gain_harm"])
            for place, condition in conditions
            if condition["without"]
        ]
        _line(gains, brought, colour, None, "mean")
    axis.set_ylabel("F1")
    axis.legend(frameon=False)
    gains.axhline(0, color="0.7", zorder=0)
    gains.set_ylabel("mean change of F1 by looks")
    for side in (axis, gains):
        side.set_xlabel("pixels that the overview shows, longest side")
    return figure


def _rows(report: Report) -> Figure:
    """Draw one row for each condition."""
    conditions = report["conditions"]
    figure = _figure(7.0, 0.8 + 0.34 * len(conditions))
    axis = figure.subplots()
    for row, condition in enumerate(conditions.values()):
        if (found := condition["metrics"].get("F1")) is None:  # nobody there, nothing answered
            continue
        if found["low"] is not None:
            axis.plot([found["low"], found["high"]], [row, row], color=COLOURS[0], linewidth=2)
        axis.plot(found["value"], row, "o", color=COLOURS[0])
    if (own := conditions[report["reference"]]["metrics"].get("F1")) is not None:
        axis.axvline(own["value"], color="0.7", zorder=0)
    axis.set_yticks(range(len(conditions)), list(conditions))
    axis.invert_yaxis()
    axis.set_xlabel("F1")
    return figure


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure  # of an extra, which tables do without

    return Figure(figsize=(width, height), dpi=140, layout="constrained")


def _ordered_series(report: Report) -> list[str]:
    """Return the series whose conditions have an order, each once."""
    ordered = (
        condition for condition in report["conditions"].values() if condition["place"] is not None
    )
    return list(dict.fromkeys(condition["series"] for condition in ordered))


def _points(report: Report, series: str) -> list[tuple[float, Mapping[str, Any]]]:
    return [(a["place"], a) for a in report["conditions"].values() if a["series"] == series]


def _line(
    axis: Any,
    points: list[tuple[float, Mapping[str, Any]]],
    colour: str,
    label: Any,
    name: str = "F1",
) -> None:
    points = sorted((p for p in points if name in p[1]), key=lambda point: point[0])
    found = [values[name] for _, values in points]
    places, values = [place for place, _ in points], [one["value"] for one in found]
    spread = [  # one scene has no interval
        [0.0 if one["low"] is None else one["value"] - one["low"] for one in found],
        [0.0 if one["high"] is None else one["high"] - one["value"] for one in found],
    ]
    axis.errorbar(places, values, spread, color=colour, marker="o", capsize=3, label=label)
