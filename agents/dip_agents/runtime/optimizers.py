"""The optimizer that all trainers share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import nn


def make_adamw(
    parameters: Iterable[nn.Parameter], learning_rate: float, weight_decay: float
) -> torch.optim.AdamW:
    """Return AdamW with the betas of language models, (0.9, 0.95).

    Args:
        parameters: what learns.
        learning_rate: at the start.
        weight_decay: decoupled.
    """
    import torch

    return torch.optim.AdamW(
        parameters, lr=learning_rate, betas=(0.9, 0.95), weight_decay=weight_decay, fused=True
    )
