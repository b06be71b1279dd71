"""Recently encoded images, so that a group's prompt is encoded once."""

from __future__ import annotations

from dip_agents.tokens.buffer import EncodedImage

CACHE_BYTES = 256 * 2**20
"""Most bytes of patches: some fifty overviews of 448 pixels, enough for the prompts and crops of a
batch. A limit in bytes and not in images, since one large image takes as much memory as a thousand
small crops."""


class ImageCache:
    """Encoded images by content; the oldest are dropped when there are too many bytes.

    Args:
        limit: most bytes of patches; the newest image stays even where it alone is larger.
    """

    def __init__(self, limit: int = CACHE_BYTES) -> None:
        """Start empty."""
        self.limit = limit
        self.size = 0
        """Bytes of the patches that are kept."""
        self._images: dict[bytes, EncodedImage] = {}

    def __len__(self) -> int:
        """Return how many images are kept."""
        return len(self._images)

    def get(self, key: bytes) -> EncodedImage | None:
        """Return the image with a content hash, or None where it is not kept (any more)."""
        return self._images.get(key)

    def add(self, image: EncodedImage) -> None:
        """Keep an image, in place of the oldest where there is no room.

        Args:
            image: one that ``get`` did not find.
        """
        self._images[image.key] = image
        self.size += image.patches.nbytes
        while self.size > self.limit and len(self._images) > 1:
            self.size -= self._images.pop(next(iter(self._images))).patches.nbytes
