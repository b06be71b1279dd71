"""A source whose next scenes are prepared ahead, for a trainer that knows their order."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import tee

from dip_env.scenes.base import Scene, SceneSource
from dip_env.scenes.transforms.streamed import stream_scenes


class PrefetchedScenes:
    """The scenes of a source, prepared ahead by worker processes in an announced order.

    Scenes that are read in this order come from the workers; any other scene is prepared on
    access. The scenes are the same either way.

    Args:
        source: the scenes.
        upcoming: indices in the order in which they will be read; may be endless.
        workers: processes, see ``stream_scenes``; 0 prepares every scene on access.
        ahead: upper limit on scenes prepared beyond the one in use.

    Raises:
        ConfigError: for a bad number, or a source that cannot be pickled.
    """

    def __init__(
        self, source: SceneSource, upcoming: Iterable[int], *, workers: int = 1, ahead: int = 16
    ) -> None:
        """Store the order; the workers start with the first scene."""
        self.source = source
        announced, taken = tee(upcoming)
        self._announced = announced
        self._next = next(announced, None)
        self._stream = stream_scenes(source, taken, workers=workers, ahead=ahead)

    def __len__(self) -> int:
        """Return the number of scenes of the source."""
        return len(self.source)

    def __getitem__(self, index: int) -> Scene:
        """Return a scene, from the workers if it is the next one announced."""
        if index != self._next:
            return self.source[index]
        scene = next(self._stream)
        self._next = next(self._announced, None)
        return scene

    def __repr__(self) -> str:
        """Return the source: its scenes are unchanged."""
        return repr(self.source)

    def close(self) -> None:
        """End the workers; later scenes come from the source itself."""
        self._stream.close()
        self._next = None
