"""Runs of rows that are worked on at one time, so that several passes find them in the cache."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor


def row_blocks(x: Tensor, numbers: int) -> Iterator[slice]:
    """Yield slices that cover the first axis, in order.

    Args:
        x: (N, ...).
        numbers: of ``x`` that a CPU thread works on at one time; a GPU takes all rows in one go.
    """
    if x.device.type == "cpu":
        step = numbers * torch.get_num_threads() // max(1, x.shape[1:].numel())
    else:
        step = len(x)
    step = max(1, step)
    for start in range(0, len(x), step):
        yield slice(start, min(start + step, len(x)))
