"""Image files, read after a check of their header."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from dip_env.errors import SceneError

DEFAULT_MAX_PIXELS = 50_000_000


def find_image(folder: Path, name: str, suffixes: Sequence[str] = ("",)) -> Path:
    """Return an image file, trying several extensions.

    Args:
        folder: folder of the images.
        name: of the image, with or without its extension.
        suffixes: extensions to try, in order.

    Returns:
        The first file that exists.

    Raises:
        SceneError: when none does.
    """
    for suffix in suffixes:
        path = folder / (name + suffix)
        if path.is_file():
            return path
    if not folder.is_dir():
        raise SceneError(f"{folder}: image folder is missing; name another one with images=")
    tried = f" (or {', '.join(suffixes[1:])})" if suffixes[1:] else ""
    raise SceneError(f"{folder / (name + suffixes[0])}{tried}: image file is missing")


def image_size(path: Path) -> tuple[int, int]:
    """Read the size of an image from its header.

    Args:
        path: the file.

    Returns:
        (width, height) in pixels; EXIF rotation is not applied, as in the COCO tools.

    Raises:
        SceneError: for a file that is missing or not an image.
    """
    try:
        with Image.open(path) as image:
            return image.size
    except FileNotFoundError:
        raise SceneError(f"{path}: image file is missing") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as err:
        raise SceneError(f"{path}: image cannot be read: {err}") from err


def load_rgb(path: Path, size: tuple[int, int], max_pixels: int) -> Image.Image:
    """Read an image file after checking its header.

    Args:
        path: the file.
        size: (width, height) as annotated, pixels.
        max_pixels: upper limit of width x height, checked before any pixel is decoded.

    Returns:
        The decoded image, RGB.

    Raises:
        SceneError: for a file that is missing, too large, of another size, or cut short.
    """
    if size[0] * size[1] > max_pixels:
        raise SceneError(f"{path}: expected at most {max_pixels} pixels, got {size[0]}x{size[1]}")
    try:
        with Image.open(path) as image:
            if image.size != size:
                raise SceneError(f"{path}: size: expected {size} as annotated, got {image.size}")
            return image.convert("RGB")
    except FileNotFoundError:
        raise SceneError(f"{path}: image file is missing") from None
    # Pillow reports broken files with OSError, SyntaxError (PNG) and ValueError; SceneError is one.
    except SceneError:
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as err:
        raise SceneError(f"{path}: image cannot be read: {err}") from err
