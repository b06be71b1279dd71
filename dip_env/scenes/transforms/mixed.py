"""Mix several sources in fixed shares, evenly interleaved, each shuffled anew in every epoch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from hashlib import blake2b
from operator import index as as_index
from typing import NamedTuple

import numpy as np

from dip_env.errors import ConfigError
from dip_env.scenes.base import Scene, SceneSource, is_endless
from dip_env.scenes.transforms.checks import check_integer

LONGEST_PERIOD = 25_200
"""Weights are rounded to this many parts: whole percents and all ratios up to 10 are exact."""
ROUNDS = 6
"""Of the Feistel network: after four, neighbours already end up unrelated."""


class Place(NamedTuple):
    """Where an item of a mix comes from: part, how often that was gone through, scene in it."""

    part: int
    epoch: int
    number: int


class MixedScenes:
    """Scenes of several sources, item by item in the proportion of their weights.

    Which part an item comes from repeats with a period: every period holds exactly its share of
    each part, and no stretch from the start is off by a whole item. A finite part is gone through
    completely before any scene of it comes again, each time in another order; an endless one goes
    on in its own order. Any item is found at once, whatever was read before.

    The length is that after which every finite part has been gone through once; shorter parts
    repeat meanwhile. If all are endless, so is the mix. Scenes are named ``0/name`` after the
    number of their part, and ``0#1/name`` when they come for the second time, so that names differ.
    Notes are kept except ``image_id``, which would mean two images; a scene without ``group`` gets
    one, so that a ``HashSplit`` keeps its repetitions together.

    Args:
        parts: pairs of a source and its weight, any number above 0.
        seed: of the shuffling, a non-negative integer.

    Raises:
        ConfigError: for no parts, a part without scenes, or a weight that is not above 0 or too
            small beside the others.

    Source: ours; the even order is that of fair scheduling (Baruah et al. 1996, "Proportionate
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
        self.places = places_by_weight(self.weights)
        """How many items of each period come from each part."""
        self.period = sum(self.places)
        """After how many items the sequence of parts starts again."""
        self._parts = np.array(interleave(self.places), dtype=np.int32)
        # Of each item in a period: how many before it come from the same part.
        self._before = np.empty(self.period, dtype=np.int32)
        for k, count in enumerate(self.places):
            self._before[self._parts == k] = np.arange(count)
        self._length = self._find_length()

    def __repr__(self) -> str:
        """Name every part with its weight, and the seed."""
        pairs = list(zip(self.sources, self.weights, strict=True))
        return f"MixedScenes({pairs!r}, seed={self.seed})"

    def __len__(self) -> int:
        """Return after how many items every finite part has been gone through."""
        return self._length

    def __getitem__(self, index: int) -> Scene:
        """Return item ``index`` of the mix."""
        place = self.locate(index)
        scene = self.sources[place.part][place.number]
        again = f"#{place.epoch}" if place.epoch else ""
        notes = {"group": f"{place.part}/{scene.scene_id}", **scene.notes}
        notes.pop("image_id", None)
        return replace(scene, scene_id=f"{place.part}{again}/{scene.scene_id}", notes=notes)

    def locate(self, index: int) -> Place:
        """Return where an item comes from, without opening it.

        Args:
            index: of the item.

        Returns:
            Its part, how often that part was gone through before, and the number in its source.

        Raises:
            IndexError: outside ``range(len(self))``.
        """
        item = as_index(index)
        if not 0 <= item < len(self):
            raise IndexError(f"mixed scene: expected 0..{len(self) - 1}, got {item}")
        block, offset = divmod(item, self.period)
        part = int(self._parts[offset])
        rank = block * self.places[part] + int(self._before[offset])
        length = len(self.sources[part])
        epoch, number = divmod(rank, length)
        if not is_endless(self.sources[part]):
            number = shuffled(number, length, f"{self.seed}/{part}/{epoch}")
        return Place(part, epoch, number)

    def _find_length(self) -> int:
        lengths = [len(source) for source in self.sources]
        ends = []
        for k, length in enumerate(lengths):
            if not is_endless(self.sources[k]):
                block, rank = divmod(length - 1, self.places[k])
                offset = np.flatnonzero((self._parts == k) & (self._before == rank))[0]
                ends.append(block * self.period + int(offset) + 1)
        return max(ends) if ends else min(lengths)


def places_by_weight(weights: Sequence[float]) -> tuple[int, ...]:
    """Return how many items of one period each part gets.

    Args:
        weights: K numbers above 0.

    Returns:
        K counts, all at least 1, with no common divisor; their sum is the period. The share of a
        part is that of its weight, rounded to 1 / 25200 by the largest remainder.

    Raises:
        ConfigError: for no weights, or one that is not above 0 or gets no place.
    """
    if not weights:
        raise ConfigError("parts: expected at least one pair of a source and a weight, got none")
    for k, weight in enumerate(weights):
        if not (math.isfinite(weight) and weight > 0):
            raise ConfigError(f"parts[{k}]: expected a finite weight > 0, got {weight!r}")
    total = sum(map(Fraction, weights))
    exact = [Fraction(weight) * LONGEST_PERIOD / total for weight in weights]
    places = [math.floor(share) for share in exact]
    by_remainder = sorted(range(len(exact)), key=lambda k: (places[k] - exact[k], k))
    for k in by_remainder[: LONGEST_PERIOD - sum(places)]:
        places[k] += 1
    if 0 in places:
        k = places.index(0)
        raise ConfigError(
            f"parts[{k}]: expected a weight of at least 1/{LONGEST_PERIOD} of the sum "
            f"{float(total):g}, got {weights[k]:g}"
        )
    divisor = math.gcd(*places)
    return tuple(count // divisor for count in places)


def interleave(places: Sequence[int]) -> list[int]:
    """Return an order in which each part comes as evenly as whole items allow.

    Args:
        places: K counts, all at least 1.

    Returns:
        As many part numbers as the counts sum to; among the first m, part k comes less than one
        item more or less often than m times its share.

    Source: earliest deadline first among the parts that are not ahead, which keeps every deadline
        (Baruah et al. 1996, "Proportionate progress: a notion of fairness in resource allocation").
    """
    period, done = sum(places), [0] * len(places)
    order: list[int] = []
    for step in range(period):
        due = [k for k, count in enumerate(places) if done[k] * period < (step + 1) * count]
        # Rounded up: the step by which the next item of part k must have come; rare parts first.
        k = min(due, key=lambda k: (-(-(done[k] + 1) * period // places[k]), places[k]))
        done[k] += 1
        order.append(k)
    return order


def shuffled(place: int, length: int, key: str) -> int:
    """Return what stands at one place of a random order, without making the whole order.

    Args:
        place: in [0, length).
        length: of the order.
        key: names the order; over all places of one key, every number comes exactly once.

    Returns:
        A number in [0, length).

    Source: a Feistel network on a grid that barely holds the range, walked until it is back
        inside (Black and Rogaway 2002, "Ciphers with arbitrary finite domains").
    """
    rows = math.isqrt(length - 1) + 1
    columns = -(-length // rows)
    while True:
        row, column = divmod(place, columns)
        for k in range(ROUNDS):
            if k % 2:
                column = (column + _hash(f"{key}/{k}/{row}")) % columns
            else:
                row = (row + _hash(f"{key}/{k}/{column}")) % rows
        place = row * columns + column
        if place < length:
            return place


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")
