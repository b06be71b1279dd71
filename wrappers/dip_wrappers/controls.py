"""Counterfactual controls: does a policy use what it sees, and does it matter where it looks?

Each function returns a ``Control``, for ``LookControl``, ``EpisodeGroup`` or an evaluation. Not
looking at all is no control but a rule, ``max_looks=0``. Grey and blur are pictures no policy has
met: where it does worse, it may be lost for words rather than for sight; ``crops_from_elsewhere``
shows it nothing unusual.
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
"""Of a picture that shows nothing: the middle of the range, which tells nothing of the scene."""
TRIES = 64
"""Places drawn for a crop from another place; the one that shares least with the asked one wins."""


def own_looks() -> Control:
    """Change nothing."""
    return Control("own looks")


def random_looks(seed: int = 0) -> Control:
    """Replace each region by one of the same size at a random place.

    Args:
        seed: of the places, which depend on it, the scene, the size and the number of regions
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
    """Look where somebody else would: at the true ambiguous people, when the oracle picks.

    Args:
        pick: from the scene with its truth and the frames to regions (R, 4), text frame, best
            first. A look takes the next of them, and begins anew after the last.
        name: of the control.
        as_asked: take as many regions as were asked for, each as large as was asked, around the
            middles of those picked, so that the places alone differ; otherwise up to
            ``max_regions`` as large as they were picked.

    Returns:
        The control.
    """

    def picked(regions: Boxes, episode: Episode, taken: int) -> Boxes:
        places = np.asarray(pick(episode.scene, episode.view), dtype=np.float64)
        if as_asked:
            # Whoever asks for more regions than were picked sees the first ones again.
            turn = (taken + np.arange(len(regions))) % len(places)
            return _moved(regions, places[turn], episode.view)
        first = taken if taken < len(places) else 0
        return places[first : first + episode.config.max_regions]

    return Control(name, regions=picked)


def _moved(regions: Boxes, places: Boxes, view: View) -> Boxes:
    """Move regions (R, 4) to the middles of places (R, 4), in the image and on whole numbers."""
    size = np.array(view.text_size, dtype=np.float64)
    sides = _sides_inside(regions, view)
    corner = np.round((places[:, :2] + places[:, 2:] - sides) / 2)
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
        factor: of both sides, above 0; what then lies outside the image is cut off.

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
    """Show grey in place of every crop."""
    return Control("crops blanked", crop=lambda crop, episode: _grey(crop.image))


def crops_from_elsewhere(seed: int = 0) -> Control:
    """Show in place of every crop another place of the same scene, at the same size.

    Args:
        seed: of the places, which depend on it, the scene and the region that was asked for.

    Returns:
        The control; where a region is so large that no place is free of it, the picture shows the
        one of 64 random places that shares least with it.
    """

    def elsewhere(crop: Crop, episode: Episode) -> Pixels:
        rng = _rng(seed, episode.scene, np.round(crop.region, 2).tobytes())
        sides = crop.region[2:] - crop.region[:2]
        room = np.maximum(np.array(episode.scene.size) - sides, 0.0)
        corner = rng.random((TRIES, 2)) * room
        places = np.concatenate([corner, np.minimum(corner + sides, episode.scene.size)], axis=1)
        place = places[np.argmin(box_intersection(places, crop.region[None])[:, 0])]
        height, width = crop.image.shape[:2]
        x1, y1, x2, y2 = place.tolist()
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
    """Take details from the overview and leave it as large as it is; crops stay sharp.

    It changes how much there is for a look to show, also for policies that know one size only.

    Args:
        side: pixels of the longest side of the picture that the overview is enlarged from.

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
    """Show grey in place of the overview and of every crop."""
    return Control(
        "no image",
        overview=lambda image, episode: _grey(image),
        crop=lambda crop, episode: _grey(crop.image),
    )


def _sides_inside(regions: Boxes, view: View) -> Boxes:
    """Return width and height of what regions (R, 4), text frame, show of the image, (R, 2)."""
    inside = clip_boxes(regions, view.text_size)
    return inside[:, 2:] - inside[:, :2]


def _grey(image: Pixels) -> Pixels:
    return np.full_like(image, GREY)


def _rng(seed: int, scene: Scene, what: bytes) -> np.random.Generator:
    """Return randomness that depends on seed, scene and use, and on no process."""
    return np.random.default_rng([seed, zlib.crc32(scene.scene_id.encode() + b"\0" + what)])
