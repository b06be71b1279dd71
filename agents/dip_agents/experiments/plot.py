"""An experiment as a plot: F1 with its intervals, in the order of each series."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dip_agents.experiments.kinds import NO_LOOKS, RANDOM_TILES, SINGLE_PASS
from dip_agents.experiments.report import ExperimentReport, ordered_series, points_of
from dip_env.metrics.intervals import Interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")
"""Distinct also with red-green colour blindness (source: Okabe and Ito 2008)."""

Point = tuple[float, Interval | None]
"""A position and the value there, None where it is not defined."""


STEPS = {
    "resolution": "pixels that the overview shows, longest side",
    "magnification": "crop pixels per pixel of the overview",
}
"""What changes step by step, by experiment."""


def experiment_plot(report: ExperimentReport, path: Path) -> None:
    """Draw F1 with its intervals: lines where conditions have an order, else a row for each.

    For ``resolution`` and ``magnification`` a second panel shows the mean change of F1 by looks.

    Args:
        report: of the experiment.
        path: the PNG.
    """
    if all(condition.position is None for condition in report.conditions.values()):
        figure = _rows(report)
    elif report.experiment == "look-budget":
        figure = _budgets(report)
    else:
        figure = _steps(report)
    for axis in figure.axes:
        axis.grid(True, color="0.92")
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"{report.experiment}, {report.n} scenes, 95 % intervals", fontsize=9)
    figure.savefig(path)


def _budgets(report: ExperimentReport) -> Figure:
    """Draw one panel per series of smaller budgets; own looks and the single pass are in all."""
    names = ordered_series(report)
    figure = _figure(3.2 * len(names), 3.4)
    axes = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    reference = report.conditions[report.reference]
    single_pass = report.conditions.get(SINGLE_PASS)
    for axis, series in zip(axes, names, strict=True):
        conditions = [*points_of(report, series), (report.own_positions[series], reference)]
        points = [(position, one.metrics.get("F1")) for position, one in conditions]
        _line(axis, points, COLOURS[0], None)
        axis.set_xlabel(series)
        axis.set_xticks(sorted(position for position, _ in points))
        if single_pass is not None and (found := single_pass.metrics.get("F1")) is not None:
            axis.axhline(found.value, color=COLOURS[1], linestyle="--", label=SINGLE_PASS)
    axes[0].set_ylabel("F1")
    if axes[0].get_legend_handles_labels()[0]:
        axes[0].legend(frameon=False)
    return figure


def _steps(report: ExperimentReport) -> Figure:
    """Draw F1 over what changes step by step, and beside it the change by looks."""
    figure = _figure(9.0, 3.8)
    axis, gains = figure.subplots(1, 2)
    # A little apart, so that no interval hides another.
    apart = 0.01 * max(condition.position or 0 for condition in report.conditions.values())
    for series, colour in zip(ordered_series(report), COLOURS, strict=False):
        off = apart * (series in (NO_LOOKS, RANDOM_TILES))
        conditions = points_of(report, series)
        points = [(position + off, one.metrics.get("F1")) for position, one in conditions]
        _line(axis, points, colour, series)
        changes = [(x, one.gain_harm.mean) for x, one in conditions if one.gain_harm is not None]
        _line(gains, changes, colour, None)
    axis.set_ylabel("F1")
    axis.legend(frameon=False)
    gains.axhline(0, color="0.7", zorder=0)
    gains.set_ylabel("mean change of F1 by looks")
    for side in (axis, gains):
        side.set_xlabel(STEPS.get(report.experiment, report.experiment))
    return figure


def _rows(report: ExperimentReport) -> Figure:
    """Draw one row for each condition."""
    conditions = report.conditions
    figure = _figure(7.0, 0.8 + 0.34 * len(conditions))
    axis: Any = figure.subplots()
    for row, condition in enumerate(conditions.values()):
        if (found := condition.metrics.get("F1")) is None:  # no instance and no answered box
            continue
        if found.low is not None:
            axis.plot([found.low, found.high], [row, row], color=COLOURS[0], linewidth=2)
        axis.plot(found.value, row, "o", color=COLOURS[0])
    if (own := conditions[report.reference].metrics.get("F1")) is not None:
        axis.axvline(own.value, color="0.7", zorder=0)
    axis.set_yticks(range(len(conditions)), list(conditions))
    axis.invert_yaxis()
    axis.set_xlabel("F1")
    return figure


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure  # of an extra that tables do not need

    return Figure(figsize=(width, height), dpi=140, layout="constrained")


def _line(axis: Any, points: Sequence[Point], colour: str, label: str | None) -> None:
    found = sorted(((x, one) for x, one in points if one is not None), key=lambda point: point[0])
    positions, values = [x for x, _ in found], [one.value for _, one in found]
    spread = [  # one scene has no interval
        [0.0 if one.low is None else (one.value or 0.0) - one.low for _, one in found],
        [0.0 if one.high is None else one.high - (one.value or 0.0) for _, one in found],
    ]
    axis.errorbar(positions, values, spread, color=colour, marker="o", capsize=3, label=label)
