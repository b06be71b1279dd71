"""What a scene is and what a source of scenes offers. Independent of file formats."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dip_env.errors import SceneError
from dip_env.views import View, overview

SPLITS = ("train", "val", "test")
"""Parts of the sources that read no files; they never share a scene."""
ENDLESS = 10_000_000
"""Longer sources are never read as a whole; procedural ones have 2**31 - 1 scenes."""


@dataclass(frozen=True, eq=False)
class Scene:
    """One crowded image with its ground truth; boxes are xyxy in the scene frame (source pixels).

    Args:
        scene_id: name that is unique in its source.
        size: (width, height) of the image in pixels.
        boxes: full (amodal) boxes, float32 (N, 4); they may run outside the image.
        visible_boxes: boxes around the visible part, float32 (N, 4).
        visible_share: visible share of each instance, float32 (N,) in [0, 1].
        ignore: True for instances and regions that are neither rewarded nor penalized, bool (N,).
        labels: category of each instance, N strings.
        load_image: returns the RGB image of exactly ``size``; called on first use only.
        notes: counts worth reporting, such as how many boxes were clipped.
        target: what is to be found, a singular noun; the prompt names it.

    Raises:
        SceneError: for arrays of unequal length, boxes that are not finite or have no area.
    """

    scene_id: str
    size: tuple[int, int]
    boxes: NDArray[np.float32]
    visible_boxes: NDArray[np.float32]
    visible_share: NDArray[np.float32]
    ignore: NDArray[np.bool_]
    labels: tuple[str, ...]
    load_image: Callable[[], Image.Image]
    notes: Mapping[str, Any] = field(default_factory=dict)
    target: str = "person"

    def __post_init__(self) -> None:
        """Check shapes and values once, so that nothing downstream has to."""
        n = len(self.labels)
        for name, shape in (
            ("boxes", (n, 4)),
            ("visible_boxes", (n, 4)),
            ("visible_share", (n,)),
            ("ignore", (n,)),
        ):
            got = getattr(self, name).shape
            if got != shape:
                raise SceneError(f"scene {self.scene_id}: {name}: expected {shape}, got {got}")
        if not np.isfinite(self.boxes).all() or not np.isfinite(self.visible_boxes).all():
            raise SceneError(f"scene {self.scene_id}: boxes: expected finite numbers")
        flat = np.flatnonzero((self.boxes[:, 2:] <= self.boxes[:, :2]).any(axis=1))
        if flat.size:
            raise SceneError(
                f"scene {self.scene_id}: boxes[{flat[0]}]: expected x2 > x1 and y2 > y1, "
                f"got {self.boxes[flat[0]].tolist()}"
            )

    @cached_property
    def image(self) -> Image.Image:
        """The source image, RGB, loaded on first use.

        Raises:
            SceneError: when the loader returns another size or mode than the scene states.
        """
        image = self.load_image()
        if image.size != tuple(self.size) or image.mode != "RGB":
            raise SceneError(
                f"scene {self.scene_id}: image: expected RGB of {tuple(self.size)}, "
                f"got {image.mode} of {image.size}"
            )
        return image

    def overview(self, view: View) -> NDArray[np.uint8]:
        """Return the scene's overview; the last one is kept, as further episodes start with it.

        Args:
            view: the frames of the scene.

        Returns:
            RGB uint8 (h, w, 3) of ``view.view_size``, read-only.
        """
        kept = self._overviews
        if (shown := kept.get(view.view_size)) is None:
            shown = np.asarray(overview(self.image, view))
            kept.clear()
            kept[view.view_size] = shown
        return shown

    @cached_property
    def _overviews(self) -> dict[tuple[int, int], NDArray[np.uint8]]:
        """The last overview by its size, if there was one."""
        return {}

    @property
    def truth(self) -> NDArray[np.float32]:
        """Boxes of the non-ignored instances, (N', 4), scene frame."""
        return self.boxes[~self.ignore]

    @property
    def ignore_boxes(self) -> NDArray[np.float32]:
        """Boxes of the ignored instances and regions, (K, 4), scene frame."""
        return self.boxes[self.ignore]


@runtime_checkable
class SceneSource(Protocol):
    """An indexable collection of scenes; item i never depends on what was read before."""

    def __len__(self) -> int:
        """Return how many scenes there are (a very large number for endless sources)."""
        ...

    def __getitem__(self, index: int) -> Scene:
        """Return scene ``index``; raises IndexError outside ``range(len(self))``."""
        ...


def is_endless(source: SceneSource) -> bool:
    """Return whether a source is too long to be read as a whole."""
    return len(source) > ENDLESS
