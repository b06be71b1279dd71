"""The optimizer of supervised fine-tuning: AdamW, or Muon for the matrices inside layers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from dip_agents.runtime.optimizers import make_adamw

OUTSIDE = ("embed", "lm_head", "dense_heads")
"""Names of matrices outside of the layers: they stay with AdamW."""


class SFTOptimizer:
    """AdamW, optionally with Muon for the matrices inside layers.

    Muon's orthogonal updates move all directions of a matrix alike, which trains small
    transformers from random weights in fewer steps. The rate is scaled so that one fits both.

    Source: Jordan et al. 2024 (Muon), rate as in Liu et al. 2025 (arXiv 2502.16982); both as
    ``torch.optim.Muon`` implements them.

    Args:
        named: parameters by name.
        learning_rate: of both.
        weight_decay: of both.
        muon: use it for matrices; embeddings, norms and biases stay with AdamW.
    """

    def __init__(
        self,
        named: Iterable[tuple[str, nn.Parameter]],
        learning_rate: float,
        weight_decay: float,
        *,
        muon: bool = False,
    ) -> None:
        """Assign every parameter to its optimizer."""
        matrices: list[nn.Parameter] = []
        rest: list[nn.Parameter] = []
        for name, parameter in named:
            inside = muon and parameter.ndim == 2 and not any(word in name for word in OUTSIDE)
            (matrices if inside else rest).append(parameter)
        self.parts: list[torch.optim.Optimizer] = [make_adamw(rest, learning_rate, weight_decay)]
        if matrices:
            self.parts.append(
                torch.optim.Muon(
                    matrices,
                    lr=learning_rate,
                    weight_decay=weight_decay,
                    adjust_lr_fn="match_rms_adamw",
                )
            )

    def set_learning_rate(self, rate: float) -> None:
        """Use another rate from now on."""
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = rate

    def step(self) -> None:
        """Update the weights."""
        for part in self.parts:
            part.step()

    def zero_grad(self) -> None:
        """Clear the gradients."""
        for part in self.parts:
            part.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint must hold."""
        return {str(i): part.state_dict() for i, part in enumerate(self.parts)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        for i, part in enumerate(self.parts):
            part.load_state_dict(state[str(i)])
