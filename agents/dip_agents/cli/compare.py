"""``dip compare``: runs beside each other on the same scenes, in pairs."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from dip_agents.cli.run_folder import ANSWERS, seed_folders
from dip_agents.cli.settings import Resolved
from dip_env.errors import ConfigError
from dip_env.metrics.intervals import Interval

if TYPE_CHECKING:
    from dip_agents.evaluation.compare import Comparison
    from dip_agents.evaluation.result import EvalResult

EXAMPLES = (
    "dip compare runs/train",
    "dip compare runs/base runs/night runs/crowd --format markdown",
    "dip compare runs/a runs/b --metrics F1 recall count_mae",
)

SHOWN = (*ANSWERS, "look_coverage", "look_area")
"""Metrics that are shown unless others are named."""


@dataclass(frozen=True)
class Settings:
    """Compare runs on the same scenes, in pairs; the others are compared with the first."""

    runs: tuple[Path, ...]
    """Folders of dip evaluate --out, or of dip train: its measurement after training, or before and
    after where it is the only one. A folder of several seeds counts as one run."""
    metrics: tuple[str, ...] = SHOWN
    """Metrics to show, or all."""
    format: Literal["table", "markdown", "csv", "json"] = "table"
    """How to print."""
    seed: int = 0
    """Seed of the bootstrap."""

    POSITIONAL = ("runs",)


def run(resolved: Resolved[Settings]) -> int:
    """Compare runs.

    Args:
        resolved: the settings.

    Returns:
        The exit code.

    Raises:
        ConfigError: for a folder that holds no evaluation, an unknown metric, or other scenes.
    """
    from dip_agents.cli.output import make_console, say
    from dip_agents.evaluation.compare import compare_runs
    from dip_agents.evaluation.scores import METRICS

    args = resolved.settings
    names = METRICS if args.metrics == ("all",) else args.metrics
    if unknown := sorted(set(names) - set(METRICS)):
        raise ConfigError(
            f"metrics: expected all, or some of {', '.join(METRICS)}, got {unknown[0]!r}"
        )
    comparison = compare_runs(_load_all(args.runs), seed=args.seed)
    if args.format == "json":
        print(json.dumps(comparison.to_json(), indent=2))
    elif args.format == "csv":
        print(comparison_csv(comparison, names), end="")
    elif args.format == "markdown":
        print("\n".join(comparison_markdown(comparison, names)))
    else:
        say(make_console(), *comparison_lines(comparison, names))
    return 0


def _load_all(folders: Sequence[Path]) -> dict[str, list[EvalResult]]:
    if len(folders) == 1 and (parts := _before_and_after(folders[0])):
        return {name: _load(paths) for name, paths in parts.items()}
    found: dict[str, list[EvalResult]] = {}
    for folder in folders:
        if str(folder) in found:
            raise ConfigError(f"runs: expected different folders, got {folder} twice")
        found[str(folder)] = _load(_evaluations(folder))
    if len(found) < 2:
        raise ConfigError(
            f"runs: expected at least two, or one of dip train, got {folders[0]}, which holds one "
            "evaluation"
        )
    return found


def _load(folders: Sequence[Path]) -> list[EvalResult]:
    from dip_agents.evaluation.files import load_evaluation

    return [load_evaluation(folder) for folder in folders]


def _seeds(folder: Path) -> list[Path]:
    """Return the runs of a folder of several seeds, by seed; the folder itself where it is one."""
    return seed_folders(folder) or [folder]


def _before_and_after(folder: Path) -> dict[str, list[Path]]:
    """Return the measurements of dip train by name, where the folder holds them."""
    parts = {name: [run / name for run in _seeds(folder)] for name in ("before", "after")}
    return parts if all(path.is_dir() for paths in parts.values() for path in paths) else {}


def _evaluations(folder: Path) -> list[Path]:
    if not folder.is_dir():
        what = "no folder" if folder.exists() else "missing"
        raise ConfigError(f"runs: expected the folder of a run, got {folder}, which is {what}")
    if parts := _before_and_after(folder):
        return parts["after"]
    return _seeds(folder)


@dataclass(frozen=True)
class _Cell:
    """A metric of a run, and its change to the reference; None for the reference itself."""

    metric: str
    run: str
    value: Interval
    change: Interval | None


def _cells(comparison: Comparison, names: Sequence[str]) -> list[_Cell]:
    return [
        _Cell(name, run_, metrics[name], comparison.differences.get(run_, {}).get(name))
        for name in names
        for run_, metrics in comparison.metrics.items()
    ]


def comparison_lines(comparison: Comparison, names: Sequence[str] = SHOWN) -> list[str]:
    """Return a comparison as columns of text: for each metric a line for each run.

    Args:
        comparison: of the runs.
        names: of the metrics.
    """
    from dip_agents.cli.output import columns
    from dip_agents.cli.tables import NAMES, with_interval

    seeds = {run_: f" ({k} seeds)" if k > 1 else "" for run_, k in comparison.seeds.items()}
    rows: list[tuple[str, ...]] = [
        (f"{comparison.n} scenes", "mean [95 % CI]", f"change to {comparison.reference}")
    ]
    indent: dict[int, int] = {}
    for cell in _cells(comparison, names):
        if cell.change is None:
            rows.append((NAMES.get(cell.metric, cell.metric), "", ""))
        indent[len(rows)] = 2
        change = "" if cell.change is None else with_interval(cell.change, sign=True)
        rows.append((cell.run + seeds[cell.run], with_interval(cell.value), change))
    return columns(rows, indent)


def comparison_markdown(comparison: Comparison, names: Sequence[str]) -> list[str]:
    """Return a comparison as a Markdown table: a row for each run, a column for each metric.

    Args:
        comparison: of the runs.
        names: of the metrics.
    """
    from dip_agents.cli.tables import with_interval

    lines = [
        f"| run | {' | '.join(names)} |",
        f"|---|{'---|' * len(names)}",
    ]
    for run_, metrics in comparison.metrics.items():
        lines.append(f"| {run_} | {' | '.join(with_interval(metrics[name]) for name in names)} |")
    for run_, metrics in comparison.differences.items():
        cells = " | ".join(with_interval(metrics[name], sign=True) for name in names)
        lines.append(f"| {run_} - {comparison.reference} | {cells} |")
    seeds = ", ".join(f"{run_} {count}" for run_, count in comparison.seeds.items())
    lines += ["", f"{comparison.n} scenes; seeds: {seeds}. 95 % intervals, differences paired."]
    return lines


def comparison_csv(comparison: Comparison, names: Sequence[str]) -> str:
    """Return a comparison as CSV: metric, run, value, its interval, the difference, its interval.

    Args:
        comparison: of the runs.
        names: of the metrics.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ("metric", "run", "seeds", "scenes", "value", "low", "high", "change", "change_low",
         "change_high")
    )  # fmt: skip
    for cell in _cells(comparison, names):
        change = cell.change or Interval(None, None, None)
        numbers = (
            number
            for interval in (cell.value, change)
            for number in (interval.value, interval.low, interval.high)
        )
        cells = ("" if number is None else number for number in numbers)
        writer.writerow((cell.metric, cell.run, comparison.seeds[cell.run], comparison.n, *cells))
    return text.getvalue()
