"""Gymnasium spaces of plain Python strings: actions with well-formed samples, and any text.

``gymnasium.spaces.Text`` refuses characters outside a fixed set, such as "é", and samples noise.
Both spaces here batch like any custom space: to a ``Tuple`` of copies.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import Space

from dip_env.actions import Answer, Grammar, Look, Segment, Think

_SAMPLE_ALPHABET = "abc xyz 019 éß 人群 Жя 🙂"


class _AnyString(Space[str]):
    """Base of the spaces of plain strings, which contain every string."""

    @property
    def is_np_flattenable(self) -> bool:
        """Text of any length has no fixed array."""
        return False

    def contains(self, x: Any) -> bool:
        """Return True for every str."""
        return isinstance(x, str)


class UnicodeText(_AnyString):
    """Every Python string.

    Args:
        max_sample_length: longest string that ``sample`` returns, in characters.
        seed: seed of ``sample``.
    """

    def __init__(
        self, max_sample_length: int = 32, seed: int | np.random.Generator | None = None
    ) -> None:
        """Store the length of samples."""
        self.max_sample_length = max_sample_length
        super().__init__(seed=seed)

    def sample(self, mask: Any | None = None, probability: Any | None = None) -> str:
        """Return a random string of several scripts.

        Args:
            mask: not supported, must be None.
            probability: not supported, must be None.

        Returns:
            At most ``max_sample_length`` characters.

        Raises:
            ValueError: for a mask or a probability.
        """
        _refuse_masks(mask, probability)
        length = self.np_random.integers(self.max_sample_length + 1)
        indices = self.np_random.integers(len(_SAMPLE_ALPHABET), size=length)
        return "".join(_SAMPLE_ALPHABET[index] for index in indices)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, UnicodeText) and self.max_sample_length == other.max_sample_length

    def __repr__(self) -> str:
        return f"UnicodeText({self.max_sample_length})"


class ActionSpace(_AnyString):
    """Every Python string; samples are well-formed actions.

    A malformed string is a legal action that costs a turn, so the space contains it. An environment
    that has been reset narrows the samples to what its episode can carry out now.

    Args:
        grammar: the grammar of the actions.
        text_size: largest x and y of sampled boxes, text frame (``View.text_size``).
        seed: seed of ``sample``.
    """

    def __init__(
        self,
        grammar: Grammar,
        text_size: tuple[int, int],
        seed: int | np.random.Generator | None = None,
    ) -> None:
        """Store the grammar and the size."""
        self.grammar = grammar
        self.text_size = text_size
        self.narrow(text_size, looks_left=1)
        super().__init__(seed=seed)

    def narrow(self, text_size: tuple[int, int], looks_left: int) -> None:
        """Sample what an episode can carry out now; which texts are legal stays the same.

        Args:
            text_size: largest x and y of its image, text frame.
            looks_left: looks that may still be taken; without one all samples are answers.
        """
        self._reach, self._may_look = text_size, looks_left > 0

    def sample(self, mask: Any | None = None, probability: Any | None = None) -> str:
        """Return a think followed by an answer or, as often where one may be taken, by a look.

        Args:
            mask: not supported, must be None.
            probability: not supported, must be None.

        Returns:
            An action that parses; its boxes have integer coordinates and area.

        Raises:
            ValueError: for a mask or a probability.
        """
        _refuse_masks(mask, probability)
        last: Segment
        if self._may_look and self.np_random.random() < 0.5:
            last = Look(self._boxes(int(self.np_random.integers(1, self.grammar.max_regions + 1))))
        else:
            last = Answer(
                self._boxes(int(self.np_random.integers(min(self.grammar.max_boxes, 8) + 1)))
            )
        return self.grammar.format((Think("a random thought"), last))

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, ActionSpace)
            and self.grammar == other.grammar
            and self.text_size == other.text_size
        )

    def __repr__(self) -> str:
        return f"ActionSpace({self.grammar}, text_size={self.text_size})"

    def _boxes(self, count: int) -> np.ndarray:
        """Return random boxes (count, 4) with integer corners, text frame."""
        sides = np.array(self._reach)
        low = self.np_random.integers(0, sides, size=(count, 2))
        high = self.np_random.integers(low + 1, sides + 1)
        return np.concatenate([low, high], axis=1).astype(np.float64)


def _refuse_masks(mask: Any | None, probability: Any | None) -> None:
    """Raise ValueError for masked sampling."""
    if mask is not None or probability is not None:
        raise ValueError("mask and probability: expected None, text has no masked sampling")
