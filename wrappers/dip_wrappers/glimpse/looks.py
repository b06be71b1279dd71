"""The meaning of a numeric action: regions to look at, or the decision to answer."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from gymnasium import spaces

from dip_env.boxes import Boxes
from dip_env.errors import ConfigError


class Looks(Protocol):
    """A numeric action space over regions of an image."""

    @property
    def space(self) -> spaces.Space[Any]:
        """The action space."""
        ...

    @property
    def at_once(self) -> int:
        """How many regions one action may name."""
        ...

    def regions(self, action: Any) -> Boxes:
        """Return the regions of an action, (R, 4) xyxy in shares of the image; none to answer."""
        ...


@dataclass(frozen=True)
class GridLooks:
    """Cells of a pyramid of grids: ``Discrete`` for one cell an action, else ``MultiDiscrete``.

    The cells of one level overlap, so that a person on a border is whole in one of them.
    They are numbered level by level, row by row; the number after the last cell answers, or, among
    several, names no region: an action without any region answers.

    Args:
        levels: cells along each side, level by level; 1 is the whole image.
        overlap: share of a cell's side by which it is wider than its part of the image.
        at_once: regions in one action.

    Raises:
        ConfigError: for values out of range.
    """

    levels: tuple[int, ...] = (2, 4)
    overlap: float = 0.25
    at_once: int = 1

    def __post_init__(self) -> None:
        """Check the values once."""
        if not self.levels or min(self.levels) < 1:
            raise ConfigError(f"levels: expected numbers of cells from 1 on, got {self.levels}")
        if not 0 <= self.overlap <= 1:
            raise ConfigError(f"overlap: expected a number in [0, 1], got {self.overlap!r}")
        if self.at_once < 1:
            raise ConfigError(f"at_once: expected at least 1, got {self.at_once!r}")

    @cached_property
    def cells(self) -> Boxes:
        """All cells, (N, 4) xyxy in shares of the image."""
        found = []
        for count in self.levels:
            side = min(1.0, (1 + self.overlap) / count)
            # From the first cell at one border to the last at the other.
            starts = np.linspace(0.0, 1.0 - side, count) if count > 1 else np.zeros(1)
            found += [(x, y, x + side, y + side) for y in starts for x in starts]
        return np.array(found)

    @property
    def answer(self) -> int:
        """The number that names no cell."""
        return len(self.cells)

    @cached_property
    def space(self) -> spaces.Space[Any]:
        """``Discrete(N + 1)``, or ``MultiDiscrete`` of as many for each region."""
        if self.at_once == 1:
            return spaces.Discrete(self.answer + 1)
        return spaces.MultiDiscrete([self.answer + 1] * self.at_once)

    def regions(self, action: Any) -> Boxes:
        """Return the cells of an action, each once, (R, 4) in shares of the image.

        Raises:
            ConfigError: for an action that is not in ``space``.
        """
        numbers = np.asarray(action).reshape(-1)
        whole = np.issubdtype(numbers.dtype, np.integer)
        if not whole or len(numbers) != self.at_once or not self._known(numbers).all():
            raise ConfigError(f"action: expected one of {self.space}, got {action!r}")
        return self.cells[np.unique(numbers[numbers < self.answer])]

    def _known(self, numbers: Any) -> Any:
        return (numbers >= 0) & (numbers <= self.answer)


@dataclass(frozen=True)
class BoxLooks:
    """A square anywhere: ``Box(-1, 1, (3,))`` of centre x, centre y and size.

    There is no action to answer: the answer comes when the looks are used up.

    Args:
        smallest: side of the smallest region, in shares of the image's sides.
        largest: of the largest.

    Raises:
        ConfigError: for values out of range.
    """

    smallest: float = 0.12
    largest: float = 0.6

    def __post_init__(self) -> None:
        """Check the values once."""
        if not 0 < self.smallest <= self.largest <= 1:
            raise ConfigError(
                f"expected 0 < smallest <= largest <= 1, got {self.smallest!r}, {self.largest!r}"
            )

    @cached_property
    def space(self) -> spaces.Box:
        """``Box(-1, 1, (3,), float32)``."""
        return spaces.Box(-1.0, 1.0, (3,), np.float32)

    @property
    def at_once(self) -> int:
        """One region an action."""
        return 1

    def regions(self, action: Any) -> Boxes:
        """Return the region of an action, (1, 4) in shares of the image, pushed inside it.

        Raises:
            ConfigError: for an action that is not three finite numbers.
        """
        values = np.asarray(action, dtype=np.float64)
        if values.shape != (3,) or not np.isfinite(values).all():
            raise ConfigError(f"action: expected three finite numbers, got {action!r}")
        x, y, size = (np.clip(values, -1, 1) + 1) / 2
        side = self.smallest * (self.largest / self.smallest) ** size
        # Equal steps of an action move the region equally far: none is lost at borders.
        left, top = x * (1 - side), y * (1 - side)
        return np.array([[left, top, left + side, top + side]])
