"""Seeds derived from their use."""

from __future__ import annotations

import hashlib


def derived_seed(*parts: int | str) -> int:
    """Return a seed for one use, such as one rollout's one turn.

    Args:
        parts: its use: run seed, step, index in the batch, member, turn.

    Returns:
        An integer in [0, 2**63); another one for any other parts.
    """
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) >> 1
