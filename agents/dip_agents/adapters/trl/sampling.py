"""Bans for sampling under TRL: placeholders of images and videos that were not shown.

TRL compares placeholders with features before it trains; where one is too many it silently drops
the images of the whole batch. With transformers it bans image placeholders, unless
``generation_kwargs`` name other tokens; it never bans those of videos, and with vLLM nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dip_agents.runtime.optional import require_extra
from dip_env.errors import ConfigError

require_extra("trl", "trl")
# It needs torch, which the extra brings, too.
from dip_agents.tokens.banned import BAN_BIAS, placeholder_ids

if TYPE_CHECKING:
    from trl import GRPOConfig


def banned_tokens(processor: Any, use_vllm: bool = False) -> dict[str, Any]:
    """Return the entries that ``GRPOConfig(generation_kwargs=...)`` must hold.

    Args:
        processor: of a Qwen-VL model.
        use_vllm: as in the same config; vLLM names the setting differently from transformers.

    Returns:
        ``suppress_tokens`` for transformers, ``logit_bias`` for vLLM; other entries may be added.
    """
    ids = placeholder_ids(processor)
    return {"logit_bias": dict.fromkeys(ids, BAN_BIAS)} if use_vllm else {"suppress_tokens": ids}


def check_banned(processor: Any, args: GRPOConfig) -> None:
    """Ensure that no placeholder can be sampled.

    Args:
        processor: of the model.
        args: of the trainer.

    Raises:
        ConfigError: when ``args.generation_kwargs`` allow one.
    """
    own = args.generation_kwargs or {}
    if args.use_vllm:
        biases = own.get("logit_bias") or {}
        # From a command line or a file the ids are text.
        banned = {int(token) for token, bias in biases.items() if bias <= BAN_BIAS}
    else:
        banned = set(own.get("suppress_tokens") or ())
    missing = [token for token in placeholder_ids(processor) if token not in banned]
    if missing:
        raise ConfigError(
            f"generation_kwargs: expected to ban the placeholders {missing}, or one that the "
            f"policy samples makes TRL train without images; got {own}. Write "
            f"GRPOConfig(generation_kwargs=banned_tokens(processor, use_vllm={args.use_vllm}), ...)"
        )
