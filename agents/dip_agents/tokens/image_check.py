"""Whether an image processor gives a model the whole image, tested on what it returns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dip_env.errors import ConfigError

_TILING = ("do_image_splitting", "crop_to_patches", "do_pan_and_scan")
_SUSPECTS = (*_TILING, "do_center_crop", "do_pad", "image_grid_pinpoints")


def whole_image_settings(image_processor: Any) -> dict[str, Any]:
    """Return the keywords with which an image processor keeps the whole image in one picture.

    Tiles are turned off, and a centre crop becomes a resize to the size of the crop: that changes
    proportions but loses nothing, so that coordinates in the view are still valid in the picture.

    Args:
        image_processor: of transformers.

    Returns:
        Keywords for its call; only such that it knows.
    """
    settings: dict[str, Any] = {name: False for name in _TILING if hasattr(image_processor, name)}
    if getattr(image_processor, "do_center_crop", None):
        crop = image_processor.crop_size
        settings |= {
            "do_center_crop": False,
            "size": {"height": int(crop["height"]), "width": int(crop["width"])},
        }
    return settings


def changed_settings(image_processor: Any, settings: dict[str, Any]) -> str:
    """Return as text what ``whole_image_settings`` changes, "" for nothing."""
    return ", ".join(
        f"{name}={value}"
        for name, value in settings.items()
        if name == "size" or getattr(image_processor, name)
    )


def suspects(image_processor: Any, settings: dict[str, Any]) -> str:
    """Return as text the settings that may lose a part of an image, for messages."""
    active = [
        f"{name}={value}"
        for name in _SUSPECTS
        if (value := settings.get(name, getattr(image_processor, name, None)))
    ]
    return ", ".join(active) or "none of the settings known to do so is on"


def check_whole_image(
    process: Callable[[NDArray[np.uint8]], NDArray[np.float32]],
    size: tuple[int, int],
    suspected: str,
) -> None:
    """Refuse an image processor that crops, pads or rearranges images of some size.

    A ramp from left to right and from top to bottom goes in; what comes out must be the same ramps
    over the whole picture. Black and white images of the same size undo its normalisation.

    Args:
        process: image uint8 (h, w, 3) -> picture (3, H, W).
        size: (h, w) in pixels.
        suspected: settings to name in the message.

    Raises:
        ConfigError: when a position in the image is another position in the picture.
    """
    height, width = size
    ramp = np.zeros((height, width, 3), dtype=np.uint8)
    ramp[..., 0] = np.rint(np.linspace(0, 255, width))[None, :]
    ramp[..., 1] = np.rint(np.linspace(0, 255, height))[:, None]
    black, white, seen = (
        process(image).astype(np.float64)
        for image in (np.zeros_like(ramp), np.full_like(ramp, 255), ramp)
    )
    span = (white - black)[:2]
    whole = bool((np.abs(span) > 1e-6).all())
    if whole:
        across, down = (seen - black)[:2] / span
        rows, columns = across.shape
        errors = (
            np.abs(across - _stretched(width, columns)[None, :]).max() - _tolerance(width, columns),
            np.abs(down - _stretched(height, rows)[:, None]).max() - _tolerance(height, rows),
        )
        whole = max(errors) <= 0
    if not whole:
        raise ConfigError(
            f"image processor: expected the whole image of {width}x{height} pixels stretched over "
            f"one picture, got a part of it or a border around it; settings that do so: {suspected}"
        )


def _stretched(length: int, out: int) -> NDArray[np.float64]:
    """Return a ramp from 0 to 1 over ``length`` pixels as it looks in ``out`` pixels."""
    positions = (np.arange(out) + 0.5) * length / out - 0.5
    return positions.clip(0, length - 1) / max(1, length - 1)


def _tolerance(length: int, out: int) -> float:
    # Resampling at an edge may be off by half a pixel of the coarser side, rounding by 1 / 255.
    return 0.6 / min(length, out) + 0.01
