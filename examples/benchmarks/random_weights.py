"""Models with random weights for benchmarks: rollouts of an exact length, and a real model's shape.

Speed depends on shapes, not on what weights have learned, so no download is needed.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from dip_agents.models.tiny.model import build_tiny
from dip_agents.models.tiny.vocabulary import tiny_texts

NEVER = -30.0
"""Weight of banned tokens on the constant feature; the feature is at least some tenths there."""

TEXT_3B: dict[str, Any] = {
    "vocab_size": 151936,
    "hidden_size": 2048,
    "intermediate_size": 11008,
    "num_hidden_layers": 36,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32768,
}
VISION_3B: dict[str, Any] = {
    "depth": 32,
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "out_hidden_size": 2048,
    "window_size": 112,
    "fullatt_block_indexes": [7, 15, 23, 31],
}
TEXT_SMOKE: dict[str, Any] = TEXT_3B | {
    "vocab_size": 16384,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
VISION_SMOKE: dict[str, Any] = VISION_3B | {
    "depth": 2,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_heads": 2,
    "out_hidden_size": 64,
    "fullatt_block_indexes": [1],
}


def silence(model: Any, processor: Any) -> None:
    """Change random weights so that no special token is ever sampled, the end of turn included.

    One feature of the residual stream becomes constant: every word starts with the same 1 there,
    and no layer writes to it. The banned rows of the tied head have a large negative weight on it,
    all others the same positive one, which moves no probability between them.

    Args:
        model: Qwen-VL model with tied embeddings; changed in place.
        processor: its processor.
    """
    text = model.model.language_model
    tokenizer = processor.tokenizer
    weight = text.embed_tokens.weight
    with torch.no_grad():
        weight[:, 0] = 1.0
        weight[tokenizer.all_special_ids, 0] = NEVER
        weight[len(tokenizer) :, 0] = NEVER
        for layer in text.layers:
            layer.self_attn.o_proj.weight[0] = 0.0
            layer.mlp.down_proj.weight[0] = 0.0


def qwen2_5_vl(
    text: dict[str, Any], vision: dict[str, Any], device: torch.device, seed: int = 0
) -> tuple[Any, Any]:
    """Build a Qwen2.5-VL of any shape with random weights, and the tiny model's processor.

    The head may have more rows than the tokenizer has words; the rest is banned.

    Args:
        text: such as ``TEXT_3B``.
        vision: such as ``VISION_3B``.
        device: where the weights are made.
        seed: of the weights.

    Returns:
        Model (float32) and processor.
    """
    small, processor = build_tiny(tiny_texts(), family="qwen2_5_vl", size="micro")
    known = small.config
    ids = {
        name: getattr(known, name)
        for name in (
            "image_token_id",
            "video_token_id",
            "vision_start_token_id",
            "vision_end_token_id",
        )
    }
    head = text["hidden_size"] // text["num_attention_heads"]
    section = [head // 8, head * 3 // 16, head * 3 // 16]
    rope = {"rope_type": "default", "rope_theta": 1_000_000.0, "mrope_section": section}
    ends = {
        "bos_token_id": None,
        "eos_token_id": processor.tokenizer.eos_token_id,
        "pad_token_id": processor.tokenizer.pad_token_id,
    }
    config = Qwen2_5_VLConfig(
        text_config={**text, **ends, "rope_parameters": rope, "tie_word_embeddings": True},
        vision_config={**vision, "patch_size": 14, "spatial_merge_size": 2},
        tie_word_embeddings=True,
        **ids,
    )
    torch.manual_seed(seed)
    with device:
        model = Qwen2_5_VLForConditionalGeneration(config)
    silence(model, processor)
    return model.eval(), processor
