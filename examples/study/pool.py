"""A stretch of an endless source, so that all arms learn from the same scenes."""

from __future__ import annotations

from dip_env.scenes.base import Scene, SceneSource


class Pool:
    """Some scenes of a source that follow each other.

    Args:
        source: the scenes.
        first: number of the first one.
        count: how many.
    """

    def __init__(self, source: SceneSource, first: int, count: int) -> None:
        """Keep the bounds."""
        self.source, self.first, self.count = source, first, count

    def __len__(self) -> int:
        """Return the number of scenes."""
        return self.count

    def __repr__(self) -> str:
        """Name the source and the stretch."""
        return f"Pool({self.source!r}, first={self.first}, count={self.count})"

    def __getitem__(self, index: int) -> Scene:
        """Return scene ``index`` of the stretch.

        Raises:
            IndexError: outside ``range(len(self))``.
        """
        if not 0 <= index < self.count:
            raise IndexError(f"Pool: expected 0..{self.count - 1}, got {index}")
        return self.source[self.first + index]
