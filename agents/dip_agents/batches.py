"""How many rollouts go through the model at once; knows lengths only."""

from __future__ import annotations

from collections.abc import Sequence

from dip_agents.token_buffer import TokenBuffer


def micro_batches(
    buffers: Sequence[TokenBuffer], token_budget: int | None = None, size: int | None = None
) -> list[list[int]]:
    """Split buffers into micro-batches of similar length.

    Args:
        buffers: what to train on.
        token_budget: padded tokens a micro-batch may hold; a longer buffer gets its own.
        size: buffers a micro-batch may hold.

    Returns:
        Row numbers per micro-batch; every row appears once. Longest first, so that running out
        of memory shows at once.

    Raises:
        ValueError: for a limit under 1.
    """
    for name, limit in (("token_budget", token_budget), ("size", size)):
        if limit is not None and limit < 1:
            raise ValueError(f"{name}: expected at least 1, got {limit}")
    order = sorted(range(len(buffers)), key=lambda row: (-len(buffers[row]), row))
    batches: list[list[int]] = []
    for row in order:
        last = batches[-1] if batches else None
        if last is not None:
            padded = len(buffers[last[0]]) * (len(last) + 1)
            if (size is None or len(last) < size) and (
                token_budget is None or padded <= token_budget
            ):
                last.append(row)
                continue
        batches.append([row])
    return batches
