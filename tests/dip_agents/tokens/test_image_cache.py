import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dip_agents.tokens.buffer import EncodedImage
from dip_agents.tokens.image_cache import CACHE_BYTES, ImageCache


def picture(number, floats):
    patches = np.zeros((floats, 1), dtype=np.float32)
    pixels = np.zeros((1, 1, 3), dtype=np.uint8)
    return EncodedImage(patches, (1, 1, floats), 1, number.to_bytes(4), pixels)


def kept(cache, images):
    return [i for i, image in enumerate(images) if cache.get(image.key) is image]


def test_the_oldest_make_room_for_the_newest():
    cache, images = ImageCache(limit=40), [picture(i, 3) for i in range(4)]  # 12 bytes each
    for image in images[:3]:
        cache.add(image)
    assert (kept(cache, images), cache.size) == ([0, 1, 2], 36)
    cache.add(images[3])
    assert (kept(cache, images), cache.size) == ([1, 2, 3], 36)


def test_an_image_that_is_too_large_alone_is_kept_alone():
    cache, images = ImageCache(limit=40), [picture(0, 3), picture(1, 11), picture(2, 3)]
    cache.add(images[0])
    cache.add(images[1])
    assert (kept(cache, images), cache.size) == ([1], 44)
    cache.add(images[2])
    assert (kept(cache, images), cache.size) == ([2], 12)


@given(st.lists(st.integers(0, 30), min_size=1))
def test_what_is_kept_is_the_longest_newest_part_that_fits(sizes):
    cache, images = ImageCache(limit=100), [picture(i, size) for i, size in enumerate(sizes)]
    for image in images:
        cache.add(image)
    first = kept(cache, images)[0]
    assert kept(cache, images) == list(range(first, len(images)))
    assert cache.size == 4 * sum(sizes[first:])
    assert cache.size <= 100 or len(cache) == 1
    # Nothing went too early: when the last one went, there was no room for it.
    assert first == 0 or any(
        4 * sum(sizes[first - 1 : end]) > 100 for end in range(first, len(sizes) + 1)
    )


def test_a_chat_keeps_its_images_by_their_bytes(micro, generic_micro):
    for vlm in (micro(), generic_micro("llava")):
        assert isinstance(vlm.chat._images, ImageCache)
        assert vlm.chat._images.limit == CACHE_BYTES == 268_435_456
