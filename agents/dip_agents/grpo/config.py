"""The settings of a GRPO run."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from dip_agents.grpo.branches import GroupPlan
from dip_agents.grpo.reward_schedule import parse_schedule
from dip_agents.objectives.choices import (
    CLIPS,
    LARGEST_ENTROPY_WEIGHT,
    UNBRANCHED,
    AdvantageKind,
    AggregationKind,
    Clips,
    KlKind,
    LossKind,
)
from dip_agents.runtime.schedules import warmup_constant, warmup_cosine
from dip_env.errors import ConfigError

LookCredit = Literal["episode", "causal", "regions"]
LearningRateSchedule = Literal["constant", "cosine"]
ZeroVarianceGroups = Literal["drop", "resample"]


@dataclass(frozen=True)
class GRPOConfig:
    """How a policy learns from groups of rollouts."""

    steps: int = 200
    """Batches of rollouts to learn from; each gives ``updates_per_batch`` optimizer steps."""
    scenes_per_step: int = 8
    """P, scenes per step."""
    group_size: int = 8
    """G, rollouts of each scene."""
    answers_per_look: int = 1
    """K, answers that follow each look and tell what it is worth; a divisor of ``group_size``. At
    the same group size there are K times fewer looks to compare, so raise it with K; four looks or
    more are advised, two are needed. See ``branch_advantages``."""
    blank_answers: int = 0
    """Of these, how many see blank crops: a look is then worth what its crops add to accuracy."""
    learning_rate: float = 1e-5
    """Peak learning rate; 1e-5 suits LoRA, 1e-6 full fine-tuning of billions of parameters."""
    warmup_steps: int = 10
    """Steps of linear warm-up from 0."""
    lr_schedule: LearningRateSchedule = "constant"
    """After the warm-up: stay, or follow a cosine from the peak that would reach 0 one step after
    the last, which therefore still learns."""
    weight_decay: float = 0.0
    """Weight decay of AdamW."""
    max_grad_norm: float = 1.0
    """Gradients with a larger norm are scaled down to it."""
    updates_per_batch: int = 1
    """Updates on each batch of rollouts, each over the whole batch."""
    micro_batch_tokens: int | None = None
    """Tokens that go through the model at once, a prompt shared by several rollouts counted once;
    lower it when memory runs out. By default 2,048 on a CPU and 16,384 on a GPU."""
    micro_batch_size: int | None = None
    """Rollouts that go through the model at once, if that is the tighter limit."""
    advantage: AdvantageKind = "batch_std"
    """What a reward is compared with, see ``group_advantages``."""
    turn_weight: float = 1.0
    """Weight of the turns' part of the advantage in gigpo, see ``turn_advantages``."""
    turn_discount: float = 0.95
    """Discount of a reward per turn in gigpo; below 1 it counts against looking."""
    look_credit: LookCredit = "episode"
    """Whether the look term is credited to all turns, only to those that could still look, or in
    these to each region by what it adds to the term; see ``compute_advantages``."""
    region_weight: float = 1.0
    """Weight of the regions' advantages beside those of other tokens, with look_credit regions."""
    zero_variance_groups: ZeroVarianceGroups = "drop"
    """Groups of equal rewards have no advantage: leave them out, or collect further scenes."""
    max_resamples: int = 3
    """Rounds of further scenes per step at most, each of ``scenes_per_step``, for resample."""
    aggregation: AggregationKind = "token_mean"
    """What counts the same in the loss: tokens, or rollouts; see ``rollout_weights``."""
    constant_length: int = 1024
    """Tokens that the constant_length aggregation divides by."""
    loss: LossKind = "clipped"
    """Policy-gradient loss, see ``surrogates.py``."""
    clip_low: float | None = None
    """How far the ratio may fall below 1 before its gradient is cut (PPO); by default as in the
    source of the loss, ``CLIPS``: 0.2 for clipped."""
    clip_high: float | None = None
    """How far the ratio may rise above 1, by default 0.28 for clipped; higher than below keeps
    rare tokens alive (DAPO)."""
    dual_clip: float | None = None
    """Ratio above which a bad token pushes no harder, such as 3; for the clipped loss."""
    importance_cap: float | None = None
    """Largest weight that corrects a token for a sampler that is another engine, such as 2."""
    kl_weight: float = 0.0
    """Weight of the KL to the reference policy; needs one when above 0."""
    kl_kind: KlKind = "k2"
    """Estimator of that KL, see ``kl_to_reference``."""
    entropy_weight: float = 0.0
    """Weight of an entropy bonus; with ``entropy_target`` the one to start from."""
    entropy_target: float | None = None
    """Entropy in nats per token to keep by moving that weight, such as 0.2 (Skywork-OR1)."""
    entropy_delta: float = 0.0001
    """How much that weight moves per step."""
    reward_schedule: tuple[str, ...] = ()
    """Numbers of the reward over the steps, such as look_weight:1=0.1,200=0.0 iou:1=0.5,300=0.75,
    with straight lines between."""
    temperature: float = 1.0
    """Temperature of sampling, and therefore of the logprobs here."""
    mask_truncated: bool = True
    """Leave rollouts that ran out of tokens out of the loss; their rewards still count."""
    seed: int = 0
    """Seed of the run."""
    print_interval: int = 1
    """Steps between printed lines; 0 for none."""
    completions_interval: int = 10
    """Steps between completions tables; 0 for none."""
    eval_interval: int = 0
    """Steps between evaluations; 0 for none."""
    checkpoint_interval: int = 50
    """Steps between checkpoints; the last step always gets one."""
    keep_checkpoints: int = 3
    """How many checkpoints stay on disk."""

    def __post_init__(self) -> None:
        """Check every value once.

        Raises:
            ConfigError: for a value out of range; the message names the field.
        """
        for name, low in _LOWEST.items():
            if getattr(self, name) < low:
                raise ConfigError(f"{name}: expected at least {low}, got {getattr(self, name)}")
        for names, holds, expected in _RANGES:
            for name in names:
                if not holds(getattr(self, name)):
                    raise ConfigError(f"{name}: expected {expected}, got {getattr(self, name)}")
        for name, kinds in _CHOICES.items():
            if getattr(self, name) not in get_args(kinds):
                raise ConfigError(
                    f"{name}: expected one of {get_args(kinds)}, got {getattr(self, name)!r}"
                )
        self._check_combinations()

    def _check_combinations(self) -> None:
        """Check what one field demands of another."""
        if self.dual_clip is not None and not (self.dual_clip > 1 and self.loss == "clipped"):
            raise ConfigError(
                f"dual_clip: expected above 1 and with loss 'clipped', got {self.dual_clip} "
                f"with {self.loss!r}"
            )
        if self.entropy_target is not None and self.entropy_weight > LARGEST_ENTROPY_WEIGHT:
            raise ConfigError(
                f"entropy_weight: expected at most {LARGEST_ENTROPY_WEIGHT} with an "
                f"entropy_target, got {self.entropy_weight}"
            )
        self.group_plan  # noqa: B018  raises for numbers that do not go together
        if self.answers_per_look > 1 and self.advantage in UNBRANCHED:
            raise ConfigError(
                f"answers_per_look: expected 1 with advantage {self.advantage!r}, "
                f"got {self.answers_per_look}"
            )
        parse_schedule(self.reward_schedule)

    @property
    def group_plan(self) -> GroupPlan:
        """Which members of a group share a look."""
        return GroupPlan(self.group_size, self.answers_per_look, self.blank_answers)

    @property
    def clips(self) -> Clips:
        """The clips of the loss: as set, or as in its source."""
        source = CLIPS[self.loss]
        return Clips(
            source.low if self.clip_low is None else self.clip_low,
            source.high if self.clip_high is None else self.clip_high,
            self.dual_clip,
        )

    @property
    def changeable(self) -> frozenset[str]:
        """Names of the fields that a resumed run may set anew.

        None of them moves what is learned, except that another micro-batching adds up the same
        numbers in another order, which is the price of fitting into less memory.
        """
        names = {
            "print_interval",
            "completions_interval",
            "checkpoint_interval",
            "keep_checkpoints",
            "micro_batch_tokens",
            "micro_batch_size",
        }
        # A longer run is the same run so far, unless the rate looks ahead to the last step.
        return frozenset(names | ({"steps"} if self.lr_schedule == "constant" else set()))

    def learning_rate_at(self, step: int) -> float:
        """Return the learning rate of a step (from 1); the whole state of the schedule."""
        if self.lr_schedule == "constant":
            return warmup_constant(step, self.learning_rate, self.warmup_steps)
        return warmup_cosine(step, self.learning_rate, self.warmup_steps, self.steps)


_LOWEST = {
    "steps": 1,
    "scenes_per_step": 1,
    "group_size": 2,
    "warmup_steps": 0,
    "updates_per_batch": 1,
    "max_resamples": 1,
    "constant_length": 1,
    "print_interval": 0,
    "completions_interval": 0,
    "eval_interval": 0,
    "checkpoint_interval": 1,
    "keep_checkpoints": 1,
}
_RANGES: tuple[tuple[tuple[str, ...], Callable[[Any], bool], str], ...] = (
    (
        ("micro_batch_tokens", "micro_batch_size"),
        lambda value: value is None or value >= 1,
        "at least 1 or None",
    ),
    (
        ("learning_rate", "max_grad_norm", "temperature", "entropy_delta"),
        lambda value: 0 < value < math.inf,
        "above 0",
    ),
    (
        ("importance_cap", "entropy_target"),
        lambda value: value is None or 0 < value < math.inf,
        "above 0 or None",
    ),
    (
        ("weight_decay", "kl_weight", "entropy_weight", "turn_weight", "region_weight"),
        lambda value: 0 <= value < math.inf,
        "at least 0",
    ),
    (("clip_low",), lambda value: value is None or 0 <= value < 1, "a number in [0, 1)"),
    (("clip_high",), lambda value: value is None or 0 <= value < math.inf, "at least 0"),
    (("turn_discount",), lambda value: 0 <= value <= 1, "0 to 1"),
)
"""Fields, whether a value is in their range, and that range as text."""
_CHOICES = {
    "advantage": AdvantageKind,
    "aggregation": AggregationKind,
    "loss": LossKind,
    "zero_variance_groups": ZeroVarianceGroups,
    "look_credit": LookCredit,
    "kl_kind": KlKind,
    "lr_schedule": LearningRateSchedule,
}
