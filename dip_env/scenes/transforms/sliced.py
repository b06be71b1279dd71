"""A contiguous slice of a source, so that several runs train on the same scenes."""

from __future__ import annotations

from dip_env.errors import ConfigError
from dip_env.scenes.base import Scene, SceneSource


class SlicedScenes:
    """Consecutive scenes of a source.

    Args:
        source: the scenes.
        first: index of the first scene.
        count: number of scenes.

    Raises:
        ConfigError: for a slice beyond the source.
    """

    def __init__(self, source: SceneSource, first: int, count: int) -> None:
        """Check and store the bounds."""
        if first < 0 or count < 0 or first + count > len(source):
            raise ConfigError(
                f"slice: expected scenes within 0..{len(source) - 1}, got {count} from {first} on"
            )
        self.source, self.first, self.count = source, first, count

    def __len__(self) -> int:
        """Return the number of scenes."""
        return self.count

    def __repr__(self) -> str:
        """Return the source and the slice."""
        return f"SlicedScenes({self.source!r}, first={self.first}, count={self.count})"

    def __getitem__(self, index: int) -> Scene:
        """Return scene ``index`` of the slice.

        Raises:
            IndexError: outside ``range(len(self))``.
        """
        if not 0 <= index < self.count:
            raise IndexError(f"scene of the slice: expected 0..{self.count - 1}, got {index}")
        return self.source[self.first + index]
