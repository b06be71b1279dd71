"""The choices of an objective by name, for settings and help; loads no torch."""

from __future__ import annotations

from typing import Literal

AdvantageKind = Literal["grpo", "dr_grpo", "batch_std", "rloo", "gdpo", "gigpo"]
AggregationKind = Literal["token_mean", "sequence_mean", "constant_length"]
KlKind = Literal["k2", "k3"]
LossKind = Literal["clipped", "gspo", "cispo", "dppo_tv"]

CLIPS: dict[LossKind, tuple[float, float]] = {
    "clipped": (0.2, 0.28),
    "gspo": (3e-4, 4e-4),
    "cispo": (0.2, 4.0),  # has no lower bound
    "dppo_tv": (0.2, 0.2),
}
"""The clips of each loss in its source, low and high."""

LARGEST_ENTROPY_WEIGHT = 0.005
"""The weight of the entropy bonus grows no further: a target that cannot be reached must not become
the task."""
