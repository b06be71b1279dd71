from __future__ import annotations

import struct

import numpy as np
import pytest
from PIL import Image, features

from dip_env.errors import ConfigError, SceneError
from dip_env.scenes.readers.images import (
    DEFAULT_MAX_PIXELS,
    FORMATS,
    ImageHeader,
    ImageOptions,
    image_size,
    load_rgb,
    read_header,
)

pytestmark = pytest.mark.filterwarnings("error")

PLAIN = ImageOptions()


def ramp(kind):
    """Return 256 columns of numbers that rise, as 0 to 255 or over the range of the type."""
    step = {np.uint8: 1, np.uint16: 257, np.int32: 257, np.float32: 1 / 255}[kind]
    return np.tile(np.arange(256) * step, (4, 1)).astype(kind)


def save(path, image, orientation=None, **options):
    exif = Image.Exif()
    if orientation is not None:
        exif[274] = orientation
    image.save(path, exif=exif, **options)
    return path


def marked(size=(6, 4)):
    """Return a black image whose upper left quarter is white."""
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[: size[1] // 2, : size[0] // 2] = 255
    return Image.fromarray(pixels)


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_that_is_meant_is_read_whatever_its_name(tmp_path, name):
    if name == "WEBP" and not features.check("webp"):
        pytest.skip("Pillow without WebP")
    Image.new("RGB", (8, 6), (255, 255, 255)).save(tmp_path / "a.jpg", name)
    image = load_rgb(tmp_path / "a.jpg", (8, 6), PLAIN)
    assert (image.mode, image.size, image.getpixel((1, 1))) == ("RGB", (8, 6), (255, 255, 255))


@pytest.mark.parametrize("name", ["PPM", "TGA", "EPS", "ICO", "JPEG2000", "PCX", "SGI", "PDF"])
def test_other_formats_are_refused_whatever_their_name(tmp_path, name):
    Image.new("RGB", (32, 32)).save(tmp_path / "a.jpg", name)
    for read in (read_header, lambda path: load_rgb(path, (32, 32), PLAIN)):
        with pytest.raises(SceneError, match=r"a\.jpg: image cannot be read: expected one of JPEG"):
            read(tmp_path / "a.jpg")


def test_an_image_starts_no_other_program(tmp_path, monkeypatch):
    Image.new("RGB", (32, 32)).save(tmp_path / "a.jpg", "EPS")
    program = tmp_path / "gs"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SceneError, match=r"a\.jpg: image cannot be read"):
        load_rgb(tmp_path / "a.jpg", (32, 32), PLAIN)
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_16_bits_of_grey_keep_their_range(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    Image.fromarray(ramp(np.uint16)).save(path)
    pixels = np.asarray(load_rgb(path, (256, 4), PLAIN))
    assert np.array_equal(pixels, np.repeat(ramp(np.uint8)[..., None], 3, axis=2))


@pytest.mark.parametrize(("kind", "mode"), [(np.int32, "I"), (np.float32, "F")])
def test_numbers_of_32_bits_are_refused_with_mode_and_file(tmp_path, kind, mode):
    Image.fromarray(ramp(kind)).save(tmp_path / "a.tif")
    with pytest.raises(SceneError, match=rf"a\.tif: mode {mode}: expected 8 or 16 bits a channel"):
        load_rgb(tmp_path / "a.tif", (256, 4), PLAIN)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA"])
def test_modes_of_8_bits_come_out_as_rgb(tmp_path, mode):
    Image.new("RGB", (8, 6), (255, 255, 255)).convert(mode).save(tmp_path / "a.png")
    image = load_rgb(tmp_path / "a.png", (8, 6), PLAIN)
    assert image.getpixel((7, 5)) == (255, 255, 255)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["jpg", "png", "webp"])
def test_apply_turns_an_image_as_a_viewer_does(tmp_path, orientation, ending):
    path = save(tmp_path / f"a.{ending}", marked((64, 32)), orientation)
    options = ImageOptions(exif_rotation="apply")
    size = (32, 64) if orientation >= 5 else (64, 32)
    assert image_size(path, options) == size
    image = load_rgb(path, size, options)
    assert image.size == size
    # Where the upper left corner of the stored image goes to, by the EXIF standard.
    right, low = orientation in (2, 3, 6, 7), orientation in (3, 4, 7, 8)
    corner = (size[0] - 3 if right else 2, size[1] - 3 if low else 2)
    opposite = (2 if right else size[0] - 3, 2 if low else size[1] - 3)
    assert image.getpixel(corner)[0] > 200
    assert image.getpixel(opposite)[0] < 50


def test_an_image_without_annotated_size_that_exif_turns_is_refused_unless_told_how(tmp_path):
    path = save(tmp_path / "a.jpg", marked((64, 32)), 6)
    with pytest.raises(SceneError, match=r"a\.jpg: EXIF orientation 6: .*exif_rotation='ignore'"):
        image_size(path, PLAIN)
    ignore = ImageOptions(exif_rotation="ignore")
    assert image_size(path, ignore) == load_rgb(path, (64, 32), ignore).size == (64, 32)
    assert image_size(path, ImageOptions(exif_rotation="apply")) == (32, 64)


def test_an_annotated_size_of_the_upright_image_names_exif(tmp_path):
    path = save(tmp_path / "a.jpg", marked((64, 32)), 6)
    with pytest.raises(
        SceneError,
        match=r"a\.jpg: size: expected \(32, 64\) as annotated, got \(64, 32\), stored with EXIF "
        r"orientation 6; exif_rotation='apply' turns it upright",
    ):
        load_rgb(path, (32, 64), PLAIN)
    assert load_rgb(path, (32, 64), ImageOptions(exif_rotation="apply")).size == (32, 64)
    assert load_rgb(path, (64, 32), PLAIN).size == (64, 32)  # as the COCO tools


def test_a_tiff_to_be_turned_is_refused(tmp_path):
    path = save(tmp_path / "a.tif", marked((64, 32)), 6)
    for rotation in ("error", "ignore", "apply"):
        with pytest.raises(SceneError, match=r"a\.tif: expected a TIFF stored upright"):
            image_size(path, ImageOptions(exif_rotation=rotation))


@pytest.mark.parametrize("orientation", [0, 1, 9, 65535])
def test_orientations_that_say_nothing_are_upright(tmp_path, orientation):
    path = save(tmp_path / "a.jpg", marked((64, 32)), orientation)
    assert read_header(path) == ImageHeader((64, 32), 1)


def test_exif_data_nobody_can_read_leave_the_image_upright(tmp_path):
    marked((64, 32)).save(tmp_path / "a.jpg", exif=b"Exif\0\0" + b"\xff" * 40)
    assert read_header(tmp_path / "a.jpg") == ImageHeader((64, 32), 1)
    assert load_rgb(tmp_path / "a.jpg", (64, 32), PLAIN).size == (64, 32)


def test_whatever_pillow_raises_is_one_error_naming_the_file(tmp_path, monkeypatch):
    marked().save(tmp_path / "a.png")
    for error in (RuntimeError("odd"), IndexError("odd"), struct.error("odd"), MemoryError()):

        def convert(*_, error=error):
            raise error

        monkeypatch.setattr(Image.Image, "convert", convert)
        with pytest.raises(SceneError, match=r"a\.png: image cannot be read: ('odd|'MemoryErr)"):
            load_rgb(tmp_path / "a.png", (6, 4), PLAIN)


@pytest.mark.filterwarnings("ignore")  # Pillow's, of damaged files
@pytest.mark.parametrize("name", FORMATS)
def test_a_damaged_image_gives_an_image_or_one_error(tmp_path, name):
    rng = np.random.default_rng(0)
    path = tmp_path / "a.img"
    pixels = rng.integers(0, 256, (24, 32, 3), np.uint8)
    Image.fromarray(pixels).save(path, name)
    whole, refused = path.read_bytes(), 0
    for k in range(60):
        data = bytearray(whole if k % 3 else whole[: rng.integers(len(whole))])
        for at in rng.integers(0, min(len(data), 200), 4) if data else ():
            data[at] = rng.integers(256)
        path.write_bytes(data)
        try:
            load_rgb(path, image_size(path, PLAIN), PLAIN)
        except SceneError as error:
            refused += str(path) in str(error)
    assert refused


def test_a_file_that_is_missing_or_a_folder_is_named(tmp_path):
    for path in (tmp_path / "none.jpg", tmp_path):
        with pytest.raises(SceneError, match="image file is missing"):
            read_header(path)


def test_options_that_cannot_work_are_one_error():
    for value in (0, -1, True, "9", 1.5, None):
        with pytest.raises(ConfigError, match="max_pixels: expected an integer >= 1, got"):
            ImageOptions(max_pixels=value)
    for value in ("turn", None, ["apply"]):
        with pytest.raises(ConfigError, match="exif_rotation: expected one of error, ignore, ap"):
            ImageOptions(exif_rotation=value)
    assert ImageOptions().max_pixels == DEFAULT_MAX_PIXELS
