import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dip_env.errors import ActionRefusedError
from dip_env.views import View, cut_crop, fit_size, overview

law = settings(deadline=None, max_examples=50)
sizes = st.tuples(st.integers(1, 8000), st.integers(1, 8000))
multiples = st.sampled_from([1, 14, 28, 32])
formats = st.sampled_from(["pixel", "norm1000"])


@st.composite
def views_with_boxes(draw):
    scene_size = draw(sizes)
    view = View.of(scene_size, draw(st.integers(64, 1500)), draw(multiples), draw(formats))
    unit = st.floats(0, 1)
    corners = draw(st.lists(st.tuples(unit, unit, unit, unit), max_size=5))
    return view, np.array(corners).reshape(-1, 4) * (scene_size * 2)


def random_image(width, height, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels), pixels


@pytest.mark.parametrize(
    ("size", "long_side", "multiple", "expected"),
    [
        ((1280, 960), 448, 32, (448, 320)),  # 336 px lies between 320 and 352; ties go to even
        ((960, 1280), 448, 32, (320, 448)),
        ((1280, 960), 448, 28, (448, 336)),
        ((1280, 960), 460, 32, (448, 320)),  # the long side rounds down
        ((5000, 10), 448, 32, (448, 32)),  # never under one multiple
        ((1, 1), 224, 32, (224, 224)),
    ],
)
def test_sizes_worked_by_hand(size, long_side, multiple, expected):
    assert fit_size(size, long_side, multiple) == expected


@law
@given(sizes, st.integers(32, 2000), multiples)
def test_a_fitted_size_is_of_multiples_and_nearest_to_the_aspect(size, long_side, multiple):
    fitted = fit_size(size, long_side, multiple)
    assert all(side % multiple == 0 and side >= multiple for side in fitted)
    assert max(fitted) == long_side // multiple * multiple
    exact_short = max(fitted) * min(size) / max(size)
    assert abs(min(fitted) - max(exact_short, multiple)) <= multiple / 2 + 1e-9


@pytest.mark.parametrize(("size", "long_side"), [((10, 10), 31), ((0, 10), 64)])
def test_a_size_that_cannot_be_fitted_is_refused(size, long_side):
    with pytest.raises(ValueError, match="expected a positive size and a long side >= 32"):
        fit_size(size, long_side, 32)


def test_frames_worked_by_hand():
    # 1280x960 shown at 448x320: x shrinks by 0.35 and y by 1/3.
    pixel = View.of((1280, 960), 448, 32)
    np.testing.assert_allclose(pixel.scene_to_view([[0, 0, 640, 960]]), [[0, 0, 224, 320]])
    np.testing.assert_allclose(pixel.scene_to_text([[0, 0, 640, 960]]), [[0, 0, 224, 320]])
    norm = View.of((1280, 960), 448, 32, "norm1000")
    np.testing.assert_allclose(norm.scene_to_text([[0, 0, 640, 960]]), [[0, 0, 500, 1000]])
    np.testing.assert_allclose(norm.text_to_view([[0, 0, 500, 1000]]), [[0, 0, 224, 320]])
    assert pixel.text_size == (448, 320) and norm.text_size == (1000, 1000)


@law
@given(views_with_boxes())
def test_every_round_trip_returns_the_box(view_and_boxes):
    view, boxes = view_and_boxes
    in_view, in_text = view.scene_to_view(boxes), view.scene_to_text(boxes)
    np.testing.assert_allclose(view.view_to_scene(in_view), boxes, atol=1e-6)
    np.testing.assert_allclose(view.text_to_scene(in_text), boxes, atol=1e-6)
    np.testing.assert_allclose(view.text_to_view(in_text), in_view, atol=1e-6)


@law
@given(views_with_boxes())
def test_printed_integers_are_off_by_at_most_half_a_unit(view_and_boxes):
    view, boxes = view_and_boxes
    back = view.text_to_scene(np.round(view.scene_to_text(boxes)))
    unit = np.divide(view.scene_size, view.text_size)
    assert (np.abs(back - boxes) <= np.tile(unit, 2) / 2 + 1e-6).all()


def test_the_overview_has_the_size_of_the_view():
    image, _ = random_image(320, 240)
    view = View.of(image.size, 128, 32)
    shown = overview(image, view)
    assert shown.size == view.view_size == (128, 96) and shown.mode == "RGB"


def test_a_crop_at_one_to_one_is_the_source_byte_for_byte():
    image, pixels = random_image(640, 480)
    view = View.of(image.size, 224, 32)
    crop = cut_crop(image, [100, 50, 324, 274], view, crop_size=224, multiple=32)
    np.testing.assert_array_equal(crop.image, pixels[50:274, 100:324])
    np.testing.assert_array_equal(crop.region, [100, 50, 324, 274])
    # 224 source pixels are 224 * 224/640 = 78.4 view pixels wide.
    assert crop.magnification == pytest.approx(224 / 78.4)


def test_a_crop_shows_detail_that_the_overview_has_lost():
    # Squares of one source pixel: grey in the overview, sharp in a crop enlarged three times.
    checkers = (np.indices((960, 1280)).sum(axis=0) % 2 * 255).astype(np.uint8)
    image = Image.fromarray(np.repeat(checkers[..., None], 3, axis=2))
    view = View.of(image.size, 256, 32)
    crop = cut_crop(image, [320, 320, 352, 352], view, crop_size=96, multiple=32)
    assert np.asarray(overview(image, view)).std() < 10
    middles = crop.image[1::3, 1::3, 0].astype(int)
    np.testing.assert_array_equal(middles > 127, checkers[320:352, 320:352] > 127)
    assert crop.image.std() > 50


def test_magnification_of_a_reduced_region_is_under_the_source_and_over_the_view():
    image, _ = random_image(1280, 960)
    view = View.of(image.size, 448, 32)
    crop = cut_crop(image, [0, 0, 640, 320], view, crop_size=224, multiple=32)
    # 640 source pixels are 224 view pixels, so the crop shows them at 1x.
    assert crop.image.shape == (128, 224, 3)  # 112 px, half way between multiples
    assert crop.magnification == pytest.approx(1.0)


def test_a_region_is_clipped_to_the_image():
    image, pixels = random_image(200, 100)
    view = View.of(image.size, 64, 32)
    crop = cut_crop(image, [-500, 36, 64, 900], view, crop_size=64, multiple=32)
    np.testing.assert_array_equal(crop.region, [0, 36, 64, 100])
    np.testing.assert_array_equal(crop.image, pixels[36:100, 0:64])


def test_a_sliver_is_grown_until_a_crop_can_show_it():
    image, _ = random_image(640, 480)
    view = View.of(image.size, 224, 32)
    # Crops are at most 224/32 = 7 to 1, so 350 pixels of width need 50 of height.
    crop = cut_crop(image, [100, 200, 450, 201], view, crop_size=224, multiple=32)
    np.testing.assert_allclose(crop.region, [100, 175.5, 450, 225.5])
    # At the border it grows inwards.
    crop = cut_crop(image, [100, 479, 450, 480], view, crop_size=224, multiple=32)
    np.testing.assert_allclose(crop.region, [100, 430, 450, 480])
    # A dot becomes two source pixels.
    crop = cut_crop(image, [10, 10, 10.5, 10.25], view, crop_size=224, multiple=32)
    np.testing.assert_allclose(crop.region, [9.25, 9.125, 11.25, 11.125])


@law
@given(
    st.tuples(st.integers(1, 400), st.integers(1, 400)),
    st.lists(st.floats(-0.5, 1.5), min_size=4, max_size=4),
    multiples,
)
def test_a_crop_is_inside_the_image_of_legal_size_and_keeps_its_aspect(size, corners, multiple):
    image = Image.new("RGB", size)
    view = View.of(size, 128, multiple)
    region = np.array(corners) * (size * 2)
    try:
        crop = cut_crop(image, region, view, 96, multiple)
    except ActionRefusedError:
        x1, y1, x2, y2 = np.clip(region, 0, size * 2)
        assert x2 <= x1 or y2 <= y1
        return
    height, width = crop.image.shape[:2]
    assert width % multiple == 0 == height % multiple
    assert max(width, height) == 96 // multiple * multiple
    x1, y1, x2, y2 = crop.region
    assert 0 <= x1 < x2 <= size[0] and 0 <= y1 < y2 <= size[1]
    assert min(x2 - x1, y2 - y1) >= min(2, *size) - 1e-9
    # The clipped region is always part of what is shown.
    low, high = np.clip(region[:2], 0, size), np.clip(region[2:], 0, size)
    assert (crop.region[:2] <= low + 1e-6).all() and (crop.region[2:] >= high - 1e-6).all()
    if min(size) >= 2 and max(size) <= min(size) * (96 // multiple):
        exact_short = max(width, height) * min(x2 - x1, y2 - y1) / max(x2 - x1, y2 - y1)
        assert abs(min(width, height) - exact_short) <= multiple / 2 + 1e-6


@pytest.mark.parametrize(
    "region",
    [
        [10, 10, 10, 50],
        [10, 10, 50, 10],
        [50, 50, 10, 10],
        [-50, 0, 0, 50],
        [200, 0, 300, 50],
        [0, 100, 50, 101],
        [0, 0, float("nan"), 50],
    ],
)
def test_a_region_without_area_in_the_image_is_refused(region):
    image, _ = random_image(200, 100)
    view = View.of(image.size, 64, 32)
    with pytest.raises(ActionRefusedError, match="inside the image of 200x100 pixels, got"):
        cut_crop(image, region, view, 64, 32)
