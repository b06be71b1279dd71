import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers import (
    CLIPImageProcessor,
    GotOcr2ImageProcessor,
    Idefics3ImageProcessor,
    LlavaImageProcessor,
)

from dip_agents.tokens.image_check import (
    _stretched,
    changed_settings,
    check_whole_image,
    suspects,
    whole_image_settings,
)
from dip_env.errors import ConfigError

CLIP = {"size": {"shortest_edge": 56}, "crop_size": {"height": 56, "width": 56}}


def through(processor, **settings):
    """A function from an image to the one picture that a transformers image processor makes."""

    def process(image):
        out = processor(images=[Image.fromarray(image)], return_tensors="pt", **settings)
        pixels = out["pixel_values"]
        return pixels.reshape(-1, *pixels.shape[-3:])[0].numpy()

    return process


def resized(image, size, box=None):
    """An image as float picture (3, H, W), stretched to ``size`` (H, W)."""
    out = Image.fromarray(image).resize(size[::-1], Image.Resampling.BICUBIC, box=box)
    return np.asarray(out, dtype=np.float32).transpose(2, 0, 1) / 127.5 - 1


def test_a_ramp_of_four_pixels_in_two_and_in_eight():
    # 4 pixels hold 0, 1/3, 2/3, 1. Two lie at 0.5 and 2.5 pixels; eight at -0.25, 0.25, 0.75, ...
    np.testing.assert_allclose(_stretched(4, 2), [0.5 / 3, 2.5 / 3])
    np.testing.assert_allclose(_stretched(4, 8)[:4], [0, 0.25 / 3, 0.75 / 3, 1.25 / 3])


sides = st.integers(24, 120)


@given(sides, sides, sides, sides)
def test_any_stretching_is_accepted(height, width, rows, columns):
    check_whole_image(lambda image: resized(image, (rows, columns)), (height, width), "")


@given(sides, sides, st.integers(0, 3))
def test_a_lost_eighth_on_any_side_is_noticed(height, width, side):
    box = [0, 0, width, height]
    box[side] += (width, height, -width, -height)[side] / 8
    with pytest.raises(ConfigError, match=f"expected the whole image of {width}x{height} pixels"):
        check_whole_image(lambda image: resized(image, (56, 56), box), (height, width), "")


@pytest.mark.parametrize(
    "change",
    [
        lambda picture: picture[:, :, ::-1],  # mirrored
        lambda picture: picture.transpose(0, 2, 1),  # turned
        lambda picture: np.pad(picture, [(0, 0), (4, 4), (0, 0)]),  # a border
        lambda picture: np.concatenate([picture, picture], 2),  # twice
    ],
)
def test_rearranged_pictures_are_noticed(change):
    with pytest.raises(ConfigError, match="a part of it or a border"):
        check_whole_image(lambda image: change(resized(image, (56, 56))), (56, 56), "")


@pytest.mark.parametrize(
    ("processor", "lost"),
    [
        (CLIPImageProcessor(**CLIP), "do_center_crop=True"),
        (LlavaImageProcessor(**CLIP, do_pad=True), "do_center_crop=True, do_pad=True"),
        (
            Idefics3ImageProcessor(size={"longest_edge": 112}, max_image_size={"longest_edge": 56}),
            "do_image_splitting=True",
        ),
        (
            GotOcr2ImageProcessor(size={"height": 56, "width": 56}, crop_to_patches=True),
            "crop_to_patches=True",
        ),
    ],
)
def test_the_settings_that_lose_something_are_named_and_turned_off(processor, lost):
    with pytest.raises(ConfigError, match=lost):
        check_whole_image(through(processor), (64, 96), suspects(processor, {}))
    settings = whole_image_settings(processor)
    assert changed_settings(processor, settings)
    if "do_pad" in lost:  # a border is a choice of the model's owner: refused, not changed
        with pytest.raises(ConfigError, match="settings that do so: do_pad=True"):
            check_whole_image(
                through(processor, **settings), (64, 96), suspects(processor, settings)
            )
    else:
        check_whole_image(through(processor, **settings), (64, 96), "")


def test_a_processor_that_stretches_is_left_as_it_is():
    plain = CLIPImageProcessor(size={"height": 56, "width": 56}, do_center_crop=False)
    assert whole_image_settings(plain) == {}
    assert changed_settings(plain, {}) == ""
    assert suspects(plain, {}) == "none of the settings known to do so is on"
    check_whole_image(through(plain), (32, 96), "")
