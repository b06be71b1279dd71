"""The settings of supervised fine-tuning, and the schedule of its targets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from dip_env.errors import ConfigError

OptimizerName = Literal["adamw", "muon"]
DemonstratorLook = Literal["ambiguous", "tiles", "random_tiles"]

ENDING = ("steps", "decay_steps", "final_sigma")
"""Settings of the end of a run; until the rate falls they change nothing."""


@dataclass(frozen=True)
class SFTConfig:
    """How long and how fast to learn from demonstrations."""

    steps: int = 1000
    """Optimizer steps."""
    batch_size: int = 32
    """Demonstrations per step."""
    micro_batch_tokens: int | None = None
    """Tokens of demonstrations that go through the model at once; lower it when memory runs out. By
    default 2,048 on a CPU and 16,384 on a GPU."""
    optimizer: OptimizerName = "adamw"
    """``adamw``, or ``muon`` for the matrices of layers, which trains random weights faster."""
    learning_rate: float = 1e-3
    """Highest rate; 1e-5 suits pretrained models."""
    warmup_steps: int = 200
    """Steps in which the rate rises to it."""
    decay_steps: int = 0
    """Last steps, in which the rate falls to 0; until then a resume may change how it ends."""
    weight_decay: float = 0.01
    """Decoupled weight decay."""
    max_grad_norm: float = 1.0
    """Gradient norm above which the gradient is scaled down."""
    coordinate_sigma: float = 0.0
    """Width in integers of smoothed coordinate targets; needs the tiny tokenizer."""
    final_sigma: float | None = None
    """Width it shrinks to while the rate falls, so that samples come close to likely numbers."""
    dense_weight: float = 0.0
    """Weight of the dense auxiliary loss on the image tokens (for models from scratch)."""
    p_no_look: float = 0.0
    """Share of demonstrations whose rules allow no look, to learn to answer without one."""
    p_given_look: float = 0.0
    """Share of demonstrations whose look is given and not learned, at what is ambiguous, to learn
    to read crops without learning where to look."""
    p_blurred_overview: float = 0.0
    """Share of demonstrations with a given look and a blurred overview, where crops alone tell."""
    magnifications: tuple[float, ...] = ()
    """Magnifications of given looks, in turns; by default that of the rules."""
    look: DemonstratorLook = "ambiguous"
    """Where the demonstrator looks: in regions that fit what is ambiguous, in squares of one size
    on a grid (``tiles``), which a small model learns sooner, or in any of these (``random_tiles``),
    to learn to look but not where; given looks are then at what is ambiguous all the same."""
    min_visible_height: float = 0.0
    """The demonstrator leaves out people that were never this many pixels tall in an image."""
    workers: int = 1
    """Processes that draw scenes and play demonstrations; 0 does it in this one."""
    seed: int = 0
    """Seed of the order of demonstrations."""
    checkpoint_interval: int = 500
    """Steps between checkpoints."""

    def __post_init__(self) -> None:
        """Check every value once.

        Raises:
            ConfigError: for a value out of range; the message names the field.
        """
        for name in ("steps", "batch_size", "checkpoint_interval"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if self.micro_batch_tokens is not None and self.micro_batch_tokens < 1:
            raise ConfigError(
                f"micro_batch_tokens: expected at least 1 or None, got {self.micro_batch_tokens}"
            )
        for name in ("warmup_steps", "decay_steps", "weight_decay", "dense_weight", "workers"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name}: expected at least 0, got {getattr(self, name)}")
        for name in ("learning_rate", "max_grad_norm"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name}: expected above 0, got {getattr(self, name)}")
        if self.final_sigma is not None and not 0 <= self.final_sigma <= self.coordinate_sigma:
            raise ConfigError(
                f"final_sigma: expected 0..{self.coordinate_sigma}, got {self.final_sigma}"
            )
        shares = (self.p_no_look, self.p_given_look, self.p_blurred_overview)
        if min(shares) < 0 or sum(shares) > 1:
            raise ConfigError(
                "p_no_look, p_given_look, p_blurred_overview: expected shares >= 0 that are at "
                f"most 1 together, got {', '.join(map(str, shares))}"
            )
        if not all(1 <= value <= 100 for value in self.magnifications):
            raise ConfigError(
                f"magnifications: expected numbers from 1 to 100, got {self.magnifications}"
            )
        if self.p_blurred_overview and not self.min_visible_height > 0:
            raise ConfigError(
                "p_blurred_overview: expected 0 unless min_visible_height is above 0, since the "
                f"demonstrator would answer people it cannot see, got {self.p_blurred_overview}"
            )
        if self.look not in get_args(DemonstratorLook):
            raise ConfigError(
                f"look: expected one of {get_args(DemonstratorLook)}, got {self.look!r}"
            )
        if self.optimizer not in ("adamw", "muon"):
            raise ConfigError(f"optimizer: expected adamw or muon, got {self.optimizer!r}")


def sigma_at(step: int, config: SFTConfig) -> float:
    """Return the width of coordinate targets at a step: constant, then shrinking with the rate.

    Args:
        step: from 1.
        config: gives both widths.

    Returns:
        A number from ``final_sigma`` to ``coordinate_sigma``, in integers.
    """
    if config.final_sigma is None:
        return config.coordinate_sigma
    falling = min(1.0, (config.steps - step) / max(1, config.decay_steps))
    return config.final_sigma + falling * (config.coordinate_sigma - config.final_sigma)
