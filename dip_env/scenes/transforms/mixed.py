"""Mix sources in fixed shares, evenly interleaved; each is reshuffled every epoch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from hashlib import blake2b
from operator import index as as_index
from typing import NamedTuple

import numpy as np

from dip_env.checks import check_integer
from dip_env.errors import ConfigError
from dip_env.scenes.base import Scene, SceneSource, is_endless

LONGEST_PERIOD = 25_200
"""Weights are rounded to 1 over this: whole percents and all ratios up to 10 are exact."""
ROUNDS = 6
"""Rounds of the Feistel network; four already suffice to decorrelate neighbours."""


class ItemOrigin(NamedTuple):
    """Where an item of a mix comes from: its part, the epoch of that part, the scene in it."""

    part: int
    epoch: int
    scene_index: int


class MixedScenes:
    """Scenes of several sources, item by item in the proportion of their weights.

    The sequence of parts is periodic: every period holds exactly the share of each part, and every
    prefix is within one item of it. All scenes of a finite part come once per epoch, in another
    order each epoch; an endless part keeps its own order. Items are computed by random access,
    independent of what was read before.

    The length is the smallest after which every finite part has completed an epoch; shorter parts
    repeat meanwhile. If all are endless, so is the mix. Scenes are named ``0/name`` after
    the index of their part, and ``0#1/name`` in the part's second epoch, so that names differ.
    Notes are kept except ``image_id``, which would refer to two images; a scene without ``group``
    gets one, so that a ``HashSplit`` keeps its repetitions together.

    Args:
        parts: pairs of a source and its weight, any number above 0.
        seed: of the shuffling, a non-negative integer.

    Raises:
        ConfigError: for no parts, a part without scenes, or a weight that is not above 0 or too
            small beside the others.

    Source: ours; the interleaving is that of fair scheduling (Baruah et al. 1996, "Proportionate
    progress").
    """

    def __init__(self, parts: Sequence[tuple[SceneSource, float]], seed: int = 0) -> None:
        """Check the parts and lay out one period."""
        self.seed = check_integer("seed", seed, least=0)
        for k, part in enumerate(parts):
            if not (isinstance(part, tuple | list) and len(part) == 2):
                raise ConfigError(f"parts[{k}]: expected (source, weight), got {part!r}")
            if not isinstance(part[0], SceneSource) or len(part[0]) == 0:
                raise ConfigError(f"parts[{k}]: expected a source with scenes, got {part[0]!r}")
        self.sources = tuple(source for source, _ in parts)
        self.weights = tuple(float(weight) for _, weight in parts)
        self.per_period = items_per_period(self.weights)
        """Items of each part in one period."""
        self.period = sum(self.per_period)
        """Length of the sequence of parts until it repeats."""
        self._parts = np.array(interleave(self.per_period), dtype=np.int32)
        # For each item of a period, how many earlier items of it come from the same part.
        self._before = np.empty(self.period, dtype=np.int32)
        for k, count in enumerate(self.per_period):
            self._before[self._parts == k] = np.arange(count)
        self._length = self._find_length()

    def __repr__(self) -> str:
        """Return every part with its weight, and the seed."""
        pairs = list(zip(self.sources, self.weights, strict=True))
        return f"MixedScenes({pairs!r}, seed={self.seed})"

    def __len__(self) -> int:
        """Return after how many items every finite part has completed an epoch."""
        return self._length

    def __getitem__(self, index: int) -> Scene:
        """Return item ``index`` of the mix."""
        origin = self.locate(index)
        scene = self.sources[origin.part][origin.scene_index]
        again = f"#{origin.epoch}" if origin.epoch else ""
        notes = {"group": f"{origin.part}/{scene.scene_id}", **scene.notes}
        notes.pop("image_id", None)
        return replace(scene, scene_id=f"{origin.part}{again}/{scene.scene_id}", notes=notes)

    def locate(self, index: int) -> ItemOrigin:
        """Return where an item comes from, without reading it.

        Args:
            index: of the item.

        Returns:
            Its part, the epoch of that part and the index in its source.

        Raises:
            IndexError: outside ``range(len(self))``.
        """
        item = as_index(index)
        if not 0 <= item < len(self):
            raise IndexError(f"mixed scene: expected 0..{len(self) - 1}, got {item}")
        block, offset = divmod(item, self.period)
        part = int(self._parts[offset])
        rank = block * self.per_period[part] + int(self._before[offset])
        length = len(self.sources[part])
        epoch, number = divmod(rank, length)
        if not is_endless(self.sources[part]):
            number = shuffled_index(number, length, f"{self.seed}/{part}/{epoch}")
        return ItemOrigin(part, epoch, number)

    def _find_length(self) -> int:
        lengths = [len(source) for source in self.sources]
        ends = []
        for k, length in enumerate(lengths):
            if not is_endless(self.sources[k]):
                block, rank = divmod(length - 1, self.per_period[k])
                offset = np.flatnonzero((self._parts == k) & (self._before == rank))[0]
                ends.append(block * self.period + int(offset) + 1)
        return max(ends) if ends else min(lengths)


def items_per_period(weights: Sequence[float]) -> tuple[int, ...]:
    """Return how many items of one period come from each part.

    Args:
        weights: K numbers above 0.

    Returns:
        K counts, all at least 1, with no common divisor; their sum is the period. Shares are those
        of the weights, rounded to multiples of 1 / 25200 by the largest remainder.

    Raises:
        ConfigError: for no weights, or one that is not above 0 or too small for one item.
    """
    if not weights:
        raise ConfigError("parts: expected at least one pair of a source and a weight, got none")
    for k, weight in enumerate(weights):
        if not (math.isfinite(weight) and weight > 0):
            raise ConfigError(f"parts[{k}]: expected a finite weight > 0, got {weight!r}")
    total = sum(map(Fraction, weights))
    exact = [Fraction(weight) * LONGEST_PERIOD / total for weight in weights]
    counts = [math.floor(share) for share in exact]
    by_remainder = sorted(range(len(exact)), key=lambda k: (counts[k] - exact[k], k))
    for k in by_remainder[: LONGEST_PERIOD - sum(counts)]:
        counts[k] += 1
    if 0 in counts:
        k = counts.index(0)
        raise ConfigError(
            f"parts[{k}]: expected a weight of at least 1/{LONGEST_PERIOD} of the sum "
            f"{float(total):g}, got {weights[k]:g}"
        )
    divisor = math.gcd(*counts)
    return tuple(count // divisor for count in counts)


def interleave(counts: Sequence[int]) -> list[int]:
    """Return an order in which the items of each part are spread as evenly as possible.

    Args:
        counts: K counts, all at least 1.

    Returns:
        Part indices, as many as the counts sum to; among the first m, the number of items of part
        k differs from m times its share by less than one.

    Source: earliest deadline first among the parts that are not ahead, which keeps every deadline
        (Baruah et al. 1996, "Proportionate progress: a notion of fairness in resource allocation").
    """
    period, done = sum(counts), [0] * len(counts)
    order: list[int] = []
    for step in range(period):
        due = [k for k, count in enumerate(counts) if done[k] * period < (step + 1) * count]
        # Rounded up: the step by which the next item of part k must have come; rare parts first.
        k = min(due, key=lambda k: (-(-(done[k] + 1) * period // counts[k]), counts[k]))
        done[k] += 1
        order.append(k)
    return order


def shuffled_index(index: int, length: int, key: str) -> int:
    """Return one entry of a random permutation, without computing the others.

    Args:
        index: in [0, length).
        length: of the permutation.
        key: selects the permutation.

    Returns:
        The permuted index in [0, length); a bijection for each key.

    Source: a Feistel network on the smallest grid that holds the range, with cycle walking
        (Black and Rogaway 2002, "Ciphers with arbitrary finite domains").
    """
    rows = math.isqrt(length - 1) + 1
    columns = -(-length // rows)
    while True:
        row, column = divmod(index, columns)
        for k in range(ROUNDS):
            if k % 2:
                column = (column + _hash(f"{key}/{k}/{row}")) % columns
            else:
                row = (row + _hash(f"{key}/{k}/{column}")) % rows
        index = row * columns + column
        if index < length:
            return index


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")
