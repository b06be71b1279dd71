"""Image files, read after a check of their header."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from PIL import Image, UnidentifiedImageError

from dip_env.checks import short
from dip_env.errors import ConfigError, SceneError

DEFAULT_MAX_PIXELS = 50_000_000

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
"""What image files may be, whatever their names say. Pillow would try all formats it knows, some of
which start another program (EPS runs Ghostscript) or break in their own ways."""

ExifRotation = Literal["error", "ignore", "apply"]
"""What to do with an image whose EXIF data tell a viewer to turn it."""

_UPRIGHT = 1
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns an image upright, by its EXIF orientation; from 5 on the sides are swapped."""
_ORIENTATION = 274


@dataclass(frozen=True)
class ImageOptions:
    """How the images of a data set are read.

    Args:
        max_pixels: larger images are refused before they are decoded.
        exif_rotation: what to do with an image whose EXIF data tell a viewer to turn it.
        suffixes: file name extensions to try.

    Raises:
        ConfigError: for a value that cannot work.
    """

    max_pixels: int = DEFAULT_MAX_PIXELS
    exif_rotation: ExifRotation = "error"
    suffixes: tuple[str, ...] = ("",)

    def __post_init__(self) -> None:
        """Check the values."""
        if type(self.max_pixels) is not int or self.max_pixels < 1:
            raise ConfigError(f"max_pixels: expected an integer >= 1, got {self.max_pixels!r}")
        if self.exif_rotation not in get_args(ExifRotation):
            expected = ", ".join(get_args(ExifRotation))
            raise ConfigError(
                f"exif_rotation: expected one of {expected}, got {self.exif_rotation!r}"
            )


@dataclass(frozen=True)
class ImageHeader:
    """What the header of an image file states.

    Args:
        size: (width, height) in pixels as stored.
        orientation: of EXIF, 1 to 8; 1 is upright.
    """

    size: tuple[int, int]
    orientation: int

    @property
    def upright_size(self) -> tuple[int, int]:
        """(width, height) once the image is turned upright."""
        return self.size[::-1] if self.orientation >= 5 else self.size


def image_files(folders: Sequence[Path], name: str, suffixes: Sequence[str]) -> list[Path]:
    """Return the image files of a name, one of each folder at most.

    Args:
        folders: where to look.
        name: of the image, with or without its extension. Backslashes, as Windows writes them,
            are read as slashes where no file has them in its name.
        suffixes: extensions to try, in order.

    Returns:
        The files that exist.
    """
    names = (name, name.replace("\\", "/")) if "\\" in name else (name,)
    found = []
    for folder in folders:
        paths = (folder / (written + suffix) for written in names for suffix in suffixes)
        found += [path for path in paths if path.is_file()][:1]
    return found


def find_image(folders: Sequence[Path], name: str, suffixes: Sequence[str] = ("",)) -> Path:
    """Return an image file, trying several folders and extensions.

    Args:
        folders: where to look.
        name: of the image, with or without its extension.
        suffixes: extensions to try, in order.

    Returns:
        The file.

    Raises:
        SceneError: when there is none, or one in each of two folders.
    """
    found = image_files(folders, name, suffixes)
    if len(found) > 1:
        two = f"{found[0].parent} and {found[1].parent}"
        raise SceneError(f"{name}: expected one image of this name, found it in {two}")
    if found:
        return found[0]
    there = [str(folder) for folder in folders if folder.is_dir()]
    tried = f" (or {', '.join(suffixes[1:])})" if suffixes[1:] else ""
    if there and len(folders) > 1:
        raise SceneError(f"{name}{suffixes[0]}{tried}: image file is missing in {', '.join(there)}")
    if there:
        raise SceneError(f"{folders[0] / (name + suffixes[0])}{tried}: image file is missing")
    expected = " or ".join(map(str, folders))
    raise SceneError(f"{expected}: image folder is missing; name another one with images=")


def read_header(path: Path) -> ImageHeader:
    """Read the header of an image.

    Args:
        path: the file.

    Returns:
        Size and orientation.

    Raises:
        SceneError: for a file that is missing or not an image.
    """
    with _opened(path) as image:
        return _header(path, image)


def image_size(path: Path, options: ImageOptions) -> tuple[int, int]:
    """Read the size of an image from its header, where no annotation states one.

    Args:
        path: the file.
        options: how it is read.

    Returns:
        (width, height) in pixels of what ``load_rgb`` returns.

    Raises:
        SceneError: for a file that is missing or not an image, and with ``exif_rotation="error"``
            for one that its EXIF data turn: its boxes may refer to either way.
    """
    header = read_header(path)
    if header.orientation != _UPRIGHT and options.exif_rotation == "error":
        raise SceneError(
            f"{path}: EXIF orientation {header.orientation}: expected an image stored upright, as "
            "no annotation tells which way its boxes refer to; exif_rotation='ignore' takes the "
            "image as it is stored, 'apply' turns it upright"
        )
    return header.upright_size if options.exif_rotation == "apply" else header.size


def load_rgb(path: Path, size: tuple[int, int], options: ImageOptions) -> Image.Image:
    """Read an image file after checking its header.

    Args:
        path: the file.
        size: (width, height) as annotated, pixels.
        options: how it is read.

    Returns:
        The decoded image, RGB; of 16 bits a channel the upper 8.

    Raises:
        SceneError: for a file that is missing, too large, of another size, cut short, or of
            numbers whose range is not known.
    """
    if size[0] * size[1] > options.max_pixels:
        raise SceneError(
            f"{path}: expected at most {options.max_pixels} pixels, got {size[0]}x{size[1]}"
        )
    with _opened(path) as image:
        header = _header(path, image)
        turn = _TURNS.get(header.orientation) if options.exif_rotation == "apply" else None
        _check_size(path, header, size, turned=turn is not None)
        rgb = _to_rgb(path, image)
        return rgb if turn is None else rgb.transpose(turn)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open an image; whatever goes wrong while it is open is one error."""
    try:
        if not path.is_file():
            raise SceneError(f"{path}: image file is missing; images= names another folder")
        with Image.open(path, formats=FORMATS) as image:
            yield image
    except SceneError:
        raise
    except UnidentifiedImageError:
        known = ", ".join(FORMATS)
        raise SceneError(f"{path}: image cannot be read: expected one of {known}") from None
    # For broken files Pillow raises anything: OSError, SyntaxError, ValueError, struct.error,
    # IndexError, MemoryError and others.
    except Exception as err:
        raise SceneError(f"{path}: image cannot be read: {short(str(err) or repr(err))}") from err


def _header(path: Path, image: Image.Image) -> ImageHeader:
    orientation = _orientation(image)
    if image.format == "TIFF" and orientation != _UPRIGHT:
        # Pillow turns these while it decodes them, in all but its oldest versions.
        raise SceneError(f"{path}: expected a TIFF stored upright, got one to be turned")
    return ImageHeader(image.size, orientation)


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, upright where none is stated."""
    if image.format == "PNG" and "exif" not in image.info:
        return _UPRIGHT  # asked further, Pillow would decode the whole image
    try:
        value = image.getexif().get(_ORIENTATION, _UPRIGHT)
    except Exception:  # Pillow raises anything here, too: EXIF data nobody can read state nothing
        return _UPRIGHT
    return value if value in _TURNS else _UPRIGHT


def _check_size(path: Path, header: ImageHeader, size: tuple[int, int], *, turned: bool) -> None:
    """Require that an image has the annotated size."""
    got = header.upright_size if turned else header.size
    if got == size:
        return
    hint = ""
    if not turned and header.orientation >= 5:
        hint = (
            f", stored with EXIF orientation {header.orientation}; "
            "exif_rotation='apply' turns it upright"
        )
    raise SceneError(f"{path}: size: expected {size} as annotated, got {got}{hint}")


def _to_rgb(path: Path, image: Image.Image) -> Image.Image:
    """Decode an image to 8 bits a channel."""
    if image.mode.startswith("I;16"):  # convert would clip at 255
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise SceneError(
            f"{path}: mode {image.mode}: expected 8 or 16 bits a channel, got 32 whose range is "
            "not known; convert the image to 8 bits"
        )
    return image.convert("RGB")
