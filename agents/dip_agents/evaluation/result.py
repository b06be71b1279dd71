"""The result of an evaluation: as JSON, as a table, and compared with another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from rich.console import Console
from rich.table import Table

from dip_agents.evaluation.scores import METRICS, EvalScore
from dip_env.config import EpisodeConfig
from dip_env.errors import ConfigError
from dip_env.metrics.intervals import Interval, bootstrap, paired


@dataclass(frozen=True)
class EvalResult:
    """The result of an evaluation, scene by scene.

    Args:
        score: the metrics as a function of how often each scene counts, for paired comparison.
        scene_indices: the scenes, in the order of the score.
        group_size: rollouts per scene.
        look_reference: the reference of the look term, ``siblings`` or ``prior``.
        seed: of the policy's randomness and of the bootstrap.
        config: the rules.
        control: name of the control, see ``dip_wrappers.controls``.
        failures: how many turns failed for each reason.
        about: what was measured, as JSON values: the source, and what the caller names.
    """

    score: EvalScore
    scene_indices: tuple[int, ...]
    group_size: int
    look_reference: str
    seed: int
    config: EpisodeConfig
    control: str = "own looks"
    failures: Mapping[str, int] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def n(self) -> int:
        """Number of scenes."""
        return len(self.scene_indices)

    @cached_property
    def metrics(self) -> dict[str, Interval]:
        """An interval for each name in ``METRICS``."""
        return bootstrap(self.score.values, self.n, seed=self.seed, reasons=self.score.reasons())

    def to_json(self) -> dict[str, Any]:
        """Return what ``metrics.json`` holds: plain values, no NaN, null where undefined.

        Returns:
            Each metric by name, ``n``, ``intervals`` (95 %, low and high), ``undefined`` (the
            reason behind each null), ``samples_left_out`` (of the bootstrap, where they do not
            define a metric), ``counts`` of boxes, ``failures`` (reasons of failed turns and how
            many) and how it was measured.
        """
        metrics, boxes = self.metrics, self.score.unscored.values()
        return {
            **{name: interval.value for name, interval in metrics.items()},
            "n": self.n,
            "intervals": {name: [m.low, m.high] for name, m in metrics.items()},
            "undefined": {name: m.reason for name, m in metrics.items() if m.reason},
            "samples_left_out": {name: m.undefined for name, m in metrics.items() if m.undefined},
            "counts": {name: int(boxes[name] or 0) for name in ("tp", "fp", "fn", "dropped")},
            "failures": dict(self.failures),
            "interval_level": 0.95,
            "interval_method": "bootstrap over scenes, percentile",
            "iou_threshold": 0.5,
            "group_size": self.group_size,
            "episodes": self.n * self.group_size,
            "look_reference": self.look_reference,
            "control": self.control,
            "seed": self.seed,
            "scene_indices": list(self.scene_indices),
            "config": asdict(self.config),
            "about": dict(self.about),
        }


def paired_gain(before: EvalResult, after: EvalResult, *, seed: int = 0) -> dict[str, Interval]:
    """Compare two evaluations of the same scenes.

    Args:
        before: the first.
        after: the second.
        seed: seed of the bootstrap.

    Returns:
        For each metric, after minus before with its 95 % interval, resampling scenes in pairs;
        None where either has none.

    Raises:
        ConfigError: when the scenes differ.
    """
    if before.scene_indices != after.scene_indices:
        raise ConfigError("after: expected the same scenes as before in the same order, got others")
    first, second = before.score, after.score
    reasons = second.reasons() | first.reasons()
    return paired(first.values, second.values, before.n, seed=seed, reasons=reasons)


def format_interval(interval: Interval, *, sign: bool = False) -> str:
    """Return an interval in one line, such as ``0.512 [0.430, 0.594]``; ``-`` where undefined."""
    form = "+.3f" if sign else ".3f"
    if interval.value is None:
        return "-"
    if interval.low is None or interval.high is None:
        return format(interval.value, form)
    return f"{interval.value:{form}} [{interval.low:{form}}, {interval.high:{form}}]"


def print_results(results: Mapping[str, EvalResult], console: Console | None = None) -> None:
    """Print evaluations side by side; two of the same scenes also get their paired gain.

    Args:
        results: evaluations by name, in the order of the columns.
        console: where to, standard output by default.
    """
    names = list(results)
    gain = None
    if len(names) == 2:
        first, second = results.values()
        if first.scene_indices == second.scene_indices:
            gain = paired_gain(first, second)
    columns = {f"{name} (n={results[name].n})": results[name].metrics for name in names}
    if gain:
        columns[f"{names[1]} - {names[0]}, paired"] = gain
    table = Table(title="mean [95 % interval over scenes]", title_justify="left")
    table.add_column("metric", no_wrap=True)
    for name in columns:
        table.add_column(name, justify="right")
    for metric in METRICS:
        cells = [column[metric] for column in columns.values()]
        if any(interval.value is not None for interval in cells):
            signs = [column is gain for column in columns.values()]
            table.add_row(
                metric, *(format_interval(c, sign=s) for c, s in zip(cells, signs, strict=True))
            )
    console = console or Console()
    console.print(table)
    for name, result in results.items():
        for line in _undefined(result):
            console.print(f"{name}: {line}", markup=False)


def _undefined(result: EvalResult) -> list[str]:
    """Return a line per reason with the metrics that have no value."""
    metrics: dict[str | None, list[str]] = {}
    for name, interval in result.metrics.items():
        if interval.value is None:
            metrics.setdefault(interval.reason, []).append(name)
    return [f"{', '.join(names)} undefined: {reason}" for reason, names in metrics.items()]
