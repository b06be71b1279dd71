"""Which tokens a policy must never sample; independent of any sampler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from dip_agents.tokens.chat import ChatTokens

BAN_BIAS = -100.0
"""A bias that bans: the lowest vLLM takes; times e^-100 is nothing beside any token in float32."""


def banned_ids(chat: ChatTokens, rows: int) -> list[int]:
    """Return the ids that a model's head must not produce.

    Args:
        chat: names the special tokens and holds the tokenizer.
        rows: of the head, which may have more rows than the tokenizer has tokens.

    Returns:
        Every special token but the end of turn, and the rows without a token; sorted, below
        ``rows``.
    """
    special = {token for token in chat.banned_ids if token < rows}
    return sorted({*special, *range(len(chat.tokenizer), rows)})


def ban_mask(ids: Sequence[int], rows: int) -> Tensor:
    """Return what is added to logits: 0 for allowed tokens, -inf for banned ones, float32 (V,).

    Args:
        ids: the banned tokens, each below ``rows``.
        rows: V, rows of the head.
    """
    mask = torch.zeros(rows)
    mask[list(ids)] = -torch.inf
    return mask


def placeholder_ids(processor: Any) -> list[int]:
    """Return the ids that stand for a part of an image or of a video.

    Args:
        processor: of a Qwen-VL model.
    """
    return [int(processor.image_token_id), int(processor.video_token_id)]
