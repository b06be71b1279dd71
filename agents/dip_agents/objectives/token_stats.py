"""Means, extremes and sums over active tokens that add up exactly over micro-batches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class TokenStats:
    """Sums over active tokens and extremes, kept apart so that micro-batches reduce exactly.

    Args:
        tokens: how many active tokens the sums cover, a scalar tensor.
        sums: name -> scalar tensor; the mean is the sum over ``tokens``.
        maxima: name -> scalar tensor.
        minima: name -> scalar tensor.
    """

    tokens: Tensor
    sums: dict[str, Tensor] = field(default_factory=dict)
    maxima: dict[str, Tensor] = field(default_factory=dict)
    minima: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        mask: Tensor,
        means: Mapping[str, Tensor],
        maxima: Mapping[str, Tensor] | None = None,
        minima: Mapping[str, Tensor] | None = None,
    ) -> TokenStats:
        """Reduce per-token values.

        Args:
            mask: bool (B, T), the active tokens.
            means: name -> (B, T) values to be averaged over tokens.
            maxima: name -> (B, T) values of which the largest counts.
            minima: name -> (B, T) values of which the smallest counts.

        Returns:
            The statistics, detached; sums are float64 so that their order does not matter.
        """

        def filled(values: Tensor, outside: float) -> Tensor:
            return torch.where(mask, values.detach().double(), outside)

        return cls(
            mask.sum(),
            {name: filled(values, 0.0).sum() for name, values in means.items()},
            {name: filled(values, -torch.inf).max() for name, values in (maxima or {}).items()},
            {name: filled(values, torch.inf).min() for name, values in (minima or {}).items()},
        )

    def merged(self, other: TokenStats) -> TokenStats:
        """Add another micro-batch; both must hold the same names."""
        return TokenStats(
            self.tokens + other.tokens,
            {name: total + other.sums[name] for name, total in self.sums.items()},
            {name: torch.maximum(peak, other.maxima[name]) for name, peak in self.maxima.items()},
            {name: torch.minimum(low, other.minima[name]) for name, low in self.minima.items()},
        )

    def cpu(self) -> TokenStats:
        """Return the same on the CPU, to be sent to another process."""
        return TokenStats(
            self.tokens.cpu(),
            *(
                {name: value.cpu() for name, value in part.items()}
                for part in (self.sums, self.maxima, self.minima)
            ),
        )

    def metrics(self) -> dict[str, float]:
        """Return token means and extremes as plain numbers; none where no token was active."""
        tokens = int(self.tokens)
        if not tokens:
            return {}
        means = {name: float(total) / tokens for name, total in self.sums.items()}
        return means | {name: float(value) for name, value in (self.maxima | self.minima).items()}


def merge(parts: list[TokenStats]) -> TokenStats:
    """Add up the statistics of all micro-batches, at least one."""
    total = parts[0]
    for part in parts[1:]:
        total = total.merged(part)
    return total
