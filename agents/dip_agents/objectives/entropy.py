"""An entropy bonus whose weight follows the entropy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dip_agents.objectives.choices import LARGEST_ENTROPY_WEIGHT


@dataclass
class EntropyTarget:
    """Raises the weight of the entropy bonus while the entropy is low, and lowers it after.

    After each step with entropy H the coefficient moves by ``+delta`` where H < target and by
    ``-delta`` otherwise, within [0, 0.005]; it is applied only while the last H was below the
    target. Source: Skywork-OR1 (2505.22312) and its scripts: target 0.2, delta 0.0001. There H is
    of the same step, from a forward pass of its own; here it is of the step before.

    Args:
        target: entropy to keep, in nats per token, or None for a constant weight.
        delta: change per step.
        coefficient: the weight now; where it starts.
        entropy: of the last step, None before the first.
    """

    target: float | None
    delta: float = 0.0001
    coefficient: float = 0.0
    entropy: float | None = None

    @property
    def weight(self) -> float:
        """The weight of the entropy bonus in the next update."""
        if self.target is None:
            return self.coefficient
        below = self.entropy is not None and self.entropy < self.target
        return self.coefficient if below else 0.0

    def observe(self, entropy: float) -> None:
        """Update the weight by a step's mean entropy in nats per token."""
        self.entropy = entropy
        if self.target is None:
            return
        moved = self.coefficient + (self.delta if entropy < self.target else -self.delta)
        self.coefficient = min(max(moved, 0.0), LARGEST_ENTROPY_WEIGHT)

    def state(self) -> dict[str, float | None]:
        """Return what a checkpoint must keep."""
        return {"coefficient": self.coefficient, "entropy": self.entropy}

    def restore(self, state: Mapping[str, float | None]) -> None:
        """Take back what ``state`` returned."""
        self.coefficient = state["coefficient"] or 0.0
        self.entropy = state["entropy"]
