"""Advantages of single turns: siblings are compared at turns before which they saw the same.

An *anchor* names what the policy has been shown before a turn. The first turn on a scene is the
same anchor for every member of the group; a later turn shares its anchor with those siblings only
that were shown exactly the same, such as the same crops.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from dip_agents.objectives.advantages import SAME_REWARD


def next_anchor(before: str, ids: Iterable[int], image_keys: Iterable[bytes]) -> str:
    """Return the anchor of the turn after an observation.

    Args:
        before: anchor of the turn before; "" for the first observation.
        ids: tokens of the observation, without those of the policy.
        image_keys: content hashes of its images.

    Returns:
        A name, equal where everything that has been shown so far is equal.
    """
    seen = hashlib.blake2b(before.encode(), digest_size=12)
    seen.update(np.asarray(list(ids), dtype=np.int64).tobytes())
    for key in image_keys:
        seen.update(len(key).to_bytes(4) + key)
    return seen.hexdigest()


def returns_to_go(rewards: Sequence[float], discount: float) -> list[float]:
    """Return ``G_k = sum_(j >= k) discount^(j - k) r_j`` of every turn k."""
    found: list[float] = []
    total = 0.0
    for reward in reversed(rewards):
        total = reward + discount * total
        found.append(total)
    return found[::-1]


def turn_advantages(
    anchors: Sequence[Sequence[str]],
    turn_rewards: Sequence[Sequence[float]],
    discount: float = 0.95,
    eps: float = 1e-4,
) -> list[list[float]]:
    """Compare every turn with the turns of the group that share its anchor.

    ``A^S = (G - mean_anchor) / (std_anchor + eps)`` with the return to go G of the turn and the
    unbiased deviation (ddof = 1). A turn that shares its anchor with no other gets 0.

    This environment rewards the end of an episode only. Turns that can then be compared are the
    first turns of all members, and later turns after looks that showed the same. With ``discount``
    below 1 a rollout that takes more turns to the same reward has a lower return at its first
    turn, which counts against looking; with 1 it does not.

    Source: GiGPO (2505.10978), the step part, with its mean_std_norm and discount 0.95.

    Args:
        anchors: [member][turn] of one group.
        turn_rewards: [member][turn], what each turn earned.
        discount: of the return per turn, in [0, 1].
        eps: added to the standard deviation, in units of reward.

    Returns:
        [member][turn].

    Raises:
        ValueError: when a member has another number of rewards than of anchors.
    """
    members_at: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
    gains: list[list[float]] = []
    for member, (names, rewards) in enumerate(zip(anchors, turn_rewards, strict=True)):
        if len(names) != len(rewards):
            raise ValueError(
                f"member {member}: expected a reward for each of {len(names)} turns, "
                f"got {len(rewards)}"
            )
        gains.append(returns_to_go(rewards, discount))
        for turn, name in enumerate(names):
            members_at[name].append((member, turn))
    found = [[0.0] * len(names) for names in anchors]
    for turns in members_at.values():
        values = np.array([gains[member][turn] for member, turn in turns])
        if np.ptp(values) <= SAME_REWARD:
            continue
        scaled = (values - values.mean()) / (values.std(ddof=1) + eps)
        for (member, turn), value in zip(turns, scaled, strict=True):
            found[member][turn] = float(value)
    return found


def turn_segments(loss_mask: Sequence[int]) -> list[tuple[int, int]]:
    """Return (start, stop) of every run of ones: the tokens of each turn the policy took."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], np.asarray(loss_mask, np.int8), [0]])))
    return [(int(start), int(stop)) for start, stop in edges.reshape(-1, 2)]


def tokens_of_regions(
    loss_mask: Sequence[int], written: Sequence[Sequence[tuple[int, int]]]
) -> list[slice]:
    """Return where in a rollout the regions of its looks are written.

    Args:
        loss_mask: (T,) of the rollout.
        written: for each turn, (start, stop) of the tokens of each region from its first token.

    Returns:
        The tokens of each region, in order.

    Raises:
        ValueError: when the mask holds another number of turns.
    """
    return [
        slice(begin + start, begin + stop)
        for (begin, _), regions in zip(turn_segments(loss_mask), written, strict=True)
        for start, stop in regions
    ]


def spread_over_tokens(loss_mask: Sequence[int], per_turn: Sequence[float]) -> list[float]:
    """Give every token of a turn the turn's advantage.

    Args:
        loss_mask: (T,) of one rollout.
        per_turn: one number per turn.

    Returns:
        (T,), 0 for tokens of the environment.

    Raises:
        ValueError: when the mask holds another number of turns.
    """
    segments = turn_segments(loss_mask)
    if len(segments) != len(per_turn):
        raise ValueError(
            f"turns: expected {len(segments)} as in the loss mask, got {len(per_turn)}"
        )
    found = [0.0] * len(loss_mask)
    for (start, stop), value in zip(segments, per_turn, strict=True):
        found[start:stop] = [value] * (stop - start)
    return found
