import numpy as np
import pytest

from dip_agents.tokens.buffer import EncodedImage, PlaceholderError, TokenBuffer
from dip_agents.tokens.packing import pack
from dip_agents.tokens.positions import row_positions, token_positions

IMAGE = 99


def image(rows, columns):
    """An image of so many tokens a side, two patches each."""
    pixels = np.zeros((1, 1, 3), np.uint8)
    return EncodedImage((1, 2 * rows, 2 * columns), rows * columns, b"", pixels)


def test_an_image_takes_its_grid_and_text_goes_on_after_its_longer_side():
    places, after = token_positions([5, *[IMAGE] * 6, 6, 7], [image(2, 3)], IMAGE, 2, start=10)
    assert places.tolist() == [
        [10, 11, 11, 11, 11, 11, 11, 14, 15],
        [10, 11, 11, 11, 12, 12, 12, 14, 15],
        [10, 11, 12, 13, 11, 12, 13, 14, 15],
    ]
    assert after == 16


def test_images_side_by_side_keep_their_own_grids():
    places, after = token_positions([IMAGE] * 4, [image(2, 1), image(1, 2)], IMAGE, 2)
    assert places.tolist() == [[0, 0, 2, 2], [0, 1, 2, 2], [0, 0, 2, 3]]
    assert after == 4


def test_cutting_tokens_in_two_changes_no_position():
    ids, images = [1, *[IMAGE] * 6, 2, *[IMAGE] * 2, 3], [image(3, 2), image(1, 2)]
    whole, end = token_positions(ids, images, IMAGE, 2)
    first, middle = token_positions(ids[:8], images[:1], IMAGE, 2)
    second, last = token_positions(ids[8:], images[1:], IMAGE, 2, middle)
    np.testing.assert_array_equal(np.concatenate([first, second], axis=1), whole)
    assert last == end


@pytest.mark.parametrize("count", [1, 3])
def test_a_wrong_number_of_placeholders_is_named(count):
    with pytest.raises(PlaceholderError, match=f"expected 2 image placeholders, got {count}"):
        token_positions([IMAGE] * count, [image(1, 2)], IMAGE, 2)


def test_branches_go_on_where_their_own_prefix_ends():
    buffers = []
    for side, token in ((1, 5), (4, 6), (4, 7), (1, 8)):
        buffer = TokenBuffer(IMAGE)
        buffer.append_env([IMAGE] * side, [image(1, side)])
        buffer.append_policy([token, token, token], None)
        buffers.append(buffer)
    row = pack(buffers)
    # Roots of one and of four tokens; their branches begin at 1, 4, 4 and 1.
    times = row_positions(row, IMAGE, 2)[0]
    assert times.tolist() == [0, 0, 0, 0, 0, 1, 2, 4, 5, 4, 5, 1, 2]
