"""Features of images from a frozen vision tower, kept between calls; independent of the model."""

from __future__ import annotations

from collections.abc import Iterable

from dip_agents.models.base import Features

CACHE_BYTES = 512 * 2**20
"""Features kept: at d = 2048 in bfloat16 some thousand overviews of 448 pixels."""


class FeatureCache:
    """Features by image, of one state of the weights.

    Args:
        limit: most bytes; nothing is added beyond.
    """

    def __init__(self, limit: int = CACHE_BYTES) -> None:
        """Start empty."""
        self.limit = limit
        self.size = 0
        """Bytes that are kept."""
        self._version: int | None = None
        self._held: dict[bytes, Features] = {}

    def known(self, keys: Iterable[bytes], version: int) -> dict[bytes, Features]:
        """Return the features that are kept of some images.

        Args:
            keys: of the images.
            version: of the weights; other weights empty the cache.
        """
        if version != self._version:
            self.clear()
            self._version = version
        return {key: self._held[key] for key in keys if key in self._held}

    def add(self, features: dict[bytes, Features]) -> None:
        """Keep features of the version last passed to ``known``, as far as there is room."""
        for key, (embeds, layers) in features.items():
            size = sum(part.numel() * part.element_size() for part in (embeds, *layers))
            if key not in self._held and self.size + size <= self.limit:
                # A clone: a slice would keep the features of the whole batch alive.
                self._held[key] = (embeds.detach().clone(), [p.detach().clone() for p in layers])
                self.size += size

    def clear(self) -> None:
        """Drop all features."""
        self._held.clear()
        self.size = 0
