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


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """Return the dtype autocast gives matrix products on a device, None where it is off."""
    if torch.is_autocast_enabled(device.type):
        return torch.get_autocast_dtype(device.type)
    return None
