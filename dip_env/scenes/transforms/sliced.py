"""A stretch of a source, so that several learn from the same scenes."""

from __future__ import annotations

from dip_env.errors import ConfigError
from dip_env.scenes.base import Scene, SceneSource


class SlicedScenes:
    """Some scenes of a source that follow each other.

    Args:
        source: the scenes.
        first: number of the first one.
        count: how many.

    Raises:
        ConfigError: for a stretch that the source does not have.
    """

    def __init__(self, source: SceneSource, first: int, count: int) -> None:
        """Check and keep the bounds."""
        if first < 0 or count < 0 or first + count > len(source):
            raise ConfigError(
                f"slice: expected scenes within 0..{len(source) - 1}, got {count} from {first} on"
            )
        self.source, self.first, self.count = source, first, count

    def __len__(self) -> int:
        """Return the number of scenes."""
        return self.count

    def __repr__(self) -> str:
        """Name the source and the stretch."""
        return f"SlicedScenes({self.source!r}, first={self.first}, count={self.count})"

    def __getitem__(self, index: int) -> Scene:
        """Return scene ``index`` of the stretch.

        Raises:
            IndexError: outside ``range(len(self))``.
        """
        if not 0 <= index < self.count:
            raise IndexError(f"scene of the slice: expected 0..{self.count - 1}, got {index}")
        return self.source[self.first + index]
