"""What an experiment found, as typed values and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from dip_agents.experiments.kinds import ExperimentKind
from dip_agents.experiments.measures import GainHarm
from dip_env.config import EpisodeConfig
from dip_env.errors import ConfigError
from dip_env.metrics.intervals import Interval

Intervals = Mapping[str, Interval]
"""Intervals by name; names without a value are left out."""

HOW_MEASURED: Mapping[str, Any] = {
    "interval_level": 0.95,
    "interval_method": "bootstrap over scenes, percentile; differences paired by scene",
    "iou_threshold": 0.5,
}
"""What holds for the numbers of every condition."""


@dataclass(frozen=True)
class ConditionReport:
    """What one condition found.

    Args:
        series: conditions of one series lie on one line of a plot.
        position: on the axis of its series; None where the series has no order.
        without: name of the condition that differs in having no looks, if there is one.
        metrics: those of ``COMPARED`` that are defined.
        looks: look coverage, see ``mean_look_coverage``.
        against_reference: paired differences to the reference; None for the reference itself.
        gain_harm: change of F1 against the condition ``without`` looks; None where there is none.
    """

    series: str
    position: float | None
    without: str | None
    metrics: Intervals
    looks: Intervals
    against_reference: Intervals | None = None
    gain_harm: GainHarm | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain values; each interval as value, low and high."""
        data: dict[str, Any] = {
            "series": self.series,
            "position": self.position,
            "without": self.without,
            "metrics": _plain(self.metrics),
            "looks": _plain(self.looks),
        }
        if self.against_reference is not None:
            data["against_reference"] = _plain(self.against_reference)
        if self.gain_harm is not None:
            split = self.gain_harm
            data["gain_harm"] = {**vars(split), **_plain({"mean": split.mean})}
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ConditionReport:
        """Read what ``to_json`` returned."""
        reference, split = data.get("against_reference"), data.get("gain_harm")
        return cls(
            series=data["series"],
            position=data["position"],
            without=data["without"],
            metrics=_intervals(data["metrics"]),
            looks=_intervals(data["looks"]),
            against_reference=None if reference is None else _intervals(reference),
            gain_harm=split and GainHarm(**{**split, "mean": Interval(**split["mean"])}),
        )


@dataclass(frozen=True)
class ExperimentReport:
    """What an experiment found.

    Args:
        experiment: which one.
        reference: name of the condition that the others are compared with.
        conditions: by name, in the order of the experiment.
        own_positions: where own looks lie on the axis of a series, by series.
        left_out: why a condition was not played, by its name.
        seed: of the policy's randomness and of the bootstrap.
        scene_indices: the scenes.
        config: the rules of the reference.
    """

    experiment: ExperimentKind
    reference: str
    conditions: Mapping[str, ConditionReport]
    own_positions: Mapping[str, float]
    left_out: Mapping[str, str]
    seed: int
    scene_indices: tuple[int, ...]
    config: EpisodeConfig

    @property
    def n(self) -> int:
        """Number of scenes."""
        return len(self.scene_indices)

    def to_json(self) -> dict[str, Any]:
        """Return what ``experiment.json`` holds: plain values, without NaN."""
        return {
            "experiment": self.experiment,
            "n": self.n,
            "reference": self.reference,
            "conditions": {name: one.to_json() for name, one in self.conditions.items()},
            "own_positions": dict(self.own_positions),
            "left_out": dict(self.left_out),
            **HOW_MEASURED,
            "seed": self.seed,
            "scene_indices": list(self.scene_indices),
            "config": asdict(self.config),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ExperimentReport:
        """Read what ``to_json`` returned, for instance from ``experiment.json``.

        Args:
            data: the plain values.

        Returns:
            An equal report.

        Raises:
            ConfigError: when a part is missing or unknown.
        """
        try:
            rules = dict(data["config"])
            rules |= rules.pop("reward")
            return cls(
                experiment=data["experiment"],
                reference=data["reference"],
                conditions={
                    name: ConditionReport.from_json(one) for name, one in data["conditions"].items()
                },
                own_positions=data["own_positions"],
                left_out=data["left_out"],
                seed=data["seed"],
                scene_indices=tuple(data["scene_indices"]),
                config=EpisodeConfig.from_keywords(rules),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"report: expected an experiment's JSON, got: {error!r}") from error


def defined(intervals: Intervals) -> dict[str, Interval]:
    """Return the intervals that have a value, as they are saved: value, low and high."""
    return {
        name: Interval(one.value, one.low, one.high)
        for name, one in intervals.items()
        if one.value is not None
    }


def _plain(intervals: Intervals) -> dict[str, dict[str, float | None]]:
    return {
        name: {"value": one.value, "low": one.low, "high": one.high}
        for name, one in intervals.items()
    }


def _intervals(data: Mapping[str, Mapping[str, float | None]]) -> dict[str, Interval]:
    return {name: Interval(one["value"], one["low"], one["high"]) for name, one in data.items()}


def ordered_series(report: ExperimentReport) -> list[str]:
    """Return the series whose conditions have an order, each once."""
    ordered = (one.series for one in report.conditions.values() if one.position is not None)
    return list(dict.fromkeys(ordered))


def points_of(report: ExperimentReport, series: str) -> Sequence[tuple[float, ConditionReport]]:
    """Return the conditions of a series that have a position, each with it."""
    return [
        (one.position, one)
        for one in report.conditions.values()
        if one.series == series and one.position is not None
    ]
