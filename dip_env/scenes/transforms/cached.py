"""Keep scenes in memory, so that episodes on the same scenes decode and reduce each image once."""

from __future__ import annotations

from collections import OrderedDict

from dip_env.errors import ConfigError
from dip_env.scenes.base import Scene, SceneSource

BYTES_PER_PIXEL = 4
"""Pillow's, of a decoded RGB image."""


class CachedScenes:
    """A source that keeps the scenes it returned last, and returns the same objects again.

    A scene holds its decoded image and its last overview, so episodes on a kept scene only resample
    what they look at.

    Args:
        source: the scenes.
        max_bytes: upper limit on the decoded images that are kept, at four bytes per pixel; their
            overviews of 0.6 MB at most (at the default view size) come on top. The least recently
            used scenes are dropped first; an image above the limit is not kept.

    Raises:
        ConfigError: for a limit under one byte.
    """

    def __init__(self, source: SceneSource, max_bytes: int = 2**30) -> None:
        """Start with nothing kept."""
        if max_bytes < 1:
            raise ConfigError(f"max_bytes: expected an integer >= 1, got {max_bytes!r}")
        self.source, self.max_bytes = source, max_bytes
        self._kept: OrderedDict[int, Scene] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        """Return the number of scenes of the source."""
        return len(self.source)

    def __repr__(self) -> str:
        """Return the source: its scenes are unchanged."""
        return repr(self.source)

    def __getitem__(self, index: int) -> Scene:
        """Return a scene, the same object as before where it is kept."""
        if index in self._kept:
            self._kept.move_to_end(index)
            return self._kept[index]
        scene = self.source[index]
        self._kept[index] = scene
        self._bytes += _image_bytes(scene)
        while self._bytes > self.max_bytes:
            self._bytes -= _image_bytes(self._kept.popitem(last=False)[1])
        return scene


def _image_bytes(scene: Scene) -> int:
    return scene.size[0] * scene.size[1] * BYTES_PER_PIXEL
