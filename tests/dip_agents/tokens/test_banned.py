from types import SimpleNamespace

import torch

from dip_agents.tokens.banned import ban_mask, banned_ids, placeholder_ids

CHAT = SimpleNamespace(banned_ids=[1, 3, 9], tokenizer=range(5))
"""Five tokens; an id beyond the head is a special token that the model cannot produce."""


def test_special_tokens_and_rows_without_a_token_are_banned():
    assert banned_ids(CHAT, rows=7) == [1, 3, 5, 6]
    assert banned_ids(CHAT, rows=10) == [1, 3, 5, 6, 7, 8, 9]
    assert banned_ids(CHAT, rows=2) == [1]


def test_the_mask_bans_these_ids_and_no_others():
    assert ban_mask([1, 3], 5).tolist() == [0.0, -torch.inf, 0.0, -torch.inf, 0.0]
    assert ban_mask([], 2).tolist() == [0.0, 0.0]


def test_placeholders_are_those_of_images_and_videos():
    assert placeholder_ids(SimpleNamespace(image_token_id="4", video_token_id=2)) == [4, 2]
