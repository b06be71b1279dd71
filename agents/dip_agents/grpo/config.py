"""The choices of a GRPO run; no results live here."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from dip_agents.grpo.reward_schedule import parse_schedule
from dip_agents.objectives.choices import (
    CLIPS,
    LARGEST_ENTROPY_WEIGHT,
    AdvantageKind,
    AggregationKind,
    KlKind,
    LossKind,
)
from dip_env.errors import ConfigError

LookCredit = Literal["episode", "causal"]
LearningRateSchedule = Literal["constant", "cosine"]
ZeroVarianceGroups = Literal["drop", "resample"]


@dataclass(frozen=True)
class GRPOConfig:
    """How a policy learns from groups of rollouts."""

    steps: int = 200
    """Batches of rollouts to learn from; each gives ``updates_per_batch`` optimizer steps."""
    scenes_per_step: int = 8
    """P, scenes played per step."""
    group_size: int = 8
    """G, rollouts of each scene."""
    learning_rate: float = 1e-5
    """Peak learning rate; 1e-5 suits LoRA, 1e-6 full fine-tuning of billions of parameters."""
    warmup_steps: int = 10
    """Steps of linear warm-up from 0."""
    lr_schedule: LearningRateSchedule = "constant"
    """After the warm-up: stay, or follow a cosine from the peak that would reach 0 one step after
    the last, which therefore still learns."""
    weight_decay: float = 0.0
    """Of AdamW."""
    max_grad_norm: float = 1.0
    """Gradients with a larger norm are scaled down to it."""
    updates_per_batch: int = 1
    """Updates on each batch of rollouts, each over the whole batch."""
    micro_batch_tokens: int | None = 16384
    """Tokens that go through the model at once, a prompt shared by several rollouts counted once;
    lower it when memory runs out."""
    micro_batch_size: int | None = None
    """Rollouts that go through the model at once, if that is the tighter limit."""
    advantage: AdvantageKind = "batch_std"
    """What a reward is compared with, see ``group_advantages``."""
    turn_weight: float = 1.0
    """Weight of the turns' part of the advantage in gigpo, see ``turn_advantages``."""
    turn_discount: float = 0.95
    """What a reward is worth one turn earlier in gigpo; below 1 it counts against looking."""
    look_credit: LookCredit = "episode"
    """Whether the look term is paid to all turns, or only to those that could still look."""
    zero_variance_groups: ZeroVarianceGroups = "drop"
    """Groups of equal rewards teach nothing: leave them out, or play further scenes for them."""
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
    """Of sampling, and therefore of the logprobs here."""
    mask_truncated: bool = True
    """Leave rollouts that ran out of tokens out of the loss; their rewards still count."""
    seed: int = 0
    """Of the run."""
    print_interval: int = 1
    """Steps between printed lines where there is no terminal; 0 for none."""
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
        lowest = {
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
        for name, low in lowest.items():
            if getattr(self, name) < low:
                raise ConfigError(f"{name}: expected at least {low}, got {getattr(self, name)}")
        for name in ("micro_batch_tokens", "micro_batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name}: expected at least 1 or None, got {value}")
        for name in ("learning_rate", "max_grad_norm", "temperature", "entropy_delta"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"{name}: expected above 0, got {getattr(self, name)}")
        for name in ("importance_cap", "entropy_target"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ConfigError(f"{name}: expected above 0 or None, got {value}")
        for name in ("weight_decay", "kl_weight", "entropy_weight", "turn_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name}: expected at least 0, got {getattr(self, name)}")
        if self.clip_low is not None and not 0 <= self.clip_low < 1:
            raise ConfigError(f"clip_low: expected a number in [0, 1), got {self.clip_low}")
        if self.clip_high is not None and not 0 <= self.clip_high < math.inf:
            raise ConfigError(f"clip_high: expected at least 0, got {self.clip_high}")
        if not 0 <= self.turn_discount <= 1:
            raise ConfigError(f"turn_discount: expected 0 to 1, got {self.turn_discount}")
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
        parse_schedule(self.reward_schedule)
        for name, kinds in (
            ("advantage", AdvantageKind),
            ("aggregation", AggregationKind),
            ("loss", LossKind),
            ("zero_variance_groups", ZeroVarianceGroups),
            ("look_credit", LookCredit),
            ("kl_kind", KlKind),
            ("lr_schedule", LearningRateSchedule),
        ):
            if getattr(self, name) not in get_args(kinds):
                raise ConfigError(
                    f"{name}: expected one of {get_args(kinds)}, got {getattr(self, name)!r}"
                )

    @property
    def clips(self) -> tuple[float, float]:
        """The clips of the loss, low and high: as set, or as in its source."""
        low, high = CLIPS[self.loss]
        return (
            low if self.clip_low is None else self.clip_low,
            high if self.clip_high is None else self.clip_high,
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
        if step <= self.warmup_steps:
            return self.learning_rate * step / self.warmup_steps
        if self.lr_schedule == "constant":
            return self.learning_rate
        done = (step - self.warmup_steps - 1) / max(1, self.steps - self.warmup_steps)
        return self.learning_rate * 0.5 * (1.0 + math.cos(math.pi * done))
