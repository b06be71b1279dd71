"""Gathers the rollouts of a step from all ranks, everything but the pixels.

Advantages, denominators, metrics and the decision to collect further scenes are then plain
functions of the same groups on every rank, and no number needs a reduction of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from dip_agents.runtime.distributed import DistributedContext
from dip_agents.tokens.buffer import EncodedImage

if TYPE_CHECKING:
    from dip_agents.grpo.records import RolloutGroup


def all_gather_groups(
    groups: Sequence[RolloutGroup], distributed: DistributedContext
) -> list[RolloutGroup]:
    """Return the groups of all ranks, in the order of the ranks.

    Args:
        groups: collected by this rank.
        distributed: all of them call this.

    Returns:
        This rank's own groups as they are, and the others' with ``local`` False and images that
        have a size and a key but no pixels.
    """
    if distributed.world_size == 1:
        return list(groups)
    parts = distributed.all_gather([_packed(group) for group in groups])
    gathered: list[RolloutGroup] = []
    for index, part in enumerate(parts):
        gathered += groups if index == distributed.rank else [_unpacked(*packed) for packed in part]
    return gathered


class _Size(NamedTuple):
    """What is sent of an image."""

    grid: tuple[int, int, int]
    tokens: int
    key: bytes
    shape: tuple[int, ...]


_Packed = tuple["RolloutGroup", list[list[_Size]]]
"""A group without images, and the images of each member."""


def _packed(group: RolloutGroup) -> _Packed:
    members, sizes = [], []
    for rollout in group.rollouts:
        buffer = rollout.buffer.copy()
        images, buffer.images = buffer.images, []
        members.append(replace(rollout, buffer=buffer))
        sizes.append([_Size(i.grid, i.tokens, i.key, i.pixels.shape) for i in images])
    return replace(group, rollouts=members, local=False), sizes


def _unpacked(group: RolloutGroup, sizes: list[list[_Size]]) -> RolloutGroup:
    for rollout, images in zip(group.rollouts, sizes, strict=True):
        rollout.buffer.images = [
            EncodedImage(
                image.grid,
                image.tokens,
                image.key,
                # One byte broadcast to all pixels: metrics read their number.
                np.broadcast_to(np.uint8(0), image.shape),
            )
            for image in images
        ]
    return group
