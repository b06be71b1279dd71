"""More views of the same scenes: mirrored and cropped."""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from dip_env.boxes import box_area, clip_boxes
from dip_env.checks import check_integer
from dip_env.errors import ConfigError
from dip_env.scenes.base import Scene, SceneSource

MIN_SHARE_LEFT = 0.4
"""Instances with a smaller share inside the window become ignored."""


class AugmentedScenes:
    """Several random views of each scene of a source; view 0 is the scene itself.

    Item ``i`` is view ``i // n`` of scene ``i % n`` and depends on the seed and i only.

    Args:
        source: the scenes.
        count: n, number of scenes to use, from the first on.
        views: views per scene.
        smallest: smallest side of a window as a share of the image's side.
        seed: of the views.

    Raises:
        ConfigError: for a number that cannot work.
    """

    def __init__(
        self,
        source: SceneSource,
        count: int,
        views: int,
        smallest: float = 0.65,
        seed: int = 0,
    ) -> None:
        """Store the settings."""
        if not 0 < smallest <= 1:
            raise ConfigError(f"smallest: expected a share in (0, 1], got {smallest!r}")
        self.source = source
        self.count = min(check_integer("count", count, least=0), len(source))
        self.views = check_integer("views", views, least=1)
        self.smallest, self.seed = smallest, seed

    def __len__(self) -> int:
        """Return scenes times views."""
        return self.count * self.views

    def __repr__(self) -> str:
        """Return the wrapped source and the settings of the views."""
        return (
            f"AugmentedScenes({self.source!r}, {self.count}, {self.views}, "
            f"smallest={self.smallest}, seed={self.seed})"
        )

    def __getitem__(self, index: int) -> Scene:
        """Return one view of one scene."""
        if not 0 <= index < len(self):
            raise IndexError(f"AugmentedScenes: expected 0..{len(self) - 1}, got {index}")
        view, number = divmod(index, self.count)
        scene = self.source[number]
        if view == 0:
            return scene
        rng = np.random.default_rng([self.seed, index])
        scale = rng.uniform(self.smallest, 1.0)
        width, height = (round(side * scale) for side in scene.size)
        left = int(rng.integers(scene.size[0] - width + 1))
        top = int(rng.integers(scene.size[1] - height + 1))
        window = (left, top, left + width, top + height)
        return window_scene(scene, window, mirror=bool(rng.integers(2)), suffix=f"/{view}")


def window_scene(
    scene: Scene, window: tuple[int, int, int, int], *, mirror: bool = False, suffix: str = ""
) -> Scene:
    """Return the part of a scene inside a window, with its ground truth.

    Args:
        scene: the scene.
        window: (left, top, right, bottom) in the scene frame, integers inside the image.
        mirror: flip left and right afterwards.
        suffix: appended to the scene's id.

    Returns:
        A scene of the window's size; people outside are left out, people with less than 40 % of
        their visible box inside are ignored.
    """
    left, top, right, bottom = window
    size = (right - left, bottom - top)
    shift = np.array([left, top, left, top], dtype=np.float32)
    boxes, visible = scene.boxes - shift, scene.visible_boxes - shift
    seen = np.asarray(clip_boxes(visible, size), dtype=np.float32)
    before = np.maximum(box_area(visible), 1e-6)
    left_over = box_area(seen) / before
    keep = (box_area(clip_boxes(boxes, size)) > 0) & (left_over > 0)
    if mirror:
        boxes, seen = _mirrored(boxes, size[0]), _mirrored(seen, size[0])
    return Scene(
        scene_id=scene.scene_id + suffix,
        size=size,
        boxes=boxes[keep],
        visible_boxes=seen[keep],
        visible_share=(scene.visible_share * left_over)[keep].astype(np.float32),
        ignore=(scene.ignore | (left_over < MIN_SHARE_LEFT))[keep],
        labels=tuple(label for label, k in zip(scene.labels, keep, strict=True) if k),
        load_image=partial(_cut, scene, window, mirror),
        # Views of a scene stay in one part of a hash split; its image id names another image, and
        # its lookalikes have other boxes.
        notes={
            **{k: v for k, v in scene.notes.items() if k not in ("image_id", "lookalikes")},
            "group": scene.notes.get("group", scene.scene_id),
        },
        target=scene.target,
    )


def _mirrored(boxes: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    return np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], axis=1)


def _cut(scene: Scene, window: tuple[int, int, int, int], mirror: bool) -> Image.Image:
    image = scene.image.crop(window)
    return ImageOps.mirror(image) if mirror else image
