"""The input and the protocol of a detector; any function of an image can be one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dip_env.boxes import Boxes
from dip_env.scenes.base import Scene
from dip_wrappers.glimpse.detections import MARGIN, Detections


@dataclass(frozen=True, eq=False)
class DetectorInput:
    """One image in which a detector finds people: the overview, or a crop.

    Args:
        image: RGB uint8 (h, w, 3), read-only.
        region: (4,) xyxy that it shows, scene frame.
        scene: of the image; its ground truth is for simulated detectors only.
    """

    image: NDArray[np.uint8]
    region: NDArray[np.float64]
    scene: Scene

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the image in pixels."""
        return self.image.shape[1], self.image.shape[0]

    @property
    def scale(self) -> tuple[float, float]:
        """Pixels of the image per pixel of the scene, along x and y."""
        x1, y1, x2, y2 = self.region
        return float(self.size[0] / (x2 - x1)), float(self.size[1] / (y2 - y1))

    @property
    def open_sides(self) -> tuple[bool, bool, bool, bool]:
        """Whether the scene continues at the left, top, right and bottom of the region."""
        x1, y1, x2, y2 = self.region
        width, height = self.scene.size
        return x1 > 0.5, y1 > 0.5, x2 < width - 0.5, y2 < height - 0.5

    @property
    def inside(self) -> NDArray[np.float64]:
        """The region without the border in which boxes may be cut off, (4,) xyxy scene frame."""
        cut = np.array(self.open_sides) * MARGIN / np.tile(self.scale, 2)
        return self.region + cut * (1, 1, -1, -1)

    def to_scene(self, boxes: Boxes) -> Boxes:
        """Convert (N, 4) boxes from pixels of the image to the scene frame."""
        x1, y1 = self.region[:2]
        sx, sy = self.scale
        return boxes / (sx, sy, sx, sy) + (x1, y1, x1, y1)

    def from_scene(self, boxes: Boxes) -> Boxes:
        """Convert (N, 4) boxes from the scene frame to pixels of the image."""
        x1, y1 = self.region[:2]
        sx, sy = self.scale
        return (boxes - (x1, y1, x1, y1)) * (sx, sy, sx, sy)


class Detector(Protocol):
    """Finds people in one image.

    One that does not read the image declares it by an attribute ``reads_pixels = False``; it is
    then refused under controls that change images.
    """

    def __call__(self, picture: DetectorInput) -> Detections:
        """Return boxes in pixels of ``picture.image``, with scores."""
        ...


@dataclass(frozen=True)
class ImageDetector:
    """A function of an image as a detector.

    Args:
        find: from RGB uint8 (h, w, 3) to boxes (N, 4) xyxy in its pixels and scores (N,).
    """

    find: Callable[[NDArray[np.uint8]], tuple[Any, Any]]

    def __call__(self, picture: DetectorInput) -> Detections:
        """Return what the function finds.

        Raises:
            ConfigError: when the function does not return boxes with a score in [0, 1] each.
        """
        boxes, scores = self.find(picture.image)
        return Detections(boxes, scores)
