"""The settings of an episode and of its reward; no results."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from dip_env.checks import check_flag, check_integer, check_number
from dip_env.errors import ConfigError

CoordinateFormat = Literal["pixel", "norm1000"]
AccuracyKind = Literal["f_beta", "weighted_sum"]
AmbiguityKind = Literal["siblings", "annotation"]
IouRule = str
"""One matching threshold, such as "0.5", or "0.5:0.95" for the mean over .5:.05:.95."""

MAX_SIDE = 16384
"""Longest side of an overview or a crop, in pixels."""
MAX_COUNT = 1_000_000
"""Most looks, regions, turns or boxes that rules may allow."""
_DECIMAL = re.compile(r"\d+\.?\d*|\.\d+", re.ASCII)


def iou_thresholds(rule: IouRule) -> tuple[float, ...]:
    """Return the matching thresholds of an IoU rule; the first one is that of the look term.

    Args:
        rule: such as "0.5", or "0.5:0.95".

    Returns:
        Ascending numbers in (0, 1].

    Raises:
        ConfigError: for any other rule.
    """
    if rule == "0.5:0.95":
        return tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
    threshold = float(rule) if isinstance(rule, str) and _DECIMAL.fullmatch(rule) else 0.0
    if not 0 < threshold <= 1:
        raise ConfigError(
            f"iou: expected a threshold in (0, 1] as text, such as '0.5', or '0.5:0.95', "
            f"got {rule!r}"
        )
    return (threshold,)


@dataclass(frozen=True)
class RewardConfig:
    """How the three reward terms are computed and weighed (source: ours, after DIP-R1)."""

    format_weight: float = 0.1
    """Weight of the format term."""
    look_weight: float = 0.1
    """Weight of the look term. It cannot be earned where no look may be taken. Raise ``look_floor``
    with it: siblings that agree to differ could earn more than that costs them in accuracy, see
    ``dip audit``. With f_beta, 0.1 beside 0.8 holds, and 0.3 beside 0.6 with a floor of 1."""
    accuracy_weight: float = 0.8
    """Weight of the accuracy term."""
    accuracy: AccuracyKind = "f_beta"
    """``f_beta``, or ``weighted_sum`` (one confident box earns at least the precision weight)."""
    beta: float = 1.0
    """Recall counts beta times as much as precision in ``f_beta``, from 0.001 to 1000 times."""
    precision_weight: float = 0.5
    """Share of precision in ``weighted_sum``; recall has the rest."""
    iou: IouRule = "0.5"
    """Matching threshold, such as 0.5 or 0.75, or 0.5:0.95 for the mean over .5:.05:.95."""
    graded_format: bool = False
    """Credit a third for each of think, look and answer instead of all or nothing; halves for think
    and answer where no look may be taken."""
    ambiguity: AmbiguityKind = "siblings"
    """What the look term takes for ambiguous: what ``siblings`` disagree on, in groups of three or
    more, or what is small or hidden by the ``annotation``, in groups of any size."""
    look_floor: float = 0.3
    """Share of the people, one person at least, that must be fully ambiguous for looks to earn the
    whole term: little disagreement earns little, even to those who look there."""
    invented_weight: float = 0.0
    """Weight in [0, 1], beside people, of boxes that two siblings or more invent, in groups of four
    or more. They are mostly noise."""

    def __post_init__(self) -> None:
        """Check every value once.

        Raises:
            ConfigError: for a value out of range; the message names the field.
        """
        for name, low, high in (
            ("format_weight", 0, 1e6),
            ("look_weight", 0, 1e6),
            ("accuracy_weight", 0, 1e6),
            ("beta", 1e-3, 1e3),
            ("precision_weight", 0, 1),
            ("look_floor", 0, 1),
            ("invented_weight", 0, 1),
        ):
            _keep(self, name, check_number(name, getattr(self, name), low, high))
        _keep(self, "graded_format", check_flag("graded_format", self.graded_format))
        if self.format_weight + self.look_weight + self.accuracy_weight == 0:
            raise ConfigError("reward weights: expected at least one above 0, got all 0")
        if self.accuracy not in ("f_beta", "weighted_sum"):
            raise ConfigError(f"accuracy: expected f_beta or weighted_sum, got {self.accuracy!r}")
        iou_thresholds(self.iou)
        if self.ambiguity not in ("siblings", "annotation"):
            raise ConfigError(f"ambiguity: expected siblings or annotation, got {self.ambiguity!r}")

    @property
    def weights(self) -> dict[str, float]:
        """The weight of every term by its name."""
        return {
            "format": self.format_weight,
            "look": self.look_weight,
            "accuracy": self.accuracy_weight,
        }


@dataclass(frozen=True)
class EpisodeConfig:
    """The rules of one episode: image sizes, budgets and the reward."""

    view_size: int = 448
    """Longest side of the overview in pixels, before rounding to ``size_multiple``."""
    crop_size: int = 224
    """Longest side of a crop in pixels, before rounding to ``size_multiple``."""
    magnification: float = 2.0
    """Crop pixels per view pixel of the oracle's and of random tiles, and the least of the oracle's
    regions. A policy may look at any region: nothing else in an episode depends on it."""
    size_multiple: int = 32
    """Sides of overview and crops are multiples of this (28 for Qwen2.5-VL, 32 for Qwen3-VL)."""
    coordinate_format: CoordinateFormat = "pixel"
    """What printed coordinates mean: view pixels, or thousandths of the view."""
    max_looks: int = 2
    """Look segments an episode may hold; with 0 it thinks, then answers, and no look is
    credited."""
    max_regions: int = 3
    """Regions one look may hold."""
    max_turns: int = 4
    """Actions after which an episode without an answer is truncated."""
    max_boxes: int = 1000
    """Boxes one answer may hold."""
    minimal_prompt: bool = False
    """Prompt with only what changes, for models trained on demonstrations of the grammar."""
    reward: RewardConfig = field(default_factory=RewardConfig)
    """How the episode is rewarded."""

    def __post_init__(self) -> None:
        """Check every value once.

        Raises:
            ConfigError: for a value out of range; the message names the field.
        """
        multiple = check_integer("size_multiple", self.size_multiple, 1, MAX_SIDE)
        _keep(self, "size_multiple", multiple)
        for name, low, high in (
            ("view_size", multiple, MAX_SIDE),
            ("crop_size", multiple, MAX_SIDE),
            ("max_looks", 0, MAX_COUNT),
            ("max_regions", 1, MAX_COUNT),
            ("max_turns", 1, MAX_COUNT),
            ("max_boxes", 1, MAX_COUNT),
        ):
            _keep(self, name, check_integer(name, getattr(self, name), low, high))
        _keep(self, "magnification", check_number("magnification", self.magnification, 1, 100))
        _keep(self, "minimal_prompt", check_flag("minimal_prompt", self.minimal_prompt))
        if not isinstance(self.reward, RewardConfig):
            raise ConfigError(f"reward: expected a RewardConfig, got {self.reward!r}")
        if self.coordinate_format not in ("pixel", "norm1000"):
            raise ConfigError(
                f"coordinate_format: expected pixel or norm1000, got {self.coordinate_format!r}"
            )

    @classmethod
    def from_keywords(cls, keywords: Mapping[str, Any]) -> EpisodeConfig:
        """Build a config from flat keywords, as ``gym.make`` takes them.

        Args:
            keywords: field names of this class and of ``RewardConfig`` with plain values.

        Returns:
            The checked config.

        Raises:
            ConfigError: for a name that neither class has, or a value out of range.
        """
        own = {f.name for f in fields(cls)} - {"reward"}
        reward = {f.name for f in fields(RewardConfig)}
        unknown = sorted(set(keywords) - own - reward)
        if unknown:
            raise ConfigError(
                f"unknown keyword {unknown[0]!r}; expected one of {sorted(own | reward)}"
            )
        return cls(
            **{k: v for k, v in keywords.items() if k in own},
            reward=RewardConfig(**{k: v for k, v in keywords.items() if k in reward}),
        )


def _keep(config: Any, name: str, value: Any) -> None:
    """Store a checked value, which is the plain one of Python, in a frozen dataclass."""
    object.__setattr__(config, name, value)
