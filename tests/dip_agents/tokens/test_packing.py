import numpy as np
import pytest
import torch

from dip_agents.tokens.buffer import EncodedImage, TokenBuffer
from dip_agents.tokens.packing import (
    needed_length,
    pack,
    packed_tokens,
    prefix_key,
    prefix_length,
    whole_row,
)

IMAGE = 99


def image(key, tokens):
    return EncodedImage((1, 2, 2 * tokens), tokens, key, np.zeros((1, 1, 3), np.uint8))


def talk(prompt, *turns, images=()):
    """A buffer of a prompt, then policy tokens (lists) and environment tokens (tuples)."""
    buffer = TokenBuffer(IMAGE)
    buffer.append_env(prompt, images)
    for turn in turns:
        if isinstance(turn, tuple):
            buffer.append_env(turn)
        else:
            buffer.append_policy(turn, None)
    return buffer


def shapes(row):
    return [(piece.ids, piece.parent) for piece in row.pieces]


def test_a_prefix_of_several_is_kept_once_and_each_last_token_is_left_out():
    row = pack([talk([1, 2], [5, 6, 7]), talk([1, 2], [8, 6], (3,), [4, 4])])
    assert shapes(row) == [([1, 2], None), ([5, 6], 0), ([8, 6, 3, 4], 0)]
    # Row: 1 2 | 5 6 | 8 6 3 4. First tokens are drawn from the state of 2.
    assert row.deciding.tolist() == [1, 2, 3, 1, 4, 6, 7]


def test_members_in_any_order_go_to_their_own_prefix_and_a_single_one_stays_whole():
    row = pack([talk([1], [5, 5]), talk([2, 2], [6, 6]), talk([3], [7, 7]), talk([1], [8, 8])])
    assert shapes(row) == [
        ([1], None),
        ([2, 2, 6], None),
        ([3, 7], None),
        ([5], 0),
        ([8], 0),
    ]
    assert row.deciding.tolist() == [0, 6, 2, 3, 4, 5, 0, 7]


def test_a_branch_of_one_token_adds_nothing_to_its_prefix():
    row = pack([talk([1, 2], [5]), talk([1, 2], [6], (3, 3))])
    assert shapes(row) == [([1, 2], None)]
    assert row.deciding.tolist() == [1, 1]


def test_without_policy_tokens_there_is_nothing_to_run():
    row = pack([talk([1, 2]), talk([1, 2])])
    assert row.tokens == 0
    assert row.deciding.tolist() == []


def test_a_rollout_that_begins_with_a_policy_token_is_scored_from_the_second_on():
    buffer = talk([], [4, 5, 6])
    assert prefix_length(buffer) == 1
    assert pack([buffer]).deciding.tolist() == [0, 1]


def test_unshared_rows_repeat_the_prefix():
    buffers = [talk([1, 2], [5, 6]), talk([1, 2], [7, 8])]
    assert shapes(pack(buffers, share=False)) == [([1, 2, 5], None), ([1, 2, 7], None)]


def test_a_whole_row_keeps_every_token():
    assert shapes(whole_row([talk([1], [5], (2,))])) == [([1, 5, 2], None)]


def test_images_go_with_their_placeholders():
    overview, crop = image(b"o", 2), image(b"c", 1)
    buffers = []
    for token in (5, 6):
        buffer = talk([1, IMAGE, IMAGE], [token], images=[overview])
        buffer.append_env([IMAGE], [crop])
        buffer.append_policy([7], None)
        buffers.append(buffer)
    row = pack(buffers)
    assert [[i.key for i in piece.images] for piece in row.pieces] == [[b"o"], [b"c"], [b"c"]]


def test_equal_ids_with_another_image_are_another_prefix():
    first, second, again = (
        talk([1, IMAGE], [5, 5], images=[image(key, 1)]) for key in (b"a", b"b", b"a")
    )
    assert prefix_key(first) == prefix_key(again)
    assert prefix_key(first) != prefix_key(second)
    assert packed_tokens([first, second, again]) == 2 + 1 + 1 + 2 + 1


@pytest.mark.parametrize(
    ("mask", "prefix", "needed"),
    [([0, 0, 1, 1, 0], 2, 3), ([1, 0, 0], 0, 0), ([1, 1], 1, 1), ([], 0, 0), ([0, 1, 0, 1], 1, 3)],
)
def test_the_prefix_ends_at_the_first_scored_token_and_need_at_the_last(mask, prefix, needed):
    buffer = TokenBuffer(IMAGE, ids=[1] * len(mask), loss_mask=mask)
    assert (prefix_length(buffer), needed_length(buffer)) == (prefix, needed)


def test_slots_hold_every_token_once_and_the_mask_shows_prefix_and_past():
    row = pack(
        [talk([1, 2], [5, 6]), talk([1, 2], [7, 8, 9]), talk([3], [4, 4]), talk([3], [4, 4])]
    )
    layout = row.layout()
    assert (layout.roots, layout.branches, layout.prefix) == ((2, 2), (4, 2), 2)
    # Row: 1 2 | 3 | 5 | 7 8 | 4 | 4; padding repeats the last token of a piece.
    assert layout.slots.tolist() == [0, 1, 2, 2, 3, 3, 4, 5, 6, 6, 7, 7]
    assert layout.tokens.tolist() == [0, 1, 2, 4, 6, 7, 8, 10]
    assert layout.slots[layout.tokens].tolist() == list(range(8))
    assert layout.parents.tolist() == [0, 0, 1, 1]
    assert layout.mask[1, 0].tolist() == [[True, True, True, False], [True] * 4]
    assert layout.mask[2, 0].tolist() == [[True, False, True, False], [True, False, True, True]]


def test_prefixes_of_one_length_share_a_mask_and_rectangles_need_no_slots():
    buffers = [talk([p, p], [5, 6, m]) for p in (1, 2) for m in (7, 8)]
    layout = pack(buffers).layout()
    assert layout.mask.shape == (1, 1, 2, 4)
    assert layout.slots is None


def test_counting_tokens_agrees_with_laying_them_out():
    rng = np.random.default_rng(0)
    for _ in range(20):
        buffers = [
            talk([1] * rng.integers(1, 3), [5] * rng.integers(0, 4), (2,) * rng.integers(0, 2))
            for _ in range(rng.integers(1, 6))
        ]
        assert packed_tokens(buffers) == pack(buffers).tokens


def test_moving_a_layout_keeps_its_numbers():
    layout = pack([talk([1], [5, 6]), talk([1], [5, 6, 7])]).layout()
    moved = layout.to(torch.device("cpu"))
    assert moved.roots == layout.roots
    assert torch.equal(moved.tokens, layout.tokens)
