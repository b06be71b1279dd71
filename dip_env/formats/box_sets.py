"""Ground truth and detections of many images as columns. Independent of files and metrics.

Boxes stay x, y, width, height in float64 as given: ``(y + h) - y`` is not always ``h``, and the
protocols have inclusive limits on heights and overlaps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class BoxSet:
    """Boxes of I images, image after image, in file order within each.

    Args:
        xywh: (N, 4) x, y, width, height in pixels of the image; sides >= 0.
        starts: (I + 1,) rows ``starts[i]:starts[i + 1]`` belong to image i.
        category: (N,) category id of each box.
    """

    xywh: Floats
    starts: Indices
    category: Indices

    def __len__(self) -> int:
        """Return the number of boxes."""
        return len(self.xywh)

    @property
    def images(self) -> int:
        """Number of images, with or without boxes."""
        return len(self.starts) - 1

    @cached_property
    def image(self) -> Indices:
        """(N,) image index of each box."""
        return np.repeat(np.arange(self.images), np.diff(self.starts))

    @cached_property
    def xyxy(self) -> Floats:
        """(N, 4) xyxy with x2 = x + width: no pixel is added."""
        return np.hstack([self.xywh[:, :2], self.xywh[:, :2] + self.xywh[:, 2:]])

    @cached_property
    def areas(self) -> Floats:
        """(N,) width times height."""
        return self.xywh[:, 2] * self.xywh[:, 3]


@dataclass(frozen=True, eq=False)
class Truth(BoxSet):
    """Ground truth: annotated instances and ignore regions.

    Args:
        image_ids: id of each image as in the file, I of them.
        sizes: (I, 2) width and height of each image, pixels.
        ignore: (N,) True for ignored instances and regions.
        visible_xywh: (N, 4) box of the visible part; the full box where it is unknown.
        area: (N,) area for size ranges (COCO's field, else width times height).
        category_names: name of each category id.
        iscrowd: (N,) COCO's own flag, where the file may also say ``ignore``; None: as ``ignore``.
    """

    image_ids: tuple[int | str, ...]
    sizes: Floats
    ignore: NDArray[np.bool_]
    visible_xywh: Floats
    area: Floats
    category_names: Mapping[int, str] = field(default_factory=dict)
    iscrowd: NDArray[np.bool_] | None = None

    @cached_property
    def people(self) -> Indices:
        """(I,) non-ignored instances of each image."""
        return np.bincount(self.image[~self.ignore], minlength=self.images)


@dataclass(frozen=True, eq=False)
class Detections(BoxSet):
    """Detections in the images of a ``Truth`` (same images, same order).

    Args:
        scores: (N,) confidence of each box; higher is more confident.
    """

    scores: Floats

    @cached_property
    def rank(self) -> Indices:
        """(N,) rank of each detection by score, 0 for the highest; ties keep their order."""
        rank = np.empty(len(self), dtype=np.int64)
        rank[np.argsort(-self.scores, kind="stable")] = np.arange(len(self))
        return rank
