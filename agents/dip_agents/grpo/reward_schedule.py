"""Schedules of reward settings over the steps of a run.

An entry names a number of ``RewardConfig`` and gives it values at steps, ``look_weight:1=0.1,
200=0.0``: before the first step it holds the first value, after the last the last, and between
them it follows straight lines. Nothing is remembered from step to step, so a resume agrees.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from dip_env.config import EpisodeConfig
from dip_env.errors import ConfigError

SCHEDULED = (
    *("format_weight", "look_weight", "accuracy_weight", "beta", "precision_weight", "iou"),
    *("look_floor", "invented_weight"),
)
"""What of ``RewardConfig`` may change over a run."""


@dataclass(frozen=True)
class Ramp:
    """One number over the steps.

    Args:
        name: of the field.
        points: (step, value), steps ascending.
    """

    name: str
    points: tuple[tuple[int, float], ...]

    def at(self, step: int) -> float:
        """Return the value at a step, piecewise linear and constant outside the points."""
        before, value = self.points[0]
        for after, target in self.points:
            if step < after:
                share = 0.0 if step <= before else (step - before) / (after - before)
                return value + share * (target - value)
            before, value = after, target
        return value


def parse_schedule(entries: Sequence[str]) -> tuple[Ramp, ...]:
    """Read entries such as ``iou:1=0.5,300=0.75``.

    Args:
        entries: one per field.

    Returns:
        One ramp per entry, in order.

    Raises:
        ConfigError: for another form, an unknown or repeated field, or steps out of order.
    """
    ramps = [_parse(entry) for entry in entries]
    names = [ramp.name for ramp in ramps]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"reward_schedule: expected one entry for {name!r}, got several")
    return tuple(ramps)


def rules_at(rules: EpisodeConfig, schedule: Sequence[str], step: int) -> EpisodeConfig:
    """Return the rules of one step (source: ours).

    Args:
        rules: what holds for everything that is not scheduled.
        schedule: entries, see ``parse_schedule``.
        step: of the trainer, from 1.

    Returns:
        The rules; ``rules`` itself without a schedule.

    Raises:
        ConfigError: for a bad entry, or a value that ``RewardConfig`` refuses.
    """
    values = {ramp.name: ramp.at(step) for ramp in parse_schedule(schedule)}
    if not values:
        return rules
    changes = {
        # Rounded, since a threshold is text and should not show rounding errors.
        name: f"{round(value, 6):g}" if name == "iou" else value
        for name, value in values.items()
    }
    try:
        return replace(rules, reward=replace(rules.reward, **changes))  # type: ignore[arg-type]
    except ConfigError as error:
        raise ConfigError(f"reward_schedule: step {step}: {error}") from error


def check_schedule(rules: EpisodeConfig, schedule: Sequence[str]) -> None:
    """Check before the run that every step has a valid reward.

    Every field's range is an interval, so values between two good points are good.

    Args:
        rules: of the run.
        schedule: entries.

    Raises:
        ConfigError: see ``rules_at``.
    """
    for step in sorted({step for ramp in parse_schedule(schedule) for step, _ in ramp.points}):
        rules_at(rules, schedule, step)


def _parse(entry: str) -> Ramp:
    name, colon, text = entry.partition(":")
    if not colon or name not in SCHEDULED:
        raise ConfigError(
            f"reward_schedule: expected <name>:<step>=<value>,... with a name of {SCHEDULED}, "
            f"got {entry!r}"
        )
    points = []
    for pair in text.split(","):
        step, _, value = pair.partition("=")
        try:
            points.append((int(step), float(value)))
        except ValueError:
            raise ConfigError(
                f"reward_schedule: expected <step>=<value>, got {pair!r} in {entry!r}"
            ) from None
    steps = [step for step, _ in points]
    if steps[0] < 1 or steps != sorted(set(steps)):
        raise ConfigError(f"reward_schedule: expected ascending steps from 1, got {entry!r}")
    if not all(math.isfinite(value) for _, value in points):
        raise ConfigError(f"reward_schedule: expected finite values, got {entry!r}")
    return Ramp(name, tuple(points))
