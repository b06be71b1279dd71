"""The random source of a scene: a stream of floats that is the same on every machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


class SceneRandom:
    """Random numbers of a scene, from one generator.

    Only uniform doubles are taken from the generator: their stream is fixed by the bit
    generator, while the other distributions of numpy may change between versions.

    Args:
        entropy: non-negative integers that fix the stream.
    """

    def __init__(self, *entropy: int) -> None:
        """Seed the stream; the first block is drawn when it is needed."""
        self._generator = np.random.default_rng(list(entropy))
        self._block: list[float] = []

    def random(self) -> float:
        """Return a float in [0, 1)."""
        if not self._block:
            self._block = self._generator.random(512).tolist()
        return self._block.pop()

    def uniform(self, low: float, high: float) -> float:
        """Return a float in [low, high)."""
        return low + (high - low) * self.random()

    def bates(self, centre: float, width: float) -> float:
        """Return a float in ``centre +- width`` of the Bates distribution (mean of 3 uniforms)."""
        return centre + width * ((self.random() + self.random() + self.random()) * 2 / 3 - 1)

    def integer(self, low: int, high: int) -> int:
        """Return an integer in [low, high], both ends included."""
        return low + int(self.random() * (high - low + 1))

    def bernoulli(self, probability: float) -> bool:
        """Return True with the given probability."""
        return self.random() < probability

    def choice(self, items: Sequence[T]) -> T:
        """Return one of the items with equal probability."""
        return items[int(self.random() * len(items))]

    def weighted_choice(self, weights: dict[T, float]) -> T:
        """Return one of the keys with probability proportional to its weight."""
        point = self.random() * sum(weights.values())
        for item, weight in weights.items():
            point -= weight
            if point < 0:
                return item
        return next(reversed(weights))

    def jitter(self, colour: Sequence[float], width: float) -> tuple[float, float, float]:
        """Return the colour with noise on each channel, at most 1.4 ``width``."""
        common = self.uniform(-width, width)
        red, green, blue = (
            min(255.0, max(0.0, c + common + self.uniform(-width, width) * 0.4)) for c in colour
        )
        return red, green, blue
