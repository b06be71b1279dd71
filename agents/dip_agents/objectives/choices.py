"""The choices of an objective by name, for settings and help; loads no torch."""

from __future__ import annotations

from typing import Literal, NamedTuple

AdvantageKind = Literal["grpo", "dr_grpo", "batch_std", "rloo", "gdpo", "gigpo"]
AggregationKind = Literal["token_mean", "sequence_mean", "constant_length"]
KlKind = Literal["k2", "k3"]
LossKind = Literal["clipped", "gspo", "cispo", "dppo_tv"]
UNBRANCHED = ("gdpo", "gigpo")
"""Advantages that compare terms or turns by themselves, and cannot compare branches."""


class Clips(NamedTuple):
    """The bounds of a policy-gradient loss.

    Args:
        low: how far the ratio (for ``dppo_tv`` the probability) may fall.
        high: how far it may rise.
        dual: the third bound of ``clipped``, above 1, or None.
    """

    low: float
    high: float
    dual: float | None = None


CLIPS: dict[str, Clips] = {
    "clipped": Clips(0.2, 0.28),
    "gspo": Clips(3e-4, 4e-4),
    "cispo": Clips(0.2, 4.0),  # has no lower bound
    "dppo_tv": Clips(0.2, 0.2),
}
"""The clips of each loss in its source; ``register_loss`` adds those of further losses."""

LARGEST_ENTROPY_WEIGHT = 0.005
"""Upper bound of the weight of the entropy bonus: a target that cannot be reached must not become
the task."""
