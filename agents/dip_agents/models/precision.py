"""The precision of matrix products."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch


def autocast_context(
    dtype: torch.dtype | None, device: torch.device
) -> AbstractContextManager[Any]:
    """Return the autocast context a forward pass runs in.

    Args:
        dtype: of matrix products, or None for the weights' own.
        device: where the weights are.
    """
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)
