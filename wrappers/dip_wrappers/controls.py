"""Counterfactual controls: does a policy use what it sees, and does it matter where it looks?

Each function returns a ``Control``, for ``LookControl``, ``EpisodeGroup`` or an evaluation. Not
looking at all is no control but a rule, ``max_looks=0``. Grey and blurred images are outside the
training distribution of every policy, so a lower score may come from confusion rather than from
missing information; ``crops_from_elsewhere`` shows nothing unusual.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from dip_env.boxes import Boxes, box_intersection, clip_boxes
from dip_env.episode import Episode
from dip_env.errors import ConfigError
from dip_env.scenes.base import Scene
from dip_env.views import Crop, View
from dip_wrappers.controlled import Control, Pixels

GREY = 128
"""Value of a blank image: the middle of the range, independent of the scene."""
TRIES = 64
"""Regions drawn for a crop from another one; that with the least overlap is taken."""


def own_looks() -> Control:
    """Change nothing."""
    return Control("own looks")


def random_looks(seed: int = 0) -> Control:
    """Replace each region by one of the same size at a random position.

    Args:
        seed: of the positions, which depend on it, the scene, the size and the number of regions
            taken before, not on where the policy wanted to look.

    Returns:
        The control.
    """

    def anywhere(regions: Boxes, episode: Episode, taken: int) -> Boxes:
        rng = _rng(seed, episode.scene, taken.to_bytes(4, "little"))
        size = np.array(episode.view.text_size, dtype=np.float64)
        sides = _sides_inside(regions, episode.view)
        # On whole numbers, as most policies print them.
        corner = np.floor(rng.random(sides.shape) * (np.floor(size - sides) + 1))
        return np.concatenate([corner, corner + sides], axis=1)

    return Control("random looks", regions=anywhere)


def placed_looks(
    pick: Callable[[Scene, View], Any], name: str = "oracle looks", *, as_asked: bool = False
) -> Control:
    """Look at given regions, such as those that an oracle picks for the most ambiguous instances.

    Args:
        pick: from the annotated scene and the frames to regions (R, 4), text frame, best first. A
            look takes the next of them, and starts over after the last.
        name: of the control.
        as_asked: take as many regions as requested, each of the requested size, centred on those
            picked, so that only the positions differ; otherwise up to ``max_regions``, as large as
            they were picked.

    Returns:
        The control.
    """

    def picked(regions: Boxes, episode: Episode, taken: int) -> Boxes:
        targets = np.asarray(pick(episode.scene, episode.view), dtype=np.float64)
        if as_asked:
            # A look for more regions than were picked takes the first ones again.
            turn = (taken + np.arange(len(regions))) % len(targets)
            return _moved(regions, targets[turn], episode.view)
        first = taken if taken < len(targets) else 0
        return targets[first : first + episode.config.max_regions]

    return Control(name, regions=picked)


def _moved(regions: Boxes, targets: Boxes, view: View) -> Boxes:
    """Centre regions (R, 4) on targets (R, 4), inside the image and on whole numbers."""
    size = np.array(view.text_size, dtype=np.float64)
    sides = _sides_inside(regions, view)
    corner = np.round((targets[:, :2] + targets[:, 2:] - sides) / 2)
    corner = np.clip(corner, 0, np.maximum(np.floor(size - sides), 0))
    return np.concatenate([corner, corner + sides], axis=1)


def first_regions(k: int) -> Control:
    """Let every look show its first k regions only.

    Args:
        k: at least 1.

    Returns:
        The control.

    Raises:
        ConfigError: for a number under 1.
    """
    if k < 1:
        raise ConfigError(f"first_regions: expected at least 1, got {k!r}")
    name = "first region only" if k == 1 else f"first {k} regions only"
    return Control(name, regions=lambda regions, episode, taken: regions[:k])


def resized_looks(factor: float) -> Control:
    """Make every region larger or smaller around its middle.

    Args:
        factor: of both sides, above 0; the result is clipped to the image.

    Returns:
        The control.

    Raises:
        ConfigError: for a factor that is not above 0.
    """
    if not 0 < factor < float("inf"):
        raise ConfigError(f"resized_looks: expected a finite factor > 0, got {factor!r}")

    def resized(regions: Boxes, episode: Episode, taken: int) -> Boxes:
        middle, half = (regions[:, :2] + regions[:, 2:]) / 2, (regions[:, 2:] - regions[:, :2]) / 2
        grown = np.concatenate([middle - factor * half, middle + factor * half], axis=1)
        return clip_boxes(grown, episode.view.text_size)

    return Control(f"regions {factor:g}x as wide", regions=resized)


def blank_crops() -> Control:
    """Show grey instead of every crop."""
    return Control("crops blanked", crop=lambda crop, episode: _grey(crop.image))


def crops_from_elsewhere(seed: int = 0) -> Control:
    """Show instead of every crop another region of the same scene, of the same size.

    Args:
        seed: of the regions, which depend on it, the scene and the requested region.

    Returns:
        The control; of 64 random regions it shows the one that overlaps the requested region least.
    """

    def elsewhere(crop: Crop, episode: Episode) -> Pixels:
        rng = _rng(seed, episode.scene, np.round(crop.region, 2).tobytes())
        sides = crop.region[2:] - crop.region[:2]
        free = np.maximum(np.array(episode.scene.size) - sides, 0.0)
        corner = rng.random((TRIES, 2)) * free
        drawn = np.concatenate([corner, np.minimum(corner + sides, episode.scene.size)], axis=1)
        region = drawn[np.argmin(box_intersection(drawn, crop.region[None])[:, 0])]
        height, width = crop.image.shape[:2]
        x1, y1, x2, y2 = region.tolist()
        image = episode.scene.image
        return np.array(image.resize((width, height), Image.Resampling.BICUBIC, (x1, y1, x2, y2)))

    return Control("crops from another place", crop=elsewhere)


def blurred_overview(radius: float = 4.0) -> Control:
    """Blur the overview; crops stay sharp.

    Args:
        radius: standard deviation of the Gaussian, view pixels, above 0.

    Returns:
        The control.

    Raises:
        ConfigError: for a radius that is not above 0.
    """
    if not 0 < radius < float("inf"):
        raise ConfigError(f"blurred_overview: expected a finite radius > 0, got {radius!r}")

    def blurred(image: Pixels, episode: Episode) -> Pixels:
        return np.array(Image.fromarray(image).filter(ImageFilter.GaussianBlur(radius)))

    return Control("overview blurred", overview=blurred)


def coarse_overview(side: int) -> Control:
    """Remove details from the overview at unchanged size; crops stay sharp.

    It changes how much a look can add, also for policies that accept a single size only.

    Args:
        side: longest side in pixels of the image that the overview is enlarged from.

    Returns:
        The control; an overview without more pixels stays as it is.

    Raises:
        ConfigError: for a side under 1.
    """
    if side < 1:
        raise ConfigError(f"coarse_overview: expected a side of at least 1 pixel, got {side!r}")

    def coarse(image: Pixels, episode: Episode) -> Pixels:
        height, width = image.shape[:2]
        scale = side / max(height, width)
        if scale >= 1:
            return image
        few = (max(1, round(width * scale)), max(1, round(height * scale)))
        small = Image.fromarray(image).resize(few, Image.Resampling.BICUBIC)
        return np.array(small.resize((width, height), Image.Resampling.BICUBIC))

    return Control(f"overview of {side} pixels", overview=coarse)


def no_image() -> Control:
    """Show grey instead of the overview and of every crop."""
    return Control(
        "no image",
        overview=lambda image, episode: _grey(image),
        crop=lambda crop, episode: _grey(crop.image),
    )


def _sides_inside(regions: Boxes, view: View) -> Boxes:
    """Return width and height (R, 2) of the parts of regions (R, 4) inside the image."""
    inside = clip_boxes(regions, view.text_size)
    return inside[:, 2:] - inside[:, :2]


def _grey(image: Pixels) -> Pixels:
    return np.full_like(image, GREY)


def _rng(seed: int, scene: Scene, what: bytes) -> np.random.Generator:
    """Return a generator that depends on seed, scene and use only."""
    return np.random.default_rng([seed, zlib.crc32(scene.scene_id.encode() + b"\0" + what)])
