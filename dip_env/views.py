"""The three coordinate frames, the overview and the crops; independent of grammar and rewards.

**scene**: pixels of the source image. **view**: pixels of the overview the policy sees.
**text**: printed numbers (``pixel``: view pixels; ``norm1000``: thousandths of the view). Sides of
overview and crops are multiples of a given number, so the two axes of a view may differ slightly in
scale.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from dip_env.boxes import Boxes, BoxesLike, as_boxes
from dip_env.config import CoordinateFormat
from dip_env.errors import ActionRefusedError
from dip_env.resampling import resized

MIN_CROP_SIDE = 2.0
"""Shortest side of a crop's region in source pixels."""


def fit_size(size: tuple[float, float], long_side: int, multiple: int) -> tuple[int, int]:
    """Fit a size into a square so that both sides are multiples of a number.

    Args:
        size: (width, height) to fit, any unit.
        long_side: longest side allowed in pixels, at least ``multiple``.
        multiple: both sides of the result are multiples of this.

    Returns:
        (width, height): the longer side is ``long_side`` rounded down to the multiple, the
        shorter one the multiple nearest to the aspect ratio, at least one multiple.

    Raises:
        ValueError: when ``long_side`` is under ``multiple`` or the size is not positive.
    """
    width, height = size
    if long_side < multiple or min(width, height) <= 0:
        raise ValueError(
            f"expected a positive size and a long side >= {multiple}, got {size} and {long_side}"
        )
    steps = long_side // multiple
    scale = steps / max(width, height)
    return (
        max(1, round(width * scale)) * multiple,
        max(1, round(height * scale)) * multiple,
    )


@dataclass(frozen=True)
class View:
    """The frames of a scene: converts boxes between the scene, view and text frames.

    Args:
        scene_size: (width, height) of the source image in pixels.
        view_size: (width, height) of the overview in pixels.
        coordinate_format: what printed coordinates mean.
    """

    scene_size: tuple[int, int]
    view_size: tuple[int, int]
    coordinate_format: CoordinateFormat = "pixel"

    @classmethod
    def of(
        cls,
        scene_size: tuple[int, int],
        long_side: int,
        multiple: int,
        coordinate_format: CoordinateFormat = "pixel",
    ) -> View:
        """Return the view of a scene.

        Args:
            scene_size: (width, height) of the source image in pixels.
            long_side: longest side of the overview in pixels.
            multiple: both sides of the overview are multiples of this.
            coordinate_format: what printed coordinates mean.

        Returns:
            The view, its size chosen by ``fit_size``.
        """
        return cls(scene_size, fit_size(scene_size, long_side, multiple), coordinate_format)

    @property
    def text_size(self) -> tuple[int, int]:
        """Largest x and y of the image in the text frame."""
        return (1000, 1000) if self.coordinate_format == "norm1000" else self.view_size

    def scene_to_view(self, boxes: BoxesLike) -> Boxes:
        """Convert (N, 4) boxes from the scene to the view frame."""
        return _rescale(boxes, self.scene_size, self.view_size)

    def view_to_scene(self, boxes: BoxesLike) -> Boxes:
        """Convert (N, 4) boxes from the view to the scene frame."""
        return _rescale(boxes, self.view_size, self.scene_size)

    def text_to_view(self, boxes: BoxesLike) -> Boxes:
        """Convert (N, 4) boxes from the text to the view frame."""
        return _rescale(boxes, self.text_size, self.view_size)

    def scene_to_text(self, boxes: BoxesLike) -> Boxes:
        """Convert (N, 4) boxes from the scene to the text frame."""
        return _rescale(boxes, self.scene_size, self.text_size)

    def text_to_scene(self, boxes: BoxesLike) -> Boxes:
        """Convert (N, 4) boxes from the text to the scene frame."""
        return _rescale(boxes, self.text_size, self.scene_size)


@dataclass(frozen=True, eq=False)
class Crop:
    """One region as a look shows it.

    Args:
        image: RGB uint8 (h, w, 3), read-only; both sides are multiples of ``size_multiple``.
        region: float64 (4,) xyxy in the scene frame, exactly what ``image`` shows.
        magnification: crop pixels per view pixel along the longer side of the crop.
    """

    image: NDArray[np.uint8]
    region: NDArray[np.float64]
    magnification: float


def overview(image: Image.Image, view: View) -> Image.Image:
    """Reduce (or enlarge) a source image to its overview.

    Args:
        image: RGB source image of ``view.scene_size``.
        view: the frames of the scene.

    Returns:
        RGB image of ``view.view_size``.
    """
    return resized(image, view.view_size, Image.Resampling.BICUBIC)


def shown_region(
    region: ArrayLike, view: View, crop_size: int, multiple: int
) -> tuple[float, float, float, float]:
    """Return the region that a crop shows: the requested one clipped and, where too thin, grown.

    Args:
        region: (4,) xyxy in the scene frame.
        view: the frames of the scene.
        crop_size: longest side of the crop in pixels.
        multiple: both sides of the crop are multiples of this.

    Returns:
        xyxy in the scene frame, inside the image; a fixed point of this function up to rounding.

    Raises:
        ActionRefusedError: when the region has no area inside the image.
    """
    x1, y1, x2, y2 = np.asarray(region, dtype=np.float64).tolist()
    width, height = view.scene_size
    left, top, right, bottom = max(x1, 0.0), max(y1, 0.0), min(x2, width), min(y2, height)
    # Written so that NaN, too, counts as no area.
    if not (right > left and bottom > top):
        raise ActionRefusedError(
            f"expected a region with area inside the image of {width}x{height} pixels, "
            f"got [{x1:g}, {y1:g}, {x2:g}, {y2:g}]"
        )
    side = max(MIN_CROP_SIDE, max(right - left, bottom - top) / (crop_size // multiple))
    left, right = _grow(left, right, side, width)
    top, bottom = _grow(top, bottom, side, height)
    return left, top, right, bottom


def cut_crop(
    image: Image.Image, region: ArrayLike, view: View, crop_size: int, multiple: int
) -> Crop:
    """Cut a region out of the source image and fit it to the size of a crop.

    The region is clipped to the image. A side too short for its crop is then grown inside the
    image: to two source pixels, and until the aspect ratio is one that crop sizes can show.

    Args:
        image: RGB source image of ``view.scene_size``.
        region: (4,) xyxy in the scene frame.
        view: the frames of the scene.
        crop_size: longest side of the crop in pixels.
        multiple: both sides of the crop are multiples of this.

    Returns:
        The crop, resampled from source pixels in one step.

    Raises:
        ActionRefusedError: when the region has no area inside the image.
    """
    shown = shown_region(region, view, crop_size, multiple)
    x1, y1, x2, y2 = shown
    size = fit_size((x2 - x1, y2 - y1), crop_size, multiple)
    pixels = resized(image, size, Image.Resampling.BICUBIC, box=shown)
    axis = 0 if size[0] >= size[1] else 1
    view_px = (shown[axis + 2] - shown[axis]) * view.view_size[axis] / view.scene_size[axis]
    return Crop(np.asarray(pixels), np.array(shown), size[axis] / view_px)


def _rescale(boxes: BoxesLike, source: tuple[int, int], target: tuple[int, int]) -> Boxes:
    """Scale x and y of (N, 4) boxes from one image size to another."""
    x, y = target[0] / source[0], target[1] / source[1]
    return as_boxes(boxes) * (x, y, x, y)


def _grow(low: float, high: float, length: float, limit: float) -> tuple[float, float]:
    """Grow [low, high] about its middle to ``length``, shifted and clipped to [0, limit]."""
    if high - low >= length:
        return low, high
    length = min(length, limit)
    start = min(max((low + high - length) / 2, 0.0), limit - length)
    return start, min(start + length, limit)
