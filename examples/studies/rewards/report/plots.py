"""The study's plots; draws numbers that others have computed.

matplotlib is loaded when something is drawn: ``pip install "dip-env[play]"`` brings it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dip_env.metrics import Interval
from examples.studies.rewards.report.results import Logs
from examples.studies.rewards.report.stats import Floats
from examples.studies.rewards.variants import COLOURS

WIDTH, DPI = 9.0, 140
"""Inches and dots per inch: 1260 pixels."""
MARKERS = "osD^v<>PX"
SMOOTH = 5
"""Steps that a curve is averaged over."""


def intervals(values: Mapping[str, Mapping[str, Interval]], label: str, path: Path) -> None:
    """Draw values with their intervals: a group for each set of scenes, a colour for each variant.

    Args:
        values: by variant, then by scenes; what is missing is left out.
        label: of the axis.
        path: the PNG.
    """
    scenes = list(dict.fromkeys(name for row in values.values() for name in row))
    figure, axes = _figure(1, 1, height=0.6 + 0.24 * len(scenes) * (len(values) + 1))
    axis = axes[0][0]
    step = 0.8 / max(1, len(values))
    for k, (variant, row) in enumerate(values.items()):
        positions = [scenes.index(name) - 0.4 + step * (k + 0.5) for name in row]
        _whiskers(axis, positions, list(row.values()), COLOURS[variant], variant)
    axis.grid(False, axis="y")
    axis.set_yticks(range(len(scenes)), scenes)
    axis.set_ylim(len(scenes) - 0.5, -0.5)
    for border in np.arange(0.5, len(scenes) - 1):
        axis.axhline(border, color="0.85", linewidth=0.8)
    if any((i.low or 0) < 0 for row in values.values() for i in row.values()):
        axis.axvline(0, color="0.3", linewidth=1)
    axis.set_xlabel(label)
    _legend_right(axis)
    _save(figure, path)


def precision_and_recall(points: Mapping[str, Sequence[tuple[float, float]]], path: Path) -> None:
    """Draw each run of each variant as a point, over lines of equal F1.

    Args:
        points: (precision, recall) of each run, by variant.
        path: the PNG.
    """
    figure, axes = _figure(1, 1, height=5.0)
    axis = axes[0][0]
    every = np.array([point for row in points.values() for point in row])
    low = np.maximum(every.min(axis=0) - 0.03, 0)
    high = np.minimum(every.max(axis=0) + 0.03, 1)
    p, r = np.meshgrid(np.linspace(low[0], high[0], 200), np.linspace(low[1], high[1], 200))
    with np.errstate(invalid="ignore"):
        f1 = 2 * p * r / (p + r)
    lines = axis.contour(p, r, f1, levels=8, colors="0.8", linewidths=0.8)
    axis.clabel(lines, fmt="F1 %.2f", fontsize=7)
    for k, (variant, row) in enumerate(points.items()):
        x, y = zip(*row, strict=True)
        axis.plot(
            x, y, MARKERS[k], color=COLOURS[variant], markersize=7, alpha=0.85, label=variant,
            clip_on=False,
        )  # fmt: skip
    axis.set_xlabel("precision")
    axis.set_ylabel("recall")
    _legend_right(axis)
    _save(figure, path)


def curves(
    logs: Logs,
    shown: Mapping[str, str],
    path: Path,
) -> None:
    """Draw logged numbers over steps: the mean over seeds, and a band from lowest to highest.

    Args:
        logs: rows of each step, by variant and seed.
        shown: titles by log key; a key that no row has is left out.
        path: the PNG.
    """
    rows = [row for runs in logs.values() for steps in runs.values() for row in steps]
    keys = [key for key in shown if any(row.get(key) is not None for row in rows)]
    figure, axes = _figure(math.ceil(len(keys) / 3), 3, height=2.5 * math.ceil(len(keys) / 3) + 0.5)
    flat = [axis for line in axes for axis in line]
    for axis, key in zip(flat, keys, strict=False):
        for variant, runs in logs.items():
            lines = [found for steps in runs.values() if (found := _series(steps, key))]
            if not lines:
                continue
            length = min(len(values) for _, values in lines)
            steps_, values = lines[0][0][:length], np.array([v[:length] for _, v in lines])
            marker = "o" if length < SMOOTH else ""
            mean = values.mean(axis=0)
            axis.plot(
                steps_, mean, color=COLOURS[variant], marker=marker, markersize=3, linewidth=1.4
            )
            axis.fill_between(
                steps_, values.min(axis=0), values.max(axis=0), color=COLOURS[variant], alpha=0.12
            )
        axis.set_title(shown[key], fontsize=9)
        axis.set_xlabel("step", fontsize=8)
    for axis in flat[len(keys) :]:
        axis.axis("off")
    handles = [_line(COLOURS[variant], variant) for variant in logs]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(4, len(logs)), fontsize=8)
    _save(figure, path)


def budget(lines: Mapping[str, Mapping[int, Interval]], path: Path) -> None:
    """Draw F1 against the number of regions that may be looked at.

    Args:
        lines: by model, then by number of regions.
        path: the PNG.
    """
    figure, axes = _figure(1, 1, height=3.6)
    axis = axes[0][0]
    for k, (name, row) in enumerate(lines.items()):
        x = np.array(list(row)) + 0.04 * (k - (len(lines) - 1) / 2)
        ends = np.array([[_or(i.low, i), _or(i.value, i), _or(i.high, i)] for i in row.values()])
        errors = np.abs(ends[:, [0, 2]] - ends[:, [1]]).T
        axis.errorbar(x, ends[:, 1], errors, color=COLOURS[name], marker="o", capsize=3, label=name)
    axis.set_xticks(sorted({regions for row in lines.values() for regions in row}))
    axis.set_xlabel("regions an episode may look at")
    axis.set_ylabel("F1")
    _legend_right(axis)
    _save(figure, path)


def _series(
    rows: Sequence[Mapping[str, float | None]], key: str
) -> tuple[list[float], Floats] | None:
    """Return steps and smoothed values of a key, where it was logged."""
    pairs = [(float(row["step"] or 0), v) for row in rows if (v := row.get(key)) is not None]
    if not pairs:
        return None
    values = np.array([v for _, v in pairs])
    if len(values) >= 2 * SMOOTH:
        padded = np.pad(values, (SMOOTH // 2, SMOOTH // 2), mode="edge")
        values = np.convolve(padded, np.ones(SMOOTH) / SMOOTH, mode="valid")
    return [step for step, _ in pairs], values


def _whiskers(
    axis: Any, positions: Sequence[float], found: Sequence[Interval], colour: str, name: str
) -> None:
    """Draw a dot with its interval at each position."""
    known = [(y, i) for y, i in zip(positions, found, strict=True) if i.value is not None]
    x = [i.value for _, i in known]
    errors = [[_or(i.value, i) - _or(i.low, i) for _, i in known],
              [_or(i.high, i) - _or(i.value, i) for _, i in known]]  # fmt: skip
    axis.errorbar(
        x, [y for y, _ in known], xerr=errors, fmt="o", color=colour, capsize=2, markersize=4,
        linewidth=1.4, label=name,
    )  # fmt: skip


def _or(end: float | None, interval: Interval) -> float:
    """Return an end of an interval, or its value where it has none."""
    return interval.value or 0.0 if end is None else end


def _line(colour: str, name: str) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], color=colour, label=name)


def _figure(rows: int, columns: int, height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure((WIDTH, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.25, linewidth=0.6)
    return figure, axes


def _legend_right(axis: Any) -> None:
    axis.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, fontsize=8)


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # No date and no version inside: the same numbers give the same file.
    figure.savefig(path, dpi=DPI, metadata={"Software": None})
